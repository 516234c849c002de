"""Prints arguments for `podman build`, one per line, that give a container this machine's pip settings.

On a machine behind a package mirror, pip is configured for the mirror (`pip config list`). The container gets the same settings
in a file where the Dockerfile makes pip look. Beside it, read-only, it gets the files and folders that they name: a folder of
wheels, an index on disk, a bundle of certificates. If pip has no settings, nothing is printed.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

# From the weakest to the strongest, in pip's own order: [global], [install], ... of its files, then environment variables.
SECTIONS = ("global", "install", "download", ":env:")
MOUNTED = "/dev/pip"  # /dev is in the container's memory, so no mount point stays in the image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the container's pip.conf is written to")
    arguments = parser.parse_args()
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = parse(listed.stdout)
    if not settings:
        return
    volumes: list[Path] = []
    config = RawConfigParser()
    config["global"] = {key: moved(value, volumes) for key, value in settings.items()}
    with arguments.file.open("w", encoding="utf-8") as file:
        config.write(file)
    print(f"--volume={arguments.file.resolve()}:{MOUNTED}/pip.conf:ro")
    for number, path in enumerate(volumes):
        print(f"--volume={path}:{MOUNTED}/{number}:ro")


def parse(listed: str) -> dict[str, str]:
    """The settings in the output of `pip config list`, such as: global.find-links='/wheels'."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found:
            found[section][key] = ast.literal_eval(value)
    return {key: value for section in SECTIONS for key, value in found[section].items()}


def moved(value: str, volumes: list[Path]) -> str:
    """A setting for use in the container. Adds the paths on this machine that it names to `volumes`."""
    words = []
    for word in value.split():
        url = urlsplit(word)
        on_disk = url.scheme == "file"
        path = Path(url2pathname(url.path)) if on_disk else Path(word)
        if (on_disk or not url.scheme) and path.is_absolute() and path.exists():
            # Links in an index on disk point to a folder beside it.
            source = path.parent if on_disk else path
            if source not in volumes:
                volumes.append(source)
            word = f"{MOUNTED}/{volumes.index(source)}"
            if on_disk:
                word = f"file://{word}/{path.name}"
        words.append(word)
    return " ".join(words)


if __name__ == "__main__":
    main()
