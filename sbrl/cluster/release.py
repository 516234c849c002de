"""Finds a release of the chart from a laptop: by labels, and through its coordinator's pod."""

from __future__ import annotations

import argparse
import base64
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sbrl import config as configs
from sbrl.cluster.kube import REQUEST_SECONDS, ApiNotFound, Cluster, api_errors
from sbrl.config import Config
from sbrl.errors import RunError, UsageError
from sbrl.rpc.credentials import CA_FILE, SERVER_NAME, TOKEN_FILE, Credentials

INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"


class Release(NamedTuple):
    """A release, and the Deployment of its actors."""

    name: str
    actors: str


def add_release_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--release", metavar="NAME", help="the Helm release (default: the only one in the namespace)")


def find_release(cluster: Cluster, name: str | None) -> Release:
    """The release of this name, or the only release if there is no name.

    Raises:
        UsageError: there is no such release, or there are several.
    """
    with api_errors("list", "deployments", cluster.namespace):
        found = cluster.apps.list_namespaced_deployment(
            cluster.namespace, label_selector=f"{COMPONENT}=actor,{INSTANCE}", _request_timeout=REQUEST_SECONDS
        )
    releases = {str(one.metadata.labels[INSTANCE]): str(one.metadata.name) for one in found.items}
    where = f"namespace {cluster.namespace} of context {cluster.context}"
    if name is None and len(releases) == 1:
        name = next(iter(releases))
    if name in releases:
        return Release(name, releases[name])
    names = ", ".join(sorted(releases))
    if not releases:
        raise UsageError(f"no release of the chart in {where}: name another namespace with -n, or a context with --context")
    if name is None:
        raise UsageError(f"{len(releases)} releases in {where}: choose one with --release: {names}")
    raise UsageError(f"no release {name!r} in {where}; releases: {names}")


def pods(cluster: Cluster, release: str) -> list[Any]:
    """The release's pods (V1Pod) that have a role, by role and name."""
    with api_errors("list", "pods", cluster.namespace):
        found = cluster.core.list_namespaced_pod(
            cluster.namespace, label_selector=f"{INSTANCE}={release},{COMPONENT}", _request_timeout=REQUEST_SECONDS
        )
    return sorted(found.items, key=lambda pod: (role(pod), str(pod.metadata.name)))


def current(found: Iterable[Any]) -> list[Any]:
    """The pods that should work: without finished test pods and ended pods that have been replaced."""
    return [pod for pod in found if pod.status.phase not in ("Succeeded", "Failed")]


def role(pod: Any) -> str:
    return str(pod.metadata.labels[COMPONENT])


def coordinator_pod(cluster: Cluster, release: str) -> Any:
    """The coordinator's running pod.

    Raises:
        RunError: there is none.
    """
    candidates = [pod for pod in pods(cluster, release) if role(pod) == "coordinator"]
    running = [pod for pod in candidates if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None]
    if not running:
        phases = ", ".join(f"{pod.metadata.name} is {pod.status.phase}" for pod in candidates) or "it has no pod"
        raise RunError(f"the coordinator of release {release} does not run: {phases}")
    return running[0]


def run_config(cluster: Cluster, pod: Any) -> Config:
    """The run's config, from the ConfigMap that a role's pod mounts.

    Raises:
        RunError: it cannot be found or read.
        UsageError: it is from another version of sbrl.
    """
    content = mounted_file(cluster, pod, _argument(pod, "--config"))
    with tempfile.TemporaryDirectory(prefix="sbrl-") as folder:
        copy = Path(folder) / "run.yaml"
        copy.write_bytes(content)
        return configs.load(copy)


def run_credentials(cluster: Cluster, pod: Any) -> Credentials:
    """The credentials of the run's clients, from the Secrets that a role's pod mounts.

    Raises:
        RunError: they cannot be read.
    """
    environment = {item.name: item.value for item in pod.spec.containers[0].env or () if item.value}
    files = {name: mounted_file(cluster, pod, environment[name]) for name in (TOKEN_FILE, CA_FILE) if name in environment}
    return Credentials(
        token=files[TOKEN_FILE].decode().strip() if TOKEN_FILE in files else None,
        authority=files.get(CA_FILE),
        server_name=environment.get(SERVER_NAME),
    )


def mounted_file(cluster: Cluster, pod: Any, path: str) -> bytes:
    """The content of a file that a pod's first container mounts from a ConfigMap or a Secret, read through the API.

    Raises:
        RunError: it comes from another source, or cannot be read.
    """
    mount, relative = _mount_of(pod, path)
    volume = next(volume for volume in pod.spec.volumes if volume.name == mount.name)
    for source in (volume.projected.sources or ()) if volume.projected is not None else (volume,):
        for kind, reference in (("configmaps", source.config_map), ("secrets", source.secret)):
            if reference is None:
                continue
            key = _key(reference.items, relative)
            # A Secret that is a whole volume has its name in another field.
            name = reference.secret_name if hasattr(reference, "secret_name") else reference.name
            content = None if key is None else _read(cluster, kind, name, key)
            if content is not None:
                return content
    raise RunError(f"{path} of pod {pod.metadata.name} comes from no ConfigMap or Secret that can be read")


def _argument(pod: Any, option: str) -> str:
    """An option's value on the command line of a pod's first container."""
    words = [*(pod.spec.containers[0].command or ()), *(pod.spec.containers[0].args or ())]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option and following:
            return str(following)
        if word.startswith(f"{option}="):
            return str(word.partition("=")[2])
    raise RunError(f"pod {pod.metadata.name} is started without {option}: it is not of this version's chart")


def _mount_of(pod: Any, path: str) -> tuple[Any, str]:
    """The mount that contains a path, and the path within its volume."""
    wanted = PurePosixPath(path)
    for mount in pod.spec.containers[0].volume_mounts or ():
        place = PurePosixPath(mount.mount_path)
        if wanted == place and mount.sub_path:
            return mount, str(mount.sub_path)
        if place in wanted.parents:
            return mount, str(PurePosixPath(mount.sub_path or "") / wanted.relative_to(place))
    raise RunError(f"pod {pod.metadata.name} mounts nothing at {path}: it is not of this version's chart")


def _key(items: Iterable[Any] | None, relative: str) -> str | None:
    """The key that a volume shows as the file `relative`."""
    if not items:
        return relative
    return next((str(item.key) for item in items if item.path == relative), None)


def _read(cluster: Cluster, kind: str, name: str, key: str) -> bytes | None:
    """One key of a ConfigMap or a Secret; None if it does not exist."""
    read = cluster.core.read_namespaced_config_map if kind == "configmaps" else cluster.core.read_namespaced_secret
    try:
        with api_errors("get", f"{kind} {name}", cluster.namespace):
            value = (read(name, cluster.namespace, _request_timeout=REQUEST_SECONDS).data or {}).get(key)
    except ApiNotFound:
        return None
    if value is None:
        return None
    return base64.b64decode(value) if kind == "secrets" else str(value).encode()
