"""A stand-in for a Kubernetes API server, over real HTTP: it answers discovery, and reads of the given objects.

`helm template --dry-run=server` needs this for the chart's `lookup`. No object is validated, made or changed. It knows
VolumeSnapshots if there is one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KINDS = {
    "v1": ["ConfigMap", "Secret", "Service", "ServiceAccount", "PersistentVolumeClaim", "Pod"],
    "apps/v1": ["Deployment", "StatefulSet"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "policy/v1": ["PodDisruptionBudget"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
    "batch/v1": ["CronJob"],
}
SNAPSHOTS = {"snapshot.storage.k8s.io/v1": ["VolumeSnapshot"]}


def plural(kind: str) -> str:
    return f"{kind.lower().removesuffix('y')}ies" if kind.endswith("y") else f"{kind.lower()}s"


def resources(group_version: str, kinds: Sequence[str]) -> dict[str, Any]:
    listed = [{"name": plural(kind), "kind": kind, "namespaced": True, "verbs": ["get", "list"]} for kind in kinds]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed}


def groups(known: Iterable[str]) -> dict[str, Any]:
    versions = [
        (name.partition("/")[0], {"groupVersion": name, "version": name.partition("/")[2]}) for name in known if "/" in name
    ]
    listed = [{"name": group, "versions": [version], "preferredVersion": version} for group, version in versions]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def answers(objects: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The answer for every path that has one."""
    known = KINDS | (SNAPSHOTS if any(manifest["apiVersion"] in SNAPSHOTS for manifest in objects) else {})
    found: dict[str, dict[str, Any]] = {
        "/version": {"major": "1", "minor": "36", "gitVersion": "v1.36.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": groups(known),
        "/api/v1": resources("v1", KINDS["v1"]),
    }
    found |= {f"/apis/{name}": resources(name, kinds) for name, kinds in known.items() if "/" in name}
    for manifest in objects:
        version, metadata = manifest["apiVersion"], manifest["metadata"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        found[f"{root}/namespaces/{metadata['namespace']}/{plural(manifest['kind'])}/{metadata['name']}"] = manifest
    return found


@contextmanager
def api_server(objects: Sequence[dict[str, Any]], directory: Path) -> Iterator[Path]:
    """Serves on loopback; yields a kubeconfig that leads there."""
    known = answers(objects)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = known.get(self.path.partition("?")[0])
            reason = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(found or reason).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kubeconfig = directory / "kubeconfig"
    cluster = {"name": "stand-in", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "stand-in", "context": {"cluster": "stand-in", "user": "nobody"}}
    user = {"name": "nobody", "user": {}}
    kubeconfig.write_text(
        json.dumps({"clusters": [cluster], "contexts": [context], "users": [user], "current-context": "stand-in"}),
        encoding="utf-8",
    )
    try:
        yield kubeconfig
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
