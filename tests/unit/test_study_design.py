"""The study file: the runs of its arms, and refusals with their messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from sbrl import config as configs
from sbrl.errors import UsageError
from studies import arms as planned
from studies.arms import arms_of, comparisons_of, config_of, held_periods, tuning_runs, variants_of
from studies.design import Study, json_schema, list_library, load_study, parse_study


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "question": "Does batch 8 learn more?",
        "preset": "minatar-qr-dqn",
        "environments": ["MinAtar/Breakout-v1", "MinAtar/Asterix-v1"],
        "seeds": {"test": 2},
        "horizons": [5_000, 10_000],
        "arms": [{"name": "batch 32"}, {"name": "batch 8", "settings": {"learner.batch_size": 8}}],
        "comparisons": [{"baseline": "batch 32"}],
        **changes,
    }


def study(**changes: Any) -> Study:
    return parse_study(tree(**changes), "small.yaml")


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        act()
    return str(caught.value)


def test_every_run_has_its_whole_config() -> None:
    small = study()
    runs = planned.compared_runs(small, arms_of(small), {})
    assert len(runs) == 2 * 2 * 2
    assert len({run.hash for run in runs}) == len({run.folder for run in runs}) == len(runs)
    # Complete pairs first, so that an interrupted study has all arms for its finished seeds.
    assert [(run.seed, run.environment[8:12], run.arm) for run in runs[:3]] == [
        (0, "Brea", "batch 32"),
        (0, "Brea", "batch 8"),
        (0, "Aste", "batch 32"),
    ]
    last = runs[-1]
    assert (last.config.learner.batch_size, last.config.run.env_steps, last.config.run.seed) == (8, 10_000, 1)
    assert last.config.actors.num_actors == 1  # as the run in one process records it
    assert configs.parse(configs.dump(last.config), "dumped") == last.config
    assert last.updates == 2250  # (10,000 - 1,000) x 0.25


def test_a_grid_is_an_arm_for_every_combination() -> None:
    grid = {"learner.batch_size": [8, 32], "agent.n_step": [1, 3], "replay.prioritized": [False]}
    arms = arms_of(study(arms=[{"grid": grid}], comparisons=[]))
    assert [arm.name for arm in arms] == [
        "batch_size=8 n_step=1 prioritized=false",
        "batch_size=8 n_step=3 prioritized=false",
        "batch_size=32 n_step=1 prioritized=false",
        "batch_size=32 n_step=3 prioritized=false",
    ]
    assert arms[1].settings == {"learner.batch_size": 8, "agent.n_step": 3, "replay.prioritized": False}


def test_both_axes_make_two_arms_of_another_batch_size() -> None:
    small = study(axes=["fixed updates per step", "fixed samples per insert"])
    configs_by_name = {arm.name: config_of(small, arm, small.environments[0], 0) for arm in arms_of(small)}
    figures = {
        name: (config.learner.batch_size, config.learner.updates_per_step, config.samples_per_insert)
        for name, config in configs_by_name.items()
    }
    assert figures == {
        "batch 32": (32, 0.25, 8.0),
        "batch 8": (8, 0.25, 2.0),
        "batch 8, fixed samples per insert": (8, 1.0, 8.0),
    }
    # The target network is copied every 1,000 env steps on both.
    periods = {name: config.learner.target_update_period for name, config in configs_by_name.items()}
    assert periods == {"batch 32": 250, "batch 8": 250, "batch 8, fixed samples per insert": 1000}
    (one_axis,) = [arm for arm in arms_of(study(axes=["fixed samples per insert"])) if arm.name == "batch 8"]
    assert one_axis.settings["learner.updates_per_step"] == 1.0


def test_periods_are_held_in_env_steps_unless_the_study_or_an_arm_says_otherwise() -> None:
    fast = {"learner.updates_per_step": 1, "learner.publish_period": 7}
    spec = [{"name": "fast", "settings": fast}]
    (held,) = arms_of(study(arms=spec, comparisons=[]))
    assert held.settings["learner.target_update_period"] == 1000
    assert held.settings["learner.publish_period"] == 7
    assert "learner.reset_period" not in held.settings  # unset stays unset
    (as_they_are,) = arms_of(study(arms=spec, comparisons=[], periods="updates"))
    assert as_they_are.settings == fast


def test_a_moving_average_forgets_as_much_in_as_many_env_steps() -> None:
    base = configs.load(preset="classic-dqn")  # a rate of 0.005 with period 1, 1 update per step
    held = held_periods(base, 4)
    assert "learner.target_update_period" not in held
    rate = held["learner.target_update_rate"]
    assert isinstance(rate, float)
    assert (1 - rate) ** 4 == pytest.approx(1 - 0.005)


def test_beta2_by_batch_keeps_the_half_life_in_samples() -> None:
    by_batch = {"learner.batch_size": 8, "learner.adam_beta2": "by batch"}
    (arm,) = arms_of(study(arms=[{"name": "batch 8", "settings": by_batch}], comparisons=[]))
    assert arm.settings["learner.adam_beta2"] == pytest.approx(0.99975, abs=1e-6)
    grid = {"learner.batch_size": [8, 32], "learner.adam_beta2": [0.999, "by batch"]}
    message = refusal(lambda: arms_of(study(arms=[{"grid": grid}], comparisons=[])))
    assert "'batch_size=32 adam_beta2=0.999' and 'batch_size=32 adam_beta2=by batch' have the same settings" in message


def test_tuning_tries_as_many_values_for_every_arm() -> None:
    small = study(seeds={"test": 2, "tune": 2}, tuning={"factors": [0.5, 1, 2]})
    arms = arms_of(small)
    runs = tuning_runs(small, arms)
    assert len(runs) == len(arms) * 3 * 2 * 2
    assert {run.seed for run in runs} == {1000, 1001}
    assert {run.purpose for run in runs} == {"tune"}
    assert sorted({run.config.learner.learning_rate for run in runs}) == [0.000125, 0.00025, 0.0005]
    assert len({run.folder for run in runs}) == len(runs)
    assert str(runs[0].folder) == "tuning/batch-32/learner.learning_rate=0.000125/MinAtar-Breakout-v1/seed-1000"
    on_one = study(seeds={"test": 2, "tune": 2}, tuning={"environments": ["MinAtar/Asterix-v1"]})
    assert {run.environment for run in tuning_runs(on_one, arms)} == {"MinAtar/Asterix-v1"}
    chosen = {"batch 8": variants_of(small, arms[1])[2]}
    rates = {run.arm: run.config.learner.learning_rate for run in planned.compared_runs(small, arms, chosen)}
    assert rates == {"batch 32": 0.00025, "batch 8": 0.0005}


def test_comparisons_name_their_candidates() -> None:
    small = study()
    (comparison,) = comparisons_of(small, arms_of(small))
    assert (comparison.baseline, comparison.candidates) == ("batch 32", ("batch 8",))
    planned_looks = {"baseline": "batch 32", "looks": [5, 10], "smallest_gain": 0.2}
    larger = study(seeds={"test": 10}, comparisons=[planned_looks])
    (comparison,) = comparisons_of(larger, arms_of(larger))
    assert (comparison.candidates, comparison.looks, comparison.smallest_gain) == (("batch 8",), (5, 10), 0.2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": {"test": [0, 1], "tune": [1]}, "tuning": {}}, "seed 1 is both a test and a tuning seed"),
        ({"seeds": {"test": 0}}, "needs one at least"),
        ({"seeds": {"test": [3, 3]}}, "names a seed twice"),
        ({"seeds": {"test": -1}}, "must be at least 0"),
        ({"tuning": {}}, "seeds.tune has no seed for it"),
        ({"seeds": {"test": 2, "tune": 1}}, "there is no tuning or search that they are for"),
        ({"horizons": [10, 5]}, "they must rise"),
        ({"horizons": []}, "horizons"),
        ({"preset": "minatar-qrdqn"}, "did you mean 'minatar-qr-dqn'?"),
        ({"environments": ["CartPole-v1", "CartPole-v1"]}, "names one twice"),
        ({"settings": {"run.seed": 1}}, "run.seed is set, which the study gives each run by its seeds"),
        ({"arms": [{"grid": {"env.id": ["CartPole-v1"]}}]}, "env.id is set"),
        ({"arms": [{"settings": {"learner.batch_size": 8}}]}, "has no name"),
        (
            {"arms": [{"name": "a", "settings": {"agent.n_step": 1}, "grid": {"agent.n_step": [3]}}]},
            "in its settings and in its",
        ),
        ({"enviroments": []}, "did you mean 'environments'?"),
        ({"arms": [{"name": "a", "setings": {}}]}, "`sbrl study schema` lists them all"),
        ({"score": "evaluation"}, "evaluates its final agent only"),
        (
            {"tuning": {"environments": ["MinAtar/Breakot-v1"]}, "seeds": {"tune": 1}},
            "names 'MinAtar/Breakot-v1'; did you mean 'MinAtar/Breakout-v1'?: tune on some",
        ),
        ({"name": "Big Study"}, "must match"),
        ({"axes": ["fixed batch"]}, "must be 'fixed updates per step' or 'fixed samples per insert'"),
    ],
)
def test_a_bad_study_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    message = refusal(lambda: study(**changes))
    assert message.startswith("study small.yaml: ")
    assert words in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": [{"name": "a", "settings": {"learner.batch": 8}}]}, "arm 'a': unknown key 'learner.batch'; did you mean"),
        ({"arms": [{"name": "a", "settings": {"learner.batch_size": 0}}]}, "learner.batch_size=0 must be at least 1"),
        ({"arms": [{"name": "a b"}, {"name": "a-b"}]}, "'a b' and 'a-b' have the same name"),
        (
            {"arms": [{"name": "a"}, {"name": "b", "settings": {"learner.batch_size": 32}}]},
            "'a' and 'b' have the same settings",
        ),
        (
            {
                "arms": [{"name": "a", "settings": {"learner.batch_size": 8, "learner.updates_per_step": 1}}],
                "axes": ["fixed samples per insert"],
            },
            "arm 'a' sets learner.updates_per_step, which the axis",
        ),
        ({"run_as": "all roles"}, "actors.num_actors is unset"),
        ({"tuning": {"key": "agent.algorithm"}, "seeds": {"tune": 1}}, "only a number can be tuned"),
        ({"tuning": {"key": "learner.batch_size"}, "seeds": {"tune": 1}}, "make it a grid of arms"),
        ({"tuning": {"key": "learner.lr"}, "seeds": {"tune": 1}}, "there is no config key 'learner.lr'"),
        ({"comparisons": [{"baseline": "batch 33"}]}, "did you mean 'batch 32'?"),
        ({"comparisons": [{"baseline": "batch 8", "candidates": ["batch 8"]}]}, "against itself"),
    ],
)
def test_a_study_whose_runs_cannot_be_is_refused_before_any(changes: dict[str, Any], words: str) -> None:
    def plan() -> None:
        small = study(**changes)
        arms = arms_of(small)
        tuning_runs(small, arms)
        comparisons_of(small, arms)

    message = refusal(plan)
    assert words in message
    assert "\n" not in message


READY = {
    *("pilot", "minatar", "minatar-short", "minatar-grid", "minatar-updates"),
    *("classic-control-positive", "classic-control-negative"),
    *("atari-5", "atari-100k", "paper-20-games"),
}


def test_the_ready_studies_are_sound() -> None:
    listed = list_library()
    assert {one.name for one in listed} >= READY
    for one in listed:
        ready = load_study(one.name)
        assert ready.name == one.name
        arms = arms_of(ready)
        comparisons_of(ready, arms)
        assert len(planned.compared_runs(ready, arms, {})) == len(arms) * len(ready.environments) * len(ready.seeds.for_test)
        assert {variant.factor for arm in arms for variant in variants_of(ready, arm)} == set(
            ready.tuning.factors if ready.tuning else ()
        )


@pytest.mark.parametrize(
    ("name", "high", "steps", "cut"),
    [
        ("ScaledMountainCar-v0", [1, 1], 600, (False, True)),
        ("PublishedMountainCar-v0", [1, 1], 600, (True, False)),
        ("PublishedAcrobot-v1", [1, 1, 1, 1, 4 * np.pi / 5, 9 * np.pi / 5], 500, (True, False)),
    ],
)
def test_ready_environments_are_scaled_and_cut_as_they_say(
    name: str, high: list[float], steps: int, cut: tuple[bool, bool]
) -> None:
    env = gymnasium.make(f"studies.environments:{name}")
    assert isinstance(env.observation_space, gymnasium.spaces.Box)
    assert env.observation_space.low == pytest.approx([-bound for bound in high])
    assert env.observation_space.high == pytest.approx(high)
    env.reset(seed=0)
    for step in range(1, steps + 1):
        observation, reward, terminated, truncated, _ = env.step(1)  # no push
        assert env.observation_space.contains(observation)
        assert reward == -1
        assert (terminated, truncated) == (cut if step == steps else (False, False))


def test_an_unknown_study_is_refused_with_the_nearest() -> None:
    assert "there is no study file pilt" in refusal(lambda: load_study("pilt"))


def test_the_schema_describes_every_key() -> None:
    schema = json.loads(json_schema())
    assert set(schema["properties"]) == set(Study.model_fields)
