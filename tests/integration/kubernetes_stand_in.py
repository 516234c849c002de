"""A stand-in for the Kubernetes API server: real HTTP and WebSockets, and the few resources that the controller uses.

Like the real one, it has resource versions and conflicts, the scale subresource with field ownership, role-based access (with
the rules of a Role), label selectors, the time formats of leases and events, and port forwarding (v4.channel.k8s.io). It has no
other resources, no watches, no controllers behind it, and no admission.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE = "rl"
ADMIN = "admin-token"
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
_PATH = re.compile(r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v\d)/namespaces/(?P<namespace>[^/]+)/(?P<rest>.+)")
_KINDS = {
    ("apps", "deployments"): "Deployment",
    ("batch", "jobs"): "Job",
    ("", "pods"): "Pod",
    ("", "events"): "Event",
    ("", "configmaps"): "ConfigMap",
    ("", "secrets"): "Secret",
    ("coordination.k8s.io", "leases"): "Lease",
    ("autoscaling", "horizontalpodautoscalers"): "HorizontalPodAutoscaler",
    ("snapshot.storage.k8s.io", "volumesnapshots"): "VolumeSnapshot",
}


class Call(NamedTuple):
    """One request, as access rules name it."""

    verb: str
    resource: str  # with its subresource: deployments/scale
    name: str
    body: Any = None

    @property
    def writes(self) -> bool:
        return self.verb not in ("get", "list")


class Refused(Exception):
    """An answer other than 2xx."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class ApiStandIn:
    """Serves on a free loopback port until `close`. A test may change everything in it at any time."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.rules: dict[str, Sequence[Mapping[str, Sequence[str]]] | None] = {ADMIN: None}  # by token; None allows all
        self.before: Callable[[Call], None] = lambda call: None  # called first; an exception from it is the answer
        self.ports: dict[str, int] = {}  # by pod: its port on this machine
        self._objects: dict[tuple[str, str], dict[str, Any]] = {}  # by resource and name
        self._version = 0
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stand_in": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, path: Path, token: str = ADMIN) -> Path:
        """Writes a kubeconfig for this server."""
        tree = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "stand-in", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "stand-in", "user": "user", "namespace": NAMESPACE}}],
        }
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return path

    def put(self, resource: str, name: str, **parts: Any) -> dict[str, Any]:
        """Creates or replaces an object. `labels`, `managed_fields` and `created` go into its metadata, all else to the top."""
        group = next(group for group, plural in _KINDS if plural == resource)
        with self._lock:
            self._version += 1
            metadata = {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"uid-of-{name}",
                "resourceVersion": str(self._version),
                "creationTimestamp": parts.pop("created", "2026-01-01T00:00:00Z"),
                "labels": parts.pop("labels", {}),
                "managedFields": parts.pop("managed_fields", []),
            }
            stored = {"kind": _KINDS[group, resource], "metadata": metadata, **parts}
            if resource == "deployments":  # the client requires fields that every real one has
                stored["spec"] = {"selector": {"matchLabels": {}}, "template": {}, **stored["spec"]}
            self._objects[resource, name] = stored
            return stored

    def get(self, resource: str, name: str) -> dict[str, Any]:
        with self._lock:
            return deepcopy(self._objects[resource, name])

    def drop(self, resource: str, name: str) -> None:
        with self._lock:
            del self._objects[resource, name]

    def all(self, resource: str) -> list[dict[str, Any]]:
        with self._lock:
            return [deepcopy(stored) for (kind, _), stored in self._objects.items() if kind == resource]

    def touch(self, resource: str, name: str, **spec: Any) -> None:
        """Like someone else's write: a new resource version, and new values in the spec if given."""
        with self._lock:
            stored = self._objects[resource, name]
            self._version += 1
            stored["metadata"]["resourceVersion"] = str(self._version)
            stored["spec"] = {**stored["spec"], **spec}

    def writes(self) -> list[Call]:
        return [call for call in self.calls if call.writes]

    def handle(self, call: Call, token: str, query: Mapping[str, list[str]], content_type: str) -> dict[str, Any]:
        """Carries out one request.

        Raises:
            Refused: if a real server would refuse it.
        """
        self.before(call)
        self.authorize(call, token)
        with self._lock:
            self.calls.append(call)
            resource, _, subresource = call.resource.partition("/")
            if call.verb == "list":
                items = [one for one in self.all(resource) if _selected(one, query)]
                return {"kind": "List", "metadata": {}, "items": items}
            if call.verb == "create":
                return self._create(resource, call.body)
            if (resource, call.name) not in self._objects:
                raise Refused(404, "NotFound", f'{resource} "{call.name}" not found')
            if call.verb == "delete":
                self.drop(resource, call.name)
                return {"kind": "Status", "status": "Success"}
            stored = self._objects[resource, call.name]
            if call.verb == "patch" and content_type not in _PATCHES:
                raise Refused(415, "UnsupportedMediaType", f"cannot patch with {content_type}")
            if subresource == "scale":
                return self._scale(stored, call, query)
            if call.verb == "patch":
                return self._patch(stored, call)
            if subresource == "log":
                return {"log": stored["log"]}
            if call.verb == "update":
                self._check_version(stored, call.body)
                return self.put(resource, call.name, **_checked(resource, call.body))
            return deepcopy(stored)

    def authorize(self, call: Call, token: str) -> None:
        """
        Raises:
            Refused: nobody has this token, or no rule of its owner allows the call.
        """
        if token not in self.rules:
            raise Refused(401, "Unauthorized", "Unauthorized")
        rules, plural = self.rules[token], call.resource.partition("/")[0]
        group = next(group for group, resource in _KINDS if resource == plural)
        if rules is None:
            return
        for rule in rules:
            named = rule.get("resourceNames") or [call.name]
            if call.verb == "create":
                named = [call.name] if not rule.get("resourceNames") else []  # the name is not known yet
            granted = group in rule["apiGroups"] and call.resource in rule["resources"] and call.verb in rule["verbs"]
            if granted and call.name in named:
                return
        message = f'{call.resource} "{call.name}" is forbidden: User "user" cannot {call.verb} resource "{call.resource}"'
        raise Refused(403, "Forbidden", message)

    def _create(self, resource: str, body: dict[str, Any]) -> dict[str, Any]:
        name, labels = body["metadata"]["name"], body["metadata"].get("labels", {})
        if (resource, name) in self._objects:
            raise Refused(409, "AlreadyExists", f'{resource} "{name}" already exists')
        return self.put(resource, name, labels=labels, **_checked(resource, body))

    def _patch(self, stored: dict[str, Any], call: Call) -> dict[str, Any]:
        """Patches field ownership, the only thing of an object that is patched here."""
        self._check_version(stored, call.body)
        if call.body.keys() != {"metadata"} or call.body["metadata"].keys() - {"resourceVersion"} != {"managedFields"}:
            raise Refused(422, "Invalid", f"no patch of {call.body} is known here")
        self.touch(call.resource, call.name)
        stored["metadata"]["managedFields"] = call.body["metadata"]["managedFields"]
        return deepcopy(stored)

    def _scale(self, stored: dict[str, Any], call: Call, query: Mapping[str, list[str]]) -> dict[str, Any]:
        if call.verb == "patch":
            self._check_version(stored, call.body)
            self.touch("deployments", call.name, replicas=call.body["spec"]["replicas"])
            owner = {
                "manager": query["fieldManager"][0],
                "operation": "Update",
                "subresource": "scale",
                "apiVersion": "apps/v1",
            }
            fields = {"fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}, "time": "2026-01-01T00:00:00Z"}
            others = [one for one in stored["metadata"]["managedFields"] if one.get("subresource") != "scale"]
            stored["metadata"]["managedFields"] = [*others, {**owner, **fields}]
        replicas = stored["spec"].get("replicas", 0)
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {key: stored["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")},
            "spec": {"replicas": replicas} if replicas else {},  # a real server leaves zeros out
            "status": {"replicas": replicas, "selector": ""},
        }

    def _check_version(self, stored: dict[str, Any], body: dict[str, Any]) -> None:
        version = body.get("metadata", {}).get("resourceVersion")
        if version is not None and version != stored["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", "the object has been modified; please apply your changes to the latest version")


def _checked(resource: str, body: dict[str, Any]) -> dict[str, Any]:
    """The parts of a body to store. They must be valid."""
    problems = []
    if resource == "leases":
        spec = body["spec"]
        problems += [name for name in ("acquireTime", "renewTime") if not _MICRO_TIME.fullmatch(spec[name])]
        problems += [] if spec["leaseDurationSeconds"] > 0 else ["leaseDurationSeconds"]
    if resource == "events":
        problems += [name for name in ("firstTimestamp", "lastTimestamp") if not _TIME.fullmatch(body[name])]
        problems += [] if body["involvedObject"]["namespace"] == body["metadata"]["namespace"] else ["involvedObject.namespace"]
        problems += [] if body["type"] in ("Normal", "Warning") else ["type"]
        problems += [] if len(body["message"]) <= 1024 else ["message"]
    if problems:
        raise Refused(422, "Invalid", f"invalid: {', '.join(problems)}")
    return {key: value for key, value in body.items() if key not in ("kind", "metadata")}


def _selected(stored: dict[str, Any], query: Mapping[str, list[str]]) -> bool:
    for term in filter(None, query.get("labelSelector", [""])[0].split(",")):
        key, equals, value = term.partition("=")
        labels = stored["metadata"]["labels"]
        if key not in labels or (equals and labels[key] != value):
            return False
    for term in filter(None, query.get("fieldSelector", [""])[0].split(",")):
        key, _, value = term.partition("=")
        found: Any = stored
        for part in key.split("."):
            found = found[part]
        if found != value:
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    stand_in: ApiStandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _respond(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            call = self._call(url.path, json.loads(body) if body else None)
            if call.resource == "pods/portforward":
                self._forward(call, token, int(parse_qs(url.query)["ports"][0]))
                return
            answer = self.stand_in.handle(call, token, parse_qs(url.query), self.headers.get("Content-Type", ""))
            if call.resource == "pods/log":
                self._send_data(200, "text/plain", answer["log"].encode())
            else:
                self._send(201 if call.verb == "create" else 200, answer)
        except Refused as refused:
            status = {"kind": "Status", "status": "Failure", "reason": refused.reason, "code": refused.code}
            self._send(refused.code, {**status, "message": refused.message})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _respond  # as BaseHTTPRequestHandler wants them named

    def _call(self, path: str, body: Any) -> Call:
        found = _PATH.fullmatch(path)
        if found is None or found["namespace"] != NAMESPACE:
            raise Refused(404, "NotFound", f"the server could not find {path}")
        resource, name, subresource = (*found["rest"].split("/"), "", "")[:3]
        if (found["group"] or "", resource) not in _KINDS:
            raise Refused(404, "NotFound", f"the server could not find the requested resource {resource}")
        verbs = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
        full = f"{resource}/{subresource}" if subresource else resource
        return Call(verbs[self.command], full, name, body)

    def _send(self, code: int, answer: Any) -> None:
        self._send_data(code, "application/json", json.dumps(answer).encode())

    def _send_data(self, code: int, content_type: str, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _forward(self, call: Call, token: str, port: int) -> None:
        """Upgrades to a WebSocket and forwards bytes to and from the pod's port. Needs get and, since 1.35, create."""
        self.stand_in.before(call)
        for verb in ("get", "create"):
            self.stand_in.authorize(call._replace(verb=verb), token)
        offered = [word.strip() for word in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if "v4.channel.k8s.io" not in offered:
            raise Refused(400, "BadRequest", f"no protocol of {offered} is spoken here")
        self.stand_in.calls.append(call)
        magic = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        self.close_connection = True
        for channel in (0, 1):  # data and errors, each opened with the port's number
            self._frame(bytes([channel]) + struct.pack("<H", port))
        with socket.create_connection(("127.0.0.1", self.stand_in.ports[call.name])) as pod:
            threading.Thread(target=self._from_pod, args=(pod,), daemon=True).start()
            for data in self._frames():
                pod.sendall(data[1:])

    def _from_pod(self, pod: socket.socket) -> None:
        try:
            while data := pod.recv(1 << 16):
                self._frame(b"\x00" + data)
        except OSError:
            return

    def _frame(self, data: bytes) -> None:
        length = len(data)
        if length < 126:
            size = bytes([length])
        else:
            size = struct.pack(">BH", 126, length) if length < 1 << 16 else struct.pack(">BQ", 127, length)
        self.connection.sendall(b"\x82" + size + data)  # one binary frame

    def _frames(self) -> Iterator[bytes]:
        """The client's binary frames, until it closes."""
        while head := self.rfile.read(2):
            length = head[1] & 0x7F
            if length >= 126:
                length = int.from_bytes(self.rfile.read(2 if length == 126 else 8), "big")
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[k % 4] for k, byte in enumerate(self.rfile.read(length)))
            if head[0] & 0x0F == 8:
                return
            yield data

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests look at `calls`."""


@contextmanager
def stand_in() -> Iterator[ApiStandIn]:
    """Yields a stand-in with a release's Deployment of three actors."""
    api = ApiStandIn()
    api.put("deployments", "sbrl-actors", labels=labels("actor"), spec={"replicas": 3})
    try:
        yield api
    finally:
        api.close()


def labels(component: str, release: str = "sbrl") -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "sbrl",
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": component,
    }
