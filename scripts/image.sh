#!/usr/bin/env bash
# Builds both images and tries them as Kubernetes runs them. That means a user other than root, only /tmp writable, no network.
# CONTAINER names the tool (podman or docker), IMAGE_ARGS has more arguments for its `build`, LEARNER_TORCH_INDEX is the index
# for the learner's torch. A build with podman gets this machine's pip settings (scripts/pip_mounts.py). Called by `make image`.
set -euo pipefail
cd "$(dirname "$0")/.."

tool="${CONTAINER:-$(command -v podman || command -v docker || true)}"
[[ -n "$tool" ]] || {
    echo "image: neither podman nor docker is here: scripts/container_host.sh installs podman on Debian; or name another with CONTAINER=..." >&2
    exit 1
}
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
# The commit's time, not the present time, so that the same commit makes the same labels.
created="$(git log -1 --format=%cI 2>/dev/null || echo 1970-01-01T00:00:00Z)"
# Limits that every machine can set. The tools' defaults are too high on machines where root may not raise limits.
limits=(--ulimit nofile=4096:4096 --ulimit nproc=4096:4096)
build=("${limits[@]}" --network host --build-arg VERSION="$version" --build-arg REVISION="$revision" --build-arg CREATED="$created")
if [[ "$(basename "$tool")" == podman ]]; then
    python="$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)"
    mounts="$("$python" scripts/pip_mounts.py "$work/pip.conf")"
    mapfile -t -O "${#build[@]}" build < <(printf '%s' "$mounts")
fi
confined=(--rm --read-only --tmpfs /tmp --user 10001:10001 --cap-drop all --security-opt no-new-privileges --network none "${limits[@]}")

for target in cpu learner; do
    case "$target" in cpu) image="sbrl:$version" more=() ;; learner)
        image="sbrl-learner:$version"
        more=(${LEARNER_TORCH_INDEX:+--build-arg TORCH_INDEX="$LEARNER_TORCH_INDEX"})
        ;;
    esac
    echo "image: building $image"
    # shellcheck disable=SC2086  # IMAGE_ARGS holds several words
    "$tool" build --target "$target" --tag "$image" "${build[@]}" ${IMAGE_ARGS:-} "${more[@]}" .
    echo "image: trying $image"
    "$tool" run "${confined[@]}" "$image" --version
    "$tool" run "${confined[@]}" --entrypoint sh "$image" -c \
        'for name in pip gcc cc make strip; do ! command -v "$name" || { echo "image: $name is left in the image" >&2; exit 1; }; done'
    # Replay, actor and learner in one process: Reverb, TensorFlow and torch load and work.
    "$tool" run "${confined[@]}" "$image" train --serial --run-dir /tmp/run env.id=CartPole-v1 run.env_steps=300 \
        replay.min_size=100 replay.capacity=1000
    size="$("$tool" image inspect --format '{{.Size}}' "$image")"
    echo "image: $image works; $((size / 1000000)) MB"
done
