#!/usr/bin/env bash
# Puts prometheus and promtool into .venv/tools/bin if the machine has none. They come from the distribution's own package: apt
# downloads it, and dpkg unpacks it into our own folders. That needs no root and does not change the system. Called by
# `make test` and by the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=.venv/tools/bin
are_here() { type -P prometheus promtool >/dev/null || [[ -x $bin/prometheus && -x $bin/promtool ]]; }
fail() {
    echo "prometheus: the tests need prometheus and promtool, $1: install prometheus (Debian and Ubuntu: apt-get install prometheus; elsewhere https://prometheus.io/download) and run this again." >&2
    exit 1
}

if are_here; then exit; fi
type -P apt-get dpkg-deb >/dev/null || fail "and there is no apt here to fetch them with"
mkdir -p $bin
exec 9>.venv/.prometheus.lock
flock 9 # two test runs at once
if are_here; then exit; fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state,lists/partial,cache/archives/partial}
# apt reads the system's sources and keys, and writes only to our folders. Without root, it cannot switch to its own user.
apt=(apt-get --quiet=2 -o Dir::State="$work/state" -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root)
echo "prometheus: fetching the distribution's prometheus (about 30 MB) into $bin"
# An unreachable source may not be the one that has the package.
"${apt[@]}" update >"$work/log" 2>&1 || true
(cd "$work" && "${apt[@]}" download prometheus >>"$work/log" 2>&1) ||
    fail "which apt could not download ($(grep -m 1 '^E:' "$work/log" || tail -n 1 "$work/log"))"
dpkg-deb --extract "$work"/prometheus_*.deb "$work/unpacked"
mv "$work"/unpacked/usr/bin/{prometheus,promtool} $bin
