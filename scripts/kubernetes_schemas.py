"""Checks manifests against Kubernetes' own schemas: `helm template ... | python scripts/kubernetes_schemas.py`.

Reads YAML documents from standard input. Checks each against every version in .venv/tools (scripts/tools.sh), and kinds that
are not Kubernetes' own against scripts/custom_kinds.yaml. Fields that a version does not know are errors. Exit code 1 and a
line for each error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TOOLS = Path(__file__).resolve().parents[1] / ".venv/tools"
sys.path.insert(0, str(TOOLS / "python"))

from jsonschema import Draft202012Validator  # noqa: E402  # from the folder above
from referencing import Registry, Resource  # noqa: E402

DEFINITIONS = "_definitions.json"
CUSTOM = yaml.safe_load(Path(__file__).with_name("custom_kinds.yaml").read_text(encoding="utf-8"))


@cache
def registry(version: str) -> Registry[Any]:
    content = json.loads((TOOLS / "schemas" / version / DEFINITIONS).read_text(encoding="utf-8"))
    return Resource.from_contents(content) @ Registry()


@cache
def validator(version: str, api_version: str, kind: str) -> Draft202012Validator | None:
    """The validator for one kind of object; None if the version does not know it."""
    if kind in CUSTOM and CUSTOM[kind]["apiVersion"] == api_version:
        metadata = {"$ref": f"/api/{DEFINITIONS}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
        properties = {"apiVersion": True, "kind": True, "metadata": metadata, "spec": CUSTOM[kind]["spec"]}
        schema = {
            "$id": "https://kubernetes.io/api/custom.json",
            "required": ["spec"],
            "properties": properties,
            "additionalProperties": False,
        }
        return Draft202012Validator(schema, registry=registry(version))
    group, _, name = api_version.rpartition("/")
    prefix = f"{group.partition('.')[0]}-" if group else ""
    path = TOOLS / "schemas" / version / f"{kind.lower()}-{prefix}{name}.json"
    if not path.is_file():
        return None
    return Draft202012Validator(json.loads(path.read_text(encoding="utf-8")), registry=registry(version))


def errors(version: str, manifest: dict[str, Any]) -> Iterator[str]:
    where = f"Kubernetes {version}: {manifest['kind']} {manifest['metadata']['name']}"
    check = validator(version, manifest["apiVersion"], manifest["kind"])
    if check is None:
        yield f"{where}: there is no {manifest['apiVersion']}"
        return
    for error in check.iter_errors(manifest):
        yield f"{where}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


def main() -> int:
    manifests = [manifest for manifest in yaml.safe_load_all(sys.stdin) if manifest]
    versions = sorted(path.name for path in (TOOLS / "schemas").iterdir())
    wrong = [error for version in versions for manifest in manifests for error in errors(version, manifest)]
    print("\n".join(wrong), end="\n" if wrong else "")
    print(f"{len(manifests)} manifests, Kubernetes {', '.join(versions)}: {len(wrong)} errors")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
