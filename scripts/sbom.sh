#!/usr/bin/env bash
# Writes a bill of materials (CycloneDX, JSON) of every Python package in .venv, or in images. With image names as arguments, it
# lists the packages in these: sbom/NAME.cdx.json. CONTAINER names the tool with the images (podman or docker). Called by
# `make sbom`.
set -euo pipefail
cd "$(dirname "$0")/.."

[[ -x .venv/bin/python ]] || {
    echo "sbom: there is no .venv: run 'make setup' first" >&2
    exit 1
}
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
tool=.venv/tools/sbom
stamp="$(sha256sum "$0" | cut -d ' ' -f 1)"
if [[ "$(cat "$tool/.complete" 2>/dev/null)" != "$stamp" ]]; then
    cat >"$work/pins.txt" <<'PINS'
arrow==1.4.0 --hash=sha256:749f0769958ebdc79c173ff0b0670d59051a535fa26e8eba02953dc19eb43205
attrs==26.1.0 --hash=sha256:c647aa4a12dfbad9333ca4e71fe62ddc36f4e63b2d260a37a8b83d2f043ac309
boolean.py==5.0 --hash=sha256:ef28a70bd43115208441b53a045d1549e2f0ec6e3d08a9d142cbc41c1938e8d9
chardet==7.7.0 --hash=sha256:7f13de78af5da07ddd813ff5a564c3aa8a113f05cba202be649e061c431a0e9a
cyclonedx-bom==7.5.0 --hash=sha256:a3020e225107214a66cb9c79ae83e3a71640a06d4ff3a0e2f9cb0d238f7061fd
cyclonedx-python-lib==11.12.0 --hash=sha256:0e807521a921a5c3cb8ce1153f8a61d29eedfe76a46aac2796b7c6b573391a54
defusedxml==0.7.1 --hash=sha256:a352e7e428770286cc899e2542b6cdaedb2b4953ff269a210103ec58f6198a61
fqdn==1.6.0 --hash=sha256:6c793c312ccfa29981e1135b3ef5e1277ebe639731a6b0f7350d90e96e63f0b4
idna==3.20 --hash=sha256:ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c
isoduration==20.11.0 --hash=sha256:b2904c2a4228c3d44f409c8ae8e2370eb21a26f7ac2ec5446df141dde3452042
jsonpointer==3.12 --hash=sha256:89f391335ee2719ae72149e1bf30a4d4c7c5d92f15a3f53faa8d20cc7c6c7f19
jsonschema==4.26.0 --hash=sha256:d489f15263b8d200f8387e64b4c3a75f06629559fb73deb8fdfb525f2dab50ce
jsonschema-specifications==2025.9.1 --hash=sha256:98802fee3a11ee76ecaca44429fda8a41bff98b00a0f2838151b113f210cc6fe
lark==1.3.1 --hash=sha256:c629b661023a014c37da873b4ff58a817398d12635d3bbb2c5a03be7fe5d1e12
license-expression==30.4.4 --hash=sha256:421788fdcadb41f049d2dc934ce666626265aeccefddd25e162a26f23bcbf8a4
lxml==6.1.3 --hash=sha256:527195c188d7d0af748cd48d220ab8cdc5cb99be3d49ac4d9be7324d8abf9bc0
packageurl-python==0.17.6 --hash=sha256:31a85c2717bc41dd818f3c62908685ff9eebcb68588213745b14a6ee9e7df7c9
packaging==26.4 --hash=sha256:81383611a09c1bc0b08b76e0fd5829d7c6824c65b27a6aee339da133f4233ea2
pip-requirements-parser==32.0.1 --hash=sha256:4659bc2a667783e7a15d190f6fccf8b2486685b6dba4c19c3876314769c57526
py-serializable==2.2.0 --hash=sha256:2cce775abc5aac12115f9ff572a145c7276d04a770090334bd4e51ed9c782415
pyparsing==3.3.3 --hash=sha256:ece8c00a69cf01b45d0b1dedabb469c90d8caf996d4fda40f147627a122849a4
python-dateutil==4.0.0 --hash=sha256:a5e246f79eb80475e691bf93862cead98decd8a498cf53ba0516fcdc0f50dc1c
referencing==0.37.0 --hash=sha256:381329a9f99628c9069361716891d34ad94af76e461dcb0335825aecc7692231
rfc3339-validator==0.1.4 --hash=sha256:24f6ec1eda14ef823da9e36ec7113124b39c04d50a4d3d3a3c2859577e7791fa
rfc3986-validator==0.1.1 --hash=sha256:2f235c432ef459970b4306369336b9d5dbdda31b510ca1e327636e01f528bfa9
rfc3987-syntax==1.1.0 --hash=sha256:6c3d97604e4c5ce9f714898e05401a0445a641cfa276432b0a648c80856f6a3f
rpds-py==2026.9.1 --hash=sha256:136a1c3fe4402b7008bc81cb62ee538481795b61a7e83df88dff3b3f02b726ff
six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274
sortedcontainers==2.4.0 --hash=sha256:a163dcaede0f1c021485e957a39245190e74249897e2ae4b2aa38595db237ee0
typing_extensions==4.16.0 --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8
tzdata==2026.6 --hash=sha256:0a10eec6e13ef16b627fabed9a5f2ba61a62b1c67f327305f4e7e412a70b4aec
uri-template==1.3.0 --hash=sha256:a44a133ea12d44a0c0f06d7d42a52d71282e77e2f937d8abd5655b8d56fc1363
webcolors==25.10.0 --hash=sha256:032c727334856fc0b968f63daa252a1ac93d33db2f5267756623c210e57a4f1d
PINS
    echo "sbom: installing cyclonedx-bom into $tool"
    rm -rf "$tool"
    .venv/bin/python -m pip --quiet --quiet --disable-pip-version-check install --no-deps --require-hashes \
        --requirement "$work/pins.txt" --target "$tool"
    echo "$stamp" >"$tool/.complete"
fi

# write NAME PYTHON: lists the packages that this interpreter finds. The same packages give the same file.
write() {
    # Not by PYTHONPATH, which the other interpreter would inherit: it must not find the tool's own packages.
    .venv/bin/python -c 'import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module("cyclonedx_py", run_name="__main__")' \
        "$tool" environment --pyproject pyproject.toml --mc-type application --output-reproducible --output-file "$work/sbom.json" "$2"
    mkdir -p sbom
    mv "$work/sbom.json" "sbom/$1.cdx.json"
    echo "sbom: sbom/$1.cdx.json: $(grep -c '"purl"' "sbom/$1.cdx.json") packages"
}

if [[ $# -eq 0 ]]; then
    write sbrl-environment .venv/bin/python
fi
for image in "$@"; do
    container="${CONTAINER:-$(command -v podman || command -v docker || true)}"
    [[ -n "$container" ]] || {
        echo "sbom: neither podman nor docker is here: name the tool that has $image with CONTAINER=..." >&2
        exit 1
    }
    # Nothing in the image is run: its packages are copied into a separate environment.
    .venv/bin/python -m venv --without-pip "$work/env"
    packages="$work/env/lib/python3.11/site-packages"
    id="$("$container" create "$image")"
    rm -rf "$packages"
    "$container" cp "$id:/opt/sbrl/lib/python3.11/site-packages" "$packages" && copied=yes || copied=no
    "$container" rm "$id" >/dev/null
    [[ "$copied" == yes ]] || exit 1
    write "$(basename "${image//:/-}")" "$work/env/bin/python"
    rm -rf "$work/env"
done
