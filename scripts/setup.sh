#!/usr/bin/env bash
# Makes or updates .venv from constraints.txt. Called by `make setup`; PYTHON names the interpreter.
# .venv/.complete exists only while the environment is complete, so an interrupted setup starts again from scratch.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $1" >&2
    exit 1
}

platform="$(uname -s) $(uname -m)"
# getconf knows this name only on glibc. The wheels do not run on musl (Alpine).
if [[ "$platform" != "Linux x86_64" ]] || ! getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
    fail "SBRL runs on Linux x86_64 with glibc, this is $platform: dm-reverb has no wheel elsewhere; use a Debian 12 machine or container."
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
    fail "Python 3.11 is needed and '$PYTHON' is not one: install it (Debian 12: apt-get install python3.11 python3.11-venv) or run 'make setup PYTHON=/path/to/python3.11'."
fi
if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    fail "'$PYTHON' has no venv module: install it (Debian 12: apt-get install python3.11-venv) and run 'make setup' again."
fi

[[ -e .venv/.complete ]] || rm -rf .venv
rm -f .venv/.complete
if [[ ! -d .venv ]]; then
    echo "setup: making .venv and installing about 2 GB of packages; the first time takes about 3 minutes."
    "$PYTHON" -m venv .venv
else
    echo "setup: updating .venv."
fi
.venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable '.[train,report,tune,dev,minatar]'
touch .venv/.complete
echo "setup: done; the command line is .venv/bin/sbrl"
