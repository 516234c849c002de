#!/usr/bin/env bash
# Makes .venv-s3 from constraints-s3.txt: an S3-compatible server (nanio), for the tests of backups. Called by `make s3` and
# `make test`, after `make setup`, whose pip it uses. .venv-s3/.complete is a copy of the constraints it was made from, and exists only
# while the environment is whole.
set -euo pipefail
cd "$(dirname "$0")/.."

if cmp --quiet constraints-s3.txt .venv-s3/.complete; then
    touch .venv-s3/.complete
    exit
fi
echo "s3: making .venv-s3, 10 MB."
rm -rf .venv-s3
.venv/bin/python -m venv --without-pip .venv-s3
if ! .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-compile \
    --target .venv-s3/lib/python3.11/site-packages --requirement constraints-s3.txt; then
    rm -rf .venv-s3
    echo "s3: the packages of constraints-s3.txt could not be installed from the package index (pip says why above): 'make test' needs them; put right what pip says and run 'make s3' again." >&2
    exit 1
fi
cp constraints-s3.txt .venv-s3/.complete
