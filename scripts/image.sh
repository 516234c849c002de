#!/usr/bin/env bash
# Builds both images and tries them as Kubernetes runs them: another user than root, nothing writable but /tmp, no network.
# CONTAINER names the tool (podman or docker), IMAGE_ARGS more arguments of its `build`. Called by `make image`.
set -euo pipefail
cd "$(dirname "$0")/.."

tool="${CONTAINER:-$(command -v podman || command -v docker || true)}"
[[ -n "$tool" ]] || {
    echo "image: neither podman nor docker is here: install one, or name another with CONTAINER=..." >&2
    exit 1
}
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
confined=(--rm --read-only --tmpfs /tmp --user 10001:10001 --cap-drop all --security-opt no-new-privileges --network none)

for target in cpu learner; do
    case "$target" in cpu) image="sbrl:$version" ;; learner) image="sbrl-learner:$version" ;; esac
    echo "image: building $image"
    # shellcheck disable=SC2086  # IMAGE_ARGS holds several words
    "$tool" build --target "$target" --tag "$image" --build-arg VERSION="$version" --build-arg REVISION="$revision" \
        ${IMAGE_ARGS:-} .
    echo "image: trying $image"
    "$tool" run "${confined[@]}" "$image" --version
    "$tool" run "${confined[@]}" --entrypoint sh "$image" -c \
        'for name in pip gcc cc make; do ! command -v "$name" || { echo "image: $name is left in the image" >&2; exit 1; }; done'
    # Replay, actor and learner in one process: Reverb, TensorFlow and torch load and work.
    "$tool" run "${confined[@]}" "$image" train --serial --run-dir /tmp/run env.id=CartPole-v1 run.env_steps=300 \
        replay.min_size=100 replay.capacity=1000
    size="$("$tool" image inspect --format '{{.Size}}' "$image")"
    echo "image: $image works; $((size / 1000000)) MB"
done
