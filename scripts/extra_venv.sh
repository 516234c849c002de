#!/usr/bin/env bash
# Makes an environment beside .venv: .venv-oracles, .venv-s3 or .venv-peers, each from its constraints.
# Losses and statistics are tested against the first, and backups against the server in the second. `make bench-peers` needs the
# third. The argument is the name; pip and the build tools are those of `make setup`. .venv-NAME/.complete is a copy of the
# environment's constraints, and exists only while the environment is complete.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    oracles) size="0.7 GB, which takes about half a minute" again="'make test' needs them; put right what pip says and run 'make oracles' again" ;;
    s3) size="10 MB" again="'make test' needs them; put right what pip says and run 'make s3' again" ;;
    peers) size="2 GB, which takes about two minutes" again="put right what pip says and run 'make bench-peers' again" ;;
    *) echo "usage: scripts/extra_venv.sh oracles|s3|peers" >&2; exit 2 ;;
esac
environment=".venv-$1" constraints="constraints-$1.txt"

if cmp --quiet "$constraints" "$environment/.complete"; then
    touch "$environment/.complete"
    exit
fi
echo "$1: making $environment, about $size."
rm -rf "$environment"
.venv/bin/python -m venv --without-pip "$environment"
# --target: dm-acme is published only as source, and is built with the setuptools of .venv.
if ! .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-compile \
    --target "$environment/lib/python3.11/site-packages" --requirement "$constraints"; then
    rm -rf "$environment"
    echo "$1: the packages of $constraints could not be installed from the package index (pip says why above): $again." >&2
    exit 1
fi
cp "$constraints" "$environment/.complete"
