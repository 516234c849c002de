#!/usr/bin/env bash
# Builds the wheel, installs it alone in a fresh environment, and trains with it. The environment has the extra `train`, but no
# constraints and no checkout. It trains CartPole from an empty folder. Called by `make wheel`; 2 GB of packages, a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

rm -rf build dist
.venv/bin/python -m build --wheel
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
echo "wheel: installing dist/sbrl-*.whl[train] into a fresh environment"
for wheel in dist/sbrl-*.whl; do "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "${wheel}[train]"; done
wheel_run() (cd "$folder" && env -u PYTHONPATH "$folder/venv/bin/sbrl" "$@")
wheel_run train --preset classic-qr-dqn --run-dir run run.env_steps=3000 evaluator.episodes=3
grep -q '"complete": true' "$folder/run/summary.json"
echo "wheel: dist/$(basename dist/sbrl-*.whl) installs by itself and trains"
