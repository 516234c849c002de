#!/usr/bin/env bash
# Runs make in a fresh clone on a bare Debian 12, to prove that it needs nothing else. The machine is a root file system made by
# debootstrap, with only the packages of README's apt line, a /dev/shm as small as in containers, and a user without any rights.
#
#   scripts/bare_machine.sh [--root] [--again] [ARGUMENT OF MAKE...]      without arguments: setup test
#
# --root: runs make as root. --again: reuses the last clone, brought up to date, with its .venv.
# The host's pip settings (scripts/pip_mounts.py) and proxies apply there too. Run it as root on a machine with debootstrap,
# which uses the mirror DEBIAN_MIRROR. Everything is in build/bare: the machine (4 GB) and the output (output.txt).
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "bare_machine: $1" >&2
    exit 1
}

folder="$PWD/build/bare" user=sbrl again=false
while [[ "${1:-}" == --* ]]; do
    case "$1" in --root) user=root ;; --again) again=true ;; *) fail "unknown option $1: there are --root and --again" ;; esac
    shift
done
(($#)) || set -- setup test
[[ "$(id -u)" -eq 0 ]] || fail "this makes a root file system and mounts into it: run it as root"
type -P debootstrap git unshare >/dev/null || fail "debootstrap, git and unshare are needed: apt-get install debootstrap git util-linux"

base="$folder/base" machine="$folder/machine"
if [[ ! -d "$base" ]]; then
    read -ra packages < <(sed -n 's/.*`apt-get install \([^`]*\)`.*/\1/p' README.md)
    echo "bare_machine: making a Debian 12 with ${packages[*]} (what that prints is in $folder/making.txt)"
    rm -rf "$base.new"
    mkdir -p "$folder"
    {
        debootstrap --variant=minbase bookworm "$base.new" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
        cp --dereference /etc/resolv.conf "$base.new/etc/resolv.conf"
        chroot "$base.new" apt-get update
        DEBIAN_FRONTEND=noninteractive chroot "$base.new" apt-get install -y --no-install-recommends "${packages[@]}"
        chroot "$base.new" useradd --create-home sbrl
        echo "127.0.0.1 localhost $(hostname)" >"$base.new/etc/hosts" # as every installer and container tool does
    } >"$folder/making.txt" 2>&1
    rm -rf "$base.new"/var/lib/apt/lists/* "$base.new"/var/cache/apt/*
    mv "$base.new" "$base"
fi
home="$([[ "$user" == root ]] && echo /root || echo /home/sbrl)"
clone="$machine$home/sbrl"
if ! $again; then
    rm -rf "$machine"
    cp --archive --reflink=auto "$base" "$machine"
    git clone --quiet --no-hardlinks . "$clone"
else
    [[ -d "$clone" ]] || fail "there is no clone of $user's in $machine: leave out --again"
    git=(git -c safe.directory="$clone" -C "$clone")
    "${git[@]}" fetch --quiet origin HEAD
    "${git[@]}" reset --quiet --hard FETCH_HEAD
fi
chroot "$machine" chown -R "$user:$user" "$home/sbrl"
python="$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)"
"$python" scripts/pip_mounts.py "$folder/pip.conf" >"$folder/volumes"

# In separate mount and process namespaces, so that nothing stays mounted or keeps running when it ends. Args: make's.
inside() {
    mount --bind "$machine" "$machine" # a root is a mount point: else nothing inside can have mounts of its own
    mount -t proc proc "$machine/proc"
    mount --rbind /sys "$machine/sys"
    mount -t tmpfs -o mode=755 tmpfs "$machine/dev"
    for device in null zero full random urandom tty; do
        touch "$machine/dev/$device"
        mount --bind "/dev/$device" "$machine/dev/$device"
    done
    mkdir "$machine"/dev/{pts,shm}
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$machine/dev/pts"
    mount -t tmpfs -o mode=1777,size=64m tmpfs "$machine/dev/shm"
    ln -s pts/ptmx "$machine/dev/ptmx"
    ln -s /proc/self/fd "$machine/dev/fd"
    while IFS=: read -r source target _; do
        if [[ -d "$source" ]]; then mkdir -p "$machine$target"; else mkdir -p "$machine${target%/*}" && touch "$machine$target"; fi
        mount --bind "$source" "$machine$target"
        mount -o remount,bind,ro "$machine$target"
    done < <(sed 's/^--volume=//' "$folder/volumes")
    variables=(HOME="$home" USER="$user" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    [[ ! -s "$folder/volumes" ]] || variables+=(PIP_CONFIG_FILE=/dev/pip/pip.conf)
    for name in http_proxy https_proxy no_proxy; do [[ -z "${!name:-}" ]] || variables+=("$name=${!name}"); done
    exec chroot --userspec="$user:$user" "$machine" /usr/bin/env -i "${variables[@]}" make -C "$home/sbrl" "$@"
}

export -f inside
export folder machine home user
echo "bare_machine: make $* as $user, $(git describe --always --dirty)"
unshare --mount --pid --ipc --fork --kill-child bash -euo pipefail -c 'inside "$@"' inside "$@" </dev/null 2>&1 | tee "$folder/output.txt"
