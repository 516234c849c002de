"""The import budget: which role may load which heavy library. TensorFlow costs 3.6 s and 370 MB a process, torch 185 MB."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "tensorflow", "reverb", "kubernetes", "matplotlib"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("sbrl.cli.commands", set()),  # `sbrl --help` has to answer at once
        ("services.coordinator.__main__", set()),
        ("services.replay.__main__", {"tensorflow", "reverb"}),
        ("services.evaluator.__main__", {"torch"}),
        ("actors.__main__", {"torch", "tensorflow", "reverb"}),
        ("learner.__main__", {"torch", "tensorflow", "reverb"}),
        ("single_process.__main__", {"torch"}),
    ],
)
def test_a_role_loads_no_more_than_its_budget(module: str, allowed: set[str]):
    assert loaded(module) & HEAVY <= allowed


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        ("sbrl.cli.__main__", {"pydantic", "yaml", "grpc", "rich"}),  # it only becomes another program
        ("sbrl.monitor.doctor", {"rich"}),
        ("sbrl.monitor.top", set()),
        ("sbrl.cluster.scale", {"rich"}),
        ("sbrl.cluster.status", {"rich"}),
        ("sbrl.cluster.watch", set()),
    ],
)
def test_a_tool_loads_what_it_needs_to_answer_at_once(module: str, needless: set[str]):
    """On a busy machine each of these costs seconds. Of Kubernetes' 700 models none is loaded before an answer has it."""
    found = loaded(module)
    assert found & (HEAVY - {"kubernetes"} | {"numpy", "gymnasium", "sbrl.runtime.lifecycle"} | needless) == set()
    assert [name for name in found if name.startswith("kubernetes.client.models.")] == []
    assert ("kubernetes" in found) == module.startswith("sbrl.cluster")


def loaded(module: str) -> set[str]:
    """The modules of a process that has imported this one."""
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))
