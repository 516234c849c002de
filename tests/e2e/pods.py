"""Reads pods from a rendered chart as Kubernetes does: names, labels, environment, files, users.

Pure: nothing is started here. A field that this module does not understand is an error, so that nothing is left out silently.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Manifest = dict[str, Any]
Objects = Mapping[tuple[str, str], Manifest]  # by kind and name

# Fields of a pod's and a container's spec that this module or tests/e2e/cluster.py carries out.
POD_FIELDS = {"automountServiceAccountToken", "containers", "restartPolicy", "securityContext", "serviceAccountName", "volumes"}
POD_FIELDS |= {"enableServiceLinks", "terminationGracePeriodSeconds"}
POD_FIELDS |= {"topologySpreadConstraints", "affinity"}  # there is one node
POD_FIELDS |= {"initContainers"}
CONTAINER_FIELDS = {"name", "image", "imagePullPolicy", "command", "args", "env", "ports", "resources", "securityContext"}
CONTAINER_FIELDS |= {"volumeMounts", "startupProbe", "livenessProbe", "readinessProbe", "lifecycle"}
POD_SECURITY = {"runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy", "seccompProfile"}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class File(NamedTuple):
    """A file of a ConfigMap or a Secret."""

    path: str
    content: bytes
    mode: int


class Volume(NamedTuple):
    """A volume's mount path and content: files, nothing (an emptyDir), or a claim."""

    mount_path: str
    read_only: bool
    files: tuple[File, ...] = ()
    claim: str = ""


class Pod(NamedTuple):
    """One pod, with everything needed to start its container."""

    name: str
    labels: dict[str, str]
    image: str
    command: list[str]  # empty: the image's entry point
    args: list[str]
    environment: dict[str, str]
    volumes: list[Volume]
    user: int
    group: int
    fs_group: int
    memory_bytes: int  # 0: no limit
    cpu_shares: int
    grace_seconds: int
    pre_stop: list[str]
    health_port: int  # 0: no probe
    host_names: tuple[str, ...]  # names under which others find it
    before: Pod | None = None  # its init container, which must succeed first


def pod_of(objects: Objects, workload: str, ordinal: int = 0) -> Pod:
    """The pod with this ordinal of a StatefulSet or Deployment, of a CronJob's Job, or the pod with this name.

    Deployments give their pods random names; here they are numbered too.
    """
    if ("CronJob", workload) in objects:
        template = objects["CronJob", workload]["spec"]["jobTemplate"]["spec"]["template"]
        job = f"{workload}-{ordinal}"
        labels = {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": job}
        return make_pod(objects, job, labels, template["spec"], {}, "")
    for kind in ("StatefulSet", "Deployment"):
        if (kind, workload) in objects:
            spec = objects[kind, workload]["spec"]
            template = spec["template"]
            name = f"{workload}-{ordinal}"
            labels = dict(template["metadata"]["labels"])
            if kind == "StatefulSet":
                labels |= {"apps.kubernetes.io/pod-index": str(ordinal), "statefulset.kubernetes.io/pod-name": name}
            claims = {claim["metadata"]["name"]: f"{claim['metadata']['name']}-{name}" for claim in claims_of(spec)}
            return make_pod(objects, name, labels, template["spec"], claims, spec.get("serviceName", ""))
    manifest = objects["Pod", workload]
    return make_pod(objects, workload, manifest["metadata"]["labels"], manifest["spec"], {}, "")


def claims_of(spec: Manifest) -> list[Manifest]:
    """A StatefulSet's volume claim templates."""
    return list(spec.get("volumeClaimTemplates", []))


def make_pod(
    objects: Objects, name: str, labels: dict[str, str], spec: Manifest, claims: Mapping[str, str], service: str
) -> Pod:
    """Reads one pod's spec. `claims` are its volume claims by volume name; `service` is the one that names the pod."""
    refuse_unknown(f"{name}'s pod", spec, POD_FIELDS)
    named = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    }
    claims = {**claims, **named}
    (container,) = spec["containers"]
    pod = make_container(objects, name, labels, spec, container, claims)
    pod = pod._replace(host_names=tuple(host_names(objects, name, labels, service)))
    for first in spec.get("initContainers", []):
        pod = pod._replace(
            before=make_container(objects, name, labels, spec, first, claims)._replace(name=f"{name}-{first['name']}")
        )
    return pod


def make_container(
    objects: Objects, name: str, labels: dict[str, str], spec: Manifest, container: Manifest, claims: Mapping[str, str]
) -> Pod:
    """Reads one container of a pod's spec."""
    refuse_unknown(f"{name}'s container", container, CONTAINER_FIELDS)
    security = spec["securityContext"]
    refuse_unknown(f"{name}'s securityContext", security, POD_SECURITY)
    assert container["securityContext"] == CONTAINER_SECURITY, f"{name}: {container['securityContext']}"
    assert security["runAsNonRoot"] is True, name
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
    assert spec["automountServiceAccountToken"] is False, f"{name}: there is no Kubernetes API here"
    environment: dict[str, str] = {}
    for entry in container.get("env", []):
        environment[entry["name"]] = expand(value_of(entry, name, labels), environment)
    contents = {volume["name"]: content(objects, volume) for volume in spec["volumes"]}
    volumes = [
        Volume(
            mount["mountPath"],
            mount.get("readOnly", False),
            contents.get(mount["name"], ()),
            claims.get(mount["name"], ""),
        )
        for mount in container["volumeMounts"]
    ]
    resources = container["resources"]
    return Pod(
        name=name,
        labels=labels,
        image=container["image"],
        command=[expand(word, environment) for word in container.get("command", [])],
        args=[expand(word, environment) for word in container.get("args", [])],
        environment=environment,
        volumes=volumes,
        user=security["runAsUser"],
        group=security["runAsGroup"],
        fs_group=security["fsGroup"],
        memory_bytes=int(quantity(resources.get("limits", {}).get("memory", "0"))),
        cpu_shares=max(2, int(1024 * quantity(resources.get("requests", {}).get("cpu", "0")))),
        grace_seconds=spec.get("terminationGracePeriodSeconds", 30),
        pre_stop=container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", []),
        health_port=container["readinessProbe"]["grpc"]["port"] if "readinessProbe" in container else 0,
        host_names=(),
    )


def refuse_unknown(what: str, spec: Manifest, known: set[str]) -> None:
    unknown = set(spec) - known
    assert not unknown, f"{what} says {', '.join(sorted(unknown))}, which this stand-in for a kubelet does not carry out"


def value_of(entry: Manifest, name: str, labels: Mapping[str, str]) -> str:
    """An environment variable's value, from the source in the manifest."""
    if "valueFrom" not in entry:
        return str(entry.get("value", ""))
    path = entry["valueFrom"]["fieldRef"]["fieldPath"]
    label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
    if label:
        return labels[label[1]]
    assert path == "metadata.name", f"{name}: fieldPath {path}"
    return name


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replaces $(NAME) like a kubelet: unknown names stay, $$ becomes $."""

    def replace(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environment.get(found[1], found[0])

    return re.sub(r"\$\$|\$\((\w+)\)", replace, text)


def content(objects: Objects, volume: Manifest) -> tuple[File, ...]:
    """The files of a ConfigMap or a Secret; none for an emptyDir."""
    if "configMap" in volume:
        source = volume["configMap"]
        data = {key: text.encode() for key, text in objects["ConfigMap", source["name"]]["data"].items()}
    elif "secret" in volume:
        source = volume["secret"]
        data = {key: base64.b64decode(text) for key, text in objects["Secret", source["secretName"]]["data"].items()}
    else:
        assert {"emptyDir", "persistentVolumeClaim"} & set(volume), volume
        return ()
    mode = source.get("defaultMode", 0o644)
    paths = {item["key"]: item["path"] for item in source["items"]} if "items" in source else {key: key for key in data}
    return tuple(File(path, data[key], mode) for key, path in paths.items())


def host_names(objects: Objects, name: str, labels: Mapping[str, str], service: str) -> Iterator[str]:
    """A pod's DNS names: those of Services that select it, and its own under its StatefulSet's headless Service."""
    for (kind, of_service), manifest in objects.items():
        if kind != "Service" or not manifest["spec"]["selector"].items() <= labels.items():
            continue
        for domain in domains(objects):
            full = f"{of_service}.{manifest['metadata']['namespace']}.svc.{domain}"
            yield full
            if of_service == service and manifest["spec"].get("clusterIP") == "None":
                yield f"{name}.{full}"


def domains(objects: Objects) -> set[str]:
    """The cluster's domain, from the addresses in the run's config."""
    (run,) = (manifest["data"]["run.yaml"] for (kind, name), manifest in objects.items() if name.endswith("-run"))
    return set(re.findall(r"\.svc\.([-a-z0-9.]+):\d+", run))


UNITS = {"": 1.0, "m": 0.001, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "k": 1e3, "M": 1e6, "G": 1e9}


def quantity(text: object) -> float:
    """Kubernetes' numbers with units, such as 250m and 512Mi."""
    found = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(text))
    assert found, f"not a quantity: {text}"
    return float(found[1]) * UNITS[found[2]]
