#!/usr/bin/env bash
# Makes a Debian 12 machine ready for `make image` and `make e2e`. It installs podman. If debian:bookworm-slim cannot be pulled,
# it makes an image of that name from Debian's archive (DEBIAN_MIRROR), so that the Dockerfile builds unchanged. Run it once, as
# root.
set -euo pipefail

mirror="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
security="${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}"
image="${1:-docker.io/library/debian:bookworm-slim}"

[[ "$(id -u)" -eq 0 ]] || {
    echo "container_host: this installs packages and makes a root file system: run it as root" >&2
    exit 1
}

install() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# aardvark-dns lets containers of one network find each other by name. netavark calls iptables, which Debian only recommends.
type -P podman runc iptables >/dev/null && [[ -x /usr/lib/podman/aardvark-dns ]] || install podman runc netavark aardvark-dns iptables

if podman image exists "$image" || podman pull --quiet "$image"; then
    echo "container_host: podman and $image are here"
    exit 0
fi
echo "container_host: $image cannot be pulled: making a stand-in from $mirror"
command -v debootstrap >/dev/null || install debootstrap
root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase bookworm "$root" "$mirror" >/dev/null
cat >"$root/etc/apt/sources.list" <<SOURCES
deb $mirror bookworm main
deb $mirror bookworm-updates main
deb $security bookworm-security main
SOURCES
# Leaves out what the slim image leaves out, also for packages that are installed later.
cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<'EXCLUDED'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
EXCLUDED
find "$root/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$root"/usr/share/{locale,man}/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log
tar --directory "$root" --create . | podman import --quiet --change 'CMD ["bash"]' - "$image"
echo "container_host: $image is a stand-in made with debootstrap"
