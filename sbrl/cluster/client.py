"""The only import of the Kubernetes client, without the 700 models that its packages would load.

Loading them takes more CPU than everything else in `sbrl status`, and only a dozen are used. So the packages are created
without their imports, and a model is loaded when an answer contains one.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from types import ModuleType
from typing import Any

_MODELS = "kubernetes.client.models"
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # as in the client's file names: v1_http_get_action


def _hollow(name: str) -> ModuleType:
    """A package without its own imports. Its modules can be imported one by one."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    package = sys.modules[name] = importlib.util.module_from_spec(spec)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
    return package


def _model(name: str) -> Any:
    """A model by the name that the client uses."""
    try:
        return getattr(importlib.import_module(f"{_MODELS}.{_WORDS.sub('_', name).lower()}"), name)
    except ModuleNotFoundError:
        raise AttributeError(name) from None


_hollow("kubernetes")
_client = _hollow("kubernetes.client")
_hollow(_MODELS).__dict__["__getattr__"] = _model

from kubernetes.client.api_client import ApiClient  # noqa: E402
from kubernetes.client.configuration import Configuration  # noqa: E402
from kubernetes.client.exceptions import ApiException  # noqa: E402

_client.__dict__.update(ApiClient=ApiClient, Configuration=Configuration)  # kubernetes.config expects them there

from kubernetes.client.api.apps_v1_api import AppsV1Api  # noqa: E402
from kubernetes.client.api.autoscaling_v2_api import AutoscalingV2Api  # noqa: E402
from kubernetes.client.api.batch_v1_api import BatchV1Api  # noqa: E402
from kubernetes.client.api.coordination_v1_api import CoordinationV1Api  # noqa: E402
from kubernetes.client.api.core_v1_api import CoreV1Api  # noqa: E402
from kubernetes.client.api.custom_objects_api import CustomObjectsApi  # noqa: E402
from kubernetes.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config  # noqa: E402
from kubernetes.stream import portforward  # noqa: E402

__all__ = [
    "ApiClient",
    "ApiException",
    "AppsV1Api",
    "AutoscalingV2Api",
    "BatchV1Api",
    "ConfigException",
    "Configuration",
    "CoordinationV1Api",
    "CoreV1Api",
    "CustomObjectsApi",
    "list_kube_config_contexts",
    "load_incluster_config",
    "load_kube_config",
    "portforward",
]
