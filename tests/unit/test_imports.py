"""The import budget: which role may load which heavy library. TensorFlow costs 3.6 s and 370 MB a process, torch 185 MB."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "tensorflow", "reverb", "kubernetes", "matplotlib"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("sbrl.cli", set()),  # `sbrl --help` has to answer at once
        ("services.coordinator.__main__", set()),
        ("services.replay.__main__", {"tensorflow", "reverb"}),
        ("services.evaluator.__main__", {"torch"}),
        ("actors.__main__", {"torch", "tensorflow", "reverb"}),
        ("learner.__main__", {"torch", "tensorflow", "reverb"}),
        ("serial.__main__", {"torch"}),
    ],
)
def test_a_role_loads_no_more_than_its_budget(module: str, allowed: set[str]):
    code = f"import json, sys, {module}; print(json.dumps(sorted(set(sys.modules) & {HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) <= allowed
