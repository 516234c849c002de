"""The Kubernetes API for the controller and its tools: a few calls, with time limits and clear errors."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import urllib3

from sbrl.cluster import client
from sbrl.errors import RunError, UsageError

REQUEST_SECONDS = 5.0
DISOWN_ATTEMPTS = 5
COMPONENT = "sbrl-controller"  # the source of events and field changes
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NO_ANSWER = frozenset({0, 408, 429, 500, 502, 503, 504})  # 0: no HTTP answer at all


class ApiUnavailable(RunError):
    """The API server gave no usable answer in time: worth trying again."""


class ApiConflict(RunError):
    """The object has changed since it was read: worth reading it again."""


class ApiNotFound(RunError):
    """There is no such object."""


class Scale(NamedTuple):
    """A Deployment's scale subresource."""

    replicas: int  # requested
    running: int  # pods that exist
    uid: str  # of the Deployment
    resource_version: str


class LeaseRecord(NamedTuple):
    """A Lease's spec. `resource_version` is "" if the Lease does not exist yet."""

    holder: str  # "": nobody
    duration_seconds: int
    acquire_time: datetime | None
    renew_time: datetime | None
    transitions: int
    resource_version: str = ""


class Cluster:
    """One namespace of a cluster. Every call raises ApiUnavailable, or RunError if the API server refuses it."""

    def __init__(self, api: client.ApiClient, namespace: str, context: str = "") -> None:
        self.namespace, self.context = namespace, context
        self.api = api
        self.core = client.CoreV1Api(api)
        self.apps = client.AppsV1Api(api)
        self._coordination = client.CoordinationV1Api(api)

    def close(self) -> None:
        self.api.close()

    def scale(self, deployment: str) -> Scale:
        """The scale of a Deployment.

        Raises:
            ApiNotFound: there is no such Deployment.
        """
        with api_errors("get", f"deployments/scale {deployment}", self.namespace):
            scale = self.apps.read_namespaced_deployment_scale(deployment, self.namespace, _request_timeout=REQUEST_SECONDS)
        return _scale(scale)

    def set_scale(
        self, deployment: str, replicas: int, resource_version: str | None = None, field_manager: str = COMPONENT
    ) -> Scale:
        """Sets the number of pods.

        Args:
            field_manager: the owner of the number from then on.

        Raises:
            ApiConflict: `resource_version` is given, and the Deployment has changed since.
        """
        body: dict[str, Any] = {"spec": {"replicas": replicas}}
        if resource_version is not None:
            body["metadata"] = {"resourceVersion": resource_version}
        with api_errors("patch", f"deployments/scale {deployment}", self.namespace):
            scale = self.apps.patch_namespaced_deployment_scale(
                deployment,
                self.namespace,
                body,
                field_manager=field_manager,
                _request_timeout=REQUEST_SECONDS,
            )
        return _scale(scale)

    def disown_scale(self, deployment: str, field_manager: str) -> None:
        """Gives up the ownership of the number of pods that `field_manager` has set, so that the next apply can set it.

        An update makes its author the owner of a field, and server-side apply (Helm 4) refuses to change a field with another
        owner.
        """
        for attempt in range(DISOWN_ATTEMPTS):
            with api_errors("get", f"deployments {deployment}", self.namespace):
                metadata = self.apps.read_namespaced_deployment(
                    deployment, self.namespace, _request_timeout=REQUEST_SECONDS
                ).metadata
            entries = metadata.managed_fields or []
            kept = [one for one in entries if (one.manager, one.subresource) != (field_manager, "scale")]
            if len(kept) == len(entries):
                return
            # An empty list would change nothing. A list with one empty entry tells the API server to clear it.
            change = {"metadata": {"resourceVersion": metadata.resource_version, "managedFields": kept or [{}]}}
            try:
                with api_errors("patch", f"deployments {deployment}", self.namespace):
                    self.apps.patch_namespaced_deployment(
                        deployment,
                        self.namespace,
                        change,
                        _request_timeout=REQUEST_SECONDS,
                    )
                return
            except ApiConflict:  # mostly because its controller has written the status meanwhile
                if attempt == DISOWN_ATTEMPTS - 1:
                    raise

    def post_event(self, deployment: str, uid: str, reason: str, message: str, instance: str, warning: bool = False) -> None:
        """Posts an event on a Deployment.

        Args:
            reason: one CamelCase word.
            instance: the name of the pod that posts it.
        """
        now = datetime.now(UTC)
        event = {
            # Named as in client-go: the object's name and a unique number.
            "metadata": {"name": f"{deployment}.{int(now.timestamp() * 1e9):x}", "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": deployment,
                "namespace": self.namespace,
                "uid": uid,
            },
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:1024],  # an API server takes no more
            "source": {"component": COMPONENT, "host": instance},
            "reportingComponent": COMPONENT,
            "reportingInstance": instance,
            "firstTimestamp": _time(now),
            "lastTimestamp": _time(now),
            "count": 1,
        }
        with api_errors("create", "events", self.namespace):
            self.core.create_namespaced_event(self.namespace, event, _request_timeout=REQUEST_SECONDS)

    def lease(self, name: str) -> LeaseRecord | None:
        """The Lease of this name; None if there is none."""
        try:
            with api_errors("get", f"leases {name}", self.namespace):
                lease = self._coordination.read_namespaced_lease(name, self.namespace, _request_timeout=REQUEST_SECONDS)
        except ApiNotFound:
            return None
        return _lease_record(lease)

    def write_lease(self, name: str, record: LeaseRecord) -> LeaseRecord:
        """Creates a Lease, or replaces the one that `record.resource_version` names.

        Raises:
            ApiConflict: another client has written it since.
        """
        metadata = {"name": name, "namespace": self.namespace}
        spec = {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.duration_seconds,
            "acquireTime": _micro_time(record.acquire_time),
            "renewTime": _micro_time(record.renew_time),
            "leaseTransitions": record.transitions,
        }
        lease: dict[str, Any] = {"metadata": metadata, "spec": spec}
        if not record.resource_version:
            with api_errors("create", "leases", self.namespace):
                written = self._coordination.create_namespaced_lease(self.namespace, lease, _request_timeout=REQUEST_SECONDS)
        else:
            metadata["resourceVersion"] = record.resource_version
            with api_errors("update", f"leases {name}", self.namespace):
                written = self._coordination.replace_namespaced_lease(
                    name, self.namespace, lease, _request_timeout=REQUEST_SECONDS
                )
        return _lease_record(written)


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments for `connect`."""
    parser.add_argument("-n", "--namespace", help="of the release (default: the pod's own, or the kubeconfig context's)")
    parser.add_argument("--context", help="of the kubeconfig (default: its current one)")
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="default: in a pod its service account, else $KUBECONFIG or ~/.kube/config",
    )


def connect(kubeconfig: Path | None, context: str | None, namespace: str | None) -> Cluster:
    """The cluster that a pod runs in, or that a kubeconfig names.

    Args:
        kubeconfig: None takes the service account in a pod, and $KUBECONFIG or ~/.kube/config elsewhere.
        context: of the kubeconfig; None takes its current one.
        namespace: None takes the pod's own, or the context's.

    Raises:
        UsageError: there is neither.
    """
    settings = client.Configuration()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns about each attempt; our own message has the result of all
    # A failed connection is retried at once. A request that was sent is not: it may have been carried out.
    settings.retries = urllib3.Retry(total=2, connect=2, read=0, redirect=0, status=0, other=0, backoff_factor=0.2)
    try:
        if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            client.load_incluster_config(settings)
            own, name = _NAMESPACE_FILE.read_text(encoding="utf-8").strip(), "in-cluster"
        else:
            file = None if kubeconfig is None else str(kubeconfig)
            client.load_kube_config(file, context, settings, persist_config=False)
            contexts, current = client.list_kube_config_contexts(file)
            chosen = next((one for one in contexts if one["name"] == context), current)
            own, name = chosen["context"].get("namespace") or "default", chosen["name"]
    except (client.ConfigException, OSError) as error:
        raise UsageError(
            f"cannot reach a cluster: {' '.join(str(error).split())}; name a kubeconfig with --kubeconfig or KUBECONFIG, and "
            f"one of its contexts with --context"
        ) from None
    return Cluster(client.ApiClient(settings), namespace or own, name)


@contextmanager
def api_errors(verb: str, what: str, namespace: str) -> Iterator[None]:
    """Turns the client's errors of one call into the errors that callers handle.

    Raises:
        ApiUnavailable: no answer in time; a change may or may not have been made.
        ApiConflict, ApiNotFound: see these classes.
        RunError: the API server refuses the call; the message names the missing right.
    """
    where = f"{verb} {what} in namespace {namespace}"
    try:
        yield
    except client.ApiException as error:
        said, status = _message(error), error.status or _handshake_status(error)
        if status in _NO_ANSWER:
            raise ApiUnavailable(f"the Kubernetes API cannot {where} now: {said}") from None
        if status == 404:
            raise ApiNotFound(f"cannot {where}: {said}") from None
        if status == 409:
            raise ApiConflict(f"cannot {where}: {said}") from None
        if status == 401:
            raise RunError(f"the Kubernetes API does not know who wants to {where}: {said}; log in again") from None
        if status == 403:
            resource = what.split()[0]
            raise RunError(
                f"not allowed to {where}: {said}; grant the verb {verb!r} on {resource!r} to this user or service account"
            ) from None
        raise RunError(f"the Kubernetes API refuses to {where}: {status} {said}") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ApiUnavailable(f"the Kubernetes API does not answer to {where}: {error}") from None


def _message(error: client.ApiException) -> str:
    """The message in the API server's Status object, or else the best available text."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    if not body:  # a refused WebSocket's answer is only in the text, at its end
        body = str(error.reason or "").rpartition("-+-+- ")[2]
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    message = status.get("message") if isinstance(status, dict) else None
    return str(message or error.reason or body)[:500]


def _handshake_status(error: client.ApiException) -> int:
    """The HTTP status of a refused WebSocket, which the client only has in its text; 0 if none was refused."""
    found = re.search(r"Handshake status (\d{3})", str(error.reason))
    return int(found[1]) if found else 0


def _scale(scale: Any) -> Scale:
    return Scale(
        # An API server omits zeros.
        replicas=int(scale.spec.replicas or 0) if scale.spec else 0,
        running=int(scale.status.replicas or 0) if scale.status else 0,
        uid=str(scale.metadata.uid or ""),
        resource_version=str(scale.metadata.resource_version),
    )


def _lease_record(lease: Any) -> LeaseRecord:
    spec, version = lease.spec, str(lease.metadata.resource_version)
    if spec is None:
        return LeaseRecord("", 0, None, None, 0, version)
    return LeaseRecord(
        holder=str(spec.holder_identity or ""),
        duration_seconds=int(spec.lease_duration_seconds or 0),
        acquire_time=spec.acquire_time,
        renew_time=spec.renew_time,
        transitions=int(spec.lease_transitions or 0),
        resource_version=version,
    )


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro_time(time: datetime | None) -> str | None:
    """A time as a MicroTime with all six digits. The client's own format omits them when they are zero."""
    return None if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
