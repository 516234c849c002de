#!/usr/bin/env bash
# Makes .venv-peers from constraints-peers.txt, for `make bench-peers`, after `make setup`, whose pip it uses. .venv-peers/.complete is
# a copy of the constraints it was made from, and exists only while the environment is whole.
set -euo pipefail
cd "$(dirname "$0")/.."

if cmp --quiet constraints-peers.txt .venv-peers/.complete; then
    touch .venv-peers/.complete
    exit
fi
echo "peers: making .venv-peers, about 2 GB, which takes about two minutes."
rm -rf .venv-peers
.venv/bin/python -m venv --without-pip .venv-peers
if ! .venv/bin/python -m pip --python .venv-peers/bin/python install --quiet --quiet --disable-pip-version-check --no-deps \
    --no-compile --requirement constraints-peers.txt; then
    rm -rf .venv-peers
    echo "peers: the packages of constraints-peers.txt could not be installed from the package index (pip says why above): put right what pip says and run 'make bench-peers' again." >&2
    exit 1
fi
cp constraints-peers.txt .venv-peers/.complete
