"""The learning benchmarks: their tasks are valid, and their verdicts follow from the numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import learning
from bench.runs import BenchRun, random_returns
from sbrl import config
from sbrl.config.algorithms import ALGORITHMS
from sbrl.envs.make import make_spec
from sbrl.errors import UsageError
from sbrl.networks.checks import check_network


def load(run: BenchRun) -> config.Config:
    """The config from a run's arguments."""
    option, preset, *overrides = run.arguments
    assert option == "--preset"
    return config.load(preset=preset, overrides=overrides)


@pytest.mark.parametrize("task", learning.TASKS, ids=lambda task: task.agent)
def test_every_task_can_be_run(task: learning.Task) -> None:
    tree = load(learning.bench_run(task, 0, Path("out")))
    assert tree.warnings == ()
    assert (tree.env.id, tree.run.env_steps) == (task.env_id, task.env_steps)
    check_network(tree, make_spec(tree.env))
    assert tree.run.env_steps > 4 * tree.min_replay_size


def test_every_algorithm_and_every_agent_of_the_family_has_a_task() -> None:
    trees = {task.agent: load(learning.bench_run(task, 0, Path("out"))) for task in learning.TASKS}
    without = set(ALGORITHMS) - {tree.agent.algorithm for tree in trees.values()}
    assert not without, f"{without}: add a task to bench/learning.py, of a preset in sbrl/config/presets.py"
    assert {"rainbow", "full-rainbow", "der", "drq-eps", "spr", "sr-spr", "bbf"} <= set(trees)
    assert {agent for agent, tree in trees.items() if tree.agent.spr_weight > 0} == {"spr", "sr-spr", "bbf"}
    # A reset counts only if the run continues for a while after it.
    for agent in ("sr-spr", "bbf"):
        learner = trees[agent].learner
        updates = (trees[agent].run.env_steps - trees[agent].min_replay_size) * learner.updates_per_step
        assert learner.reset_period is not None
        assert updates > 2.5 * learner.reset_period


def result(agent: str, seed: int, eval_return: float) -> learning.Result:
    return learning.Result(agent, "CartPole-v1", seed, 100, 50, 22.0, 475.0, eval_return, 1.0, 400.0, 3.0)


def test_an_agent_passes_by_the_mean_over_its_seeds(tmp_path: Path) -> None:
    results = [result("dqn", 0, 500.0), result("dqn", 1, 450.0), result("c51", 0, 474.9), result("iqn", 0, 500.0)]
    assert learning.verdicts(results) == {"dqn": True, "c51": False, "iqn": True}
    assert [line.endswith("FAILED |") for line in learning.markdown(results).splitlines()[2:]] == [False, False, True, False]
    learning.write_csv(tmp_path / "learning.csv", results)
    header, *rows = (tmp_path / "learning.csv").read_text(encoding="utf-8").splitlines()
    assert header.startswith("agent,env_id,seed,")
    assert [row.rpartition(",")[2] for row in rows] == ["1", "1", "0", "1"]


def test_agents_are_chosen_by_name() -> None:
    assert [task.agent for task in learning.choose("spr,dqn")] == ["spr", "dqn"]
    with pytest.raises(UsageError, match=r"unknown rainbo.*rainbow"):
        learning.choose("dqn,rainbo")


def test_the_random_agent_is_reproducible_and_plays_whole_episodes() -> None:
    returns = random_returns("CartPole-v1", 30, seed=3)
    assert returns == random_returns("CartPole-v1", 30, seed=3)
    assert len(returns) == 30
    assert 15 < np.mean(returns) < 35  # CartPole's is known to be about 22
