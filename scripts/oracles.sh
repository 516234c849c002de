#!/usr/bin/env bash
# Makes .venv-oracles from constraints-oracles.txt, for the tests in tests/oracles. Called by `make oracles` and `make test`, after
# `make setup`, whose pip and build tools it uses. .venv-oracles/.complete is a copy of the constraints it was made from, and exists
# only while the environment is whole.
set -euo pipefail
cd "$(dirname "$0")/.."

if cmp --quiet constraints-oracles.txt .venv-oracles/.complete; then
    touch .venv-oracles/.complete
    exit
fi
echo "oracles: making .venv-oracles, about 0.7 GB, which takes about half a minute."
rm -rf .venv-oracles
.venv/bin/python -m venv --without-pip .venv-oracles
# --target: dm-acme is published as source only, and is built with the setuptools of .venv.
if ! .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-compile \
    --target .venv-oracles/lib/python3.11/site-packages --requirement constraints-oracles.txt; then
    rm -rf .venv-oracles
    echo "oracles: the packages of constraints-oracles.txt could not be installed from the package index (pip says why above): 'make test' needs them; put right what pip says and run 'make oracles' again." >&2
    exit 1
fi
cp constraints-oracles.txt .venv-oracles/.complete
