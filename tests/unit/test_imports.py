"""The import budget: which role may load which heavy library. TensorFlow costs 3.6 s and 370 MB, torch 185 MB."""

import json
import subprocess
import sys
import textwrap

import pytest

HEAVY = {"torch", "tensorflow", "reverb", "kubernetes", "matplotlib"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("sbrl.cli.commands", set()),  # `sbrl --help` has to answer at once
        ("services.coordinator.__main__", set()),
        ("services.replay.__main__", {"reverb"}),
        ("services.evaluator.__main__", {"torch"}),
        ("actors.__main__", {"torch", "reverb"}),
        ("learner.__main__", {"torch", "reverb"}),
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
        ("sbrl.backup.restore", {"pydantic", "grpc", "rich", "obstore"}),
        ("sbrl.backup.snapshots", {"rich", "obstore"}),
    ],
)
def test_a_tool_loads_what_it_needs_to_answer_at_once(module: str, needless: set[str]):
    """On a busy machine, each of these costs seconds. Kubernetes' 700 models are loaded only when an answer has one."""
    found = loaded(module)
    assert found & (HEAVY - {"kubernetes"} | {"numpy", "gymnasium", "sbrl.runtime.lifecycle"} | needless) == set()
    assert [name for name in found if name.startswith("kubernetes.client.models.")] == []
    assert ("kubernetes" in found) == (module.startswith("sbrl.cluster") or module == "sbrl.backup.snapshots")


def test_minatar_loads_what_it_draws_with_only_to_draw() -> None:
    """A second of a core in every process that plays it: pandas, seaborn, matplotlib and SciPy."""
    code = """
        import json, sys
        import numpy as np
        from sbrl.config import Env
        from sbrl.envs.render import make_rendered_env
        env = make_rendered_env(Env(id="MinAtar/Breakout-v1"), seed=0)
        env.reset()
        env.step(np.zeros(1, np.int64))
        before = list(sys.modules)
        print(json.dumps([before, env.picture().shape, list(sys.modules)]))
    """
    before, shape, after = json.loads(run_python(textwrap.dedent(code)))
    assert {"seaborn", "matplotlib.pyplot", "pandas", "scipy"} & set(before) == set()
    assert shape == [10, 10, 3]
    assert "seaborn" in after


def loaded(module: str) -> set[str]:
    """The modules in a process that has imported this one."""
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    return set(json.loads(run_python(code)))


def run_python(code: str) -> str:
    """The output of a process that runs this code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "lines",
    [
        ["from sbrl.replay.backend import reverb", "import tensorflow as tf"],
        ["import tensorflow as tf", "from sbrl.replay.backend import reverb"],
        ["from sbrl.replay.datasets import tf", "from sbrl.replay.backend import reverb"],
    ],
    ids=["after", "before", "datasets"],
)
def test_tensorflow_is_whole_for_whoever_imports_it(lines: list[str]):
    """Reverb alone takes a few of its modules only."""
    checks = ["assert int(tf.constant(3) + 1) == 4", "assert reverb.Client and reverb.Table and tf.data.Dataset.range(3)"]
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(lines + checks)], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr


def test_tensorboard_writes_without_tensorflow(tmp_path):
    run_python(
        "import pathlib, sys; from learner.tensorboard import TensorBoard; "
        f"events = TensorBoard(pathlib.Path({str(tmp_path)!r})); events.write({{'loss': 1.5}}, 7); events.close(); "
        "assert 'tensorflow' not in sys.modules"
    )
    (events,) = tmp_path.iterdir()
    assert b"loss" in events.read_bytes()
