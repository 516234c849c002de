"""The evaluation protocol: which episodes count, what is recorded, and when the evaluator evaluates."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sbrl import config
from sbrl.envs.spec import EnvSpec, StepResult
from sbrl.errors import RunError
from sbrl.networks.build import build_network
from sbrl.seeds import evaluation_seed
from sbrl.v1.episodes_pb2 import Evaluation
from services.evaluator.protocol import evaluate, evaluate_weights, fixed_shares, make_evaluation


class ScriptedEnvs:
    """Environment k repeats episodes of the lengths in `lengths[k]`. Each of its steps has the reward 10 * (k + 1).

    Episodes of `bad_length` end at a bad value.
    """

    def __init__(self, lengths: Sequence[Sequence[int]], bad_length: int = 0) -> None:
        self._bad_length = bad_length
        self.num_envs = len(lengths)
        self.spec = EnvSpec(2, (1,), np.dtype(np.float32), 1, "vector", True)
        self._lengths = lengths
        self._episode = [-1] * self.num_envs
        self._step = [0] * self.num_envs
        self._over = np.ones(self.num_envs, np.bool_)

    def reset(self, mask: NDArray[Any] | None = None) -> NDArray[Any]:
        for env in range(self.num_envs) if mask is None else np.flatnonzero(mask):
            assert self._over[env], "an episode that goes on must not be reset"
            self._episode[env] += 1
            self._step[env] = 0
            self._over[env] = False
        return np.zeros((self.num_envs, 1, 1), np.float32)

    def step(self, actions: NDArray[Any]) -> StepResult:
        assert not self._over.any(), "an episode that ended must be reset before the next step"
        for env, lengths in enumerate(self._lengths):
            self._step[env] += 1
            self._over[env] = self._step[env] == lengths[self._episode[env] % len(lengths)]
        reward = 10.0 * np.arange(1, self.num_envs + 1, dtype=np.float32)
        truncated = self._over & (np.arange(self.num_envs) == 1)  # those of environment 1 are cut off: they count as well
        nothing = np.zeros(self.num_envs, np.bool_)
        bad = self._over & (np.array(self._step) == self._bad_length)
        terminated, observation = self._over & ~truncated & ~bad, np.zeros((self.num_envs, 1, 1), np.float32)
        return StepResult(observation, reward, terminated, truncated & ~bad, nothing, bad)

    def close(self) -> None:
        pass


class RecordingPolicy:
    def __init__(self) -> None:
        self.epsilons: set[float] = set()

    def act(self, observation: NDArray[Any], epsilon: float) -> NDArray[Any]:
        self.epsilons.add(epsilon)
        return np.zeros(len(observation), np.int64)


def episodes(number: int, epsilon: float = 0.0) -> config.Evaluator:
    return config.Evaluator(episodes=number, epsilon=epsilon)


def test_every_environment_plays_its_share_however_short_the_episodes_of_others_are():
    policy, heard = RecordingPolicy(), []
    envs = ScriptedEnvs([[1], [7], [3, 20]])
    result = evaluate(policy, envs, episodes(5, epsilon=0.25), threading.Event(), lambda *episode: heard.append(episode))
    assert result is not None
    # Two, two and one; the first five to end would have been [1], [1], [1], [3] and [1].
    assert result.lengths.tolist() == [1, 1, 7, 7, 3]
    assert result.returns.tolist() == [10, 10, 140, 140, 90]  # unclipped, though the spec has the learner clip
    assert heard == [(10, 1), (10, 1), (90, 3), (140, 7), (140, 7)]  # as they end
    assert policy.epsilons == {0.25}


def test_an_episode_with_a_bad_value_is_left_out_and_not_played_again():
    heard: list[tuple[float, int]] = []
    envs = ScriptedEnvs([[1, 4], [7, 4], [4]], bad_length=4)
    result = evaluate(RecordingPolicy(), envs, episodes(5), threading.Event(), lambda *episode: heard.append(episode))
    assert result is not None
    assert (result.lengths.tolist(), result.returns.tolist(), result.cut) == ([1, 7], [10, 140], 3)
    assert heard == [(10, 1), (140, 7)]


def test_an_evaluation_of_bad_values_alone_is_an_error_and_ends():
    with pytest.raises(RunError, match="all 3 episodes of the evaluation ended at a bad value"):
        evaluate(RecordingPolicy(), ScriptedEnvs([[4]], bad_length=4), episodes(3), threading.Event(), lambda *_: None)


@pytest.mark.parametrize(("episodes", "num_envs", "shares"), [(10, 5, [2] * 5), (7, 3, [3, 2, 2]), (1, 3, [1, 0, 0])])
def test_shares_add_up_and_differ_by_one_at_most(episodes: int, num_envs: int, shares: list[int]):
    assert fixed_shares(episodes, num_envs) == shares


def test_an_evaluation_told_to_stop_ends_at_once_and_has_no_result():
    stop = threading.Event()
    result = evaluate(RecordingPolicy(), ScriptedEnvs([[1], [10**9]]), episodes(2), stop, lambda *episode: stop.set())
    assert result is None


def test_the_record_is_of_the_episodes_played():
    settings = episodes(2, epsilon=0.5)
    result = evaluate(RecordingPolicy(), ScriptedEnvs([[1], [7]]), settings, threading.Event(), lambda *episode: None)
    assert result is not None
    record = make_evaluation(result, settings, weights_version=3, updates=40, env_steps=160, seed=6)
    assert record.time > 0
    record.ClearField("time")
    assert record == Evaluation(
        weights_version=3,
        updates=40,
        env_steps=160,
        return_mean=75,
        return_std=65,
        return_min=10,
        return_max=140,
        episodes=2,
        length_mean=4,
        epsilon=0.5,
        seed=6,
    )


def test_the_same_weights_and_seed_give_the_same_episodes():
    settings = config.build(
        {"env": {"id": "CartPole-v1"}, "agent": {"hidden_size": 8}, "evaluator": {"episodes": 4, "num_envs": 3, "epsilon": 0.5}}
    )
    spec = EnvSpec(2, (4,), np.dtype(np.float32), 1, "vector", False)
    weights = build_network(settings.agent, spec, seed=1).state_dict()

    def lengths(seed: int) -> list[int]:
        result = evaluate_weights(settings, weights, seed, threading.Event(), lambda *episode: None)
        assert result is not None
        return [int(length) for length in result.lengths]

    assert lengths(5) == lengths(5)
    assert len(lengths(5)) == 4
    assert lengths(5) != lengths(6)


def test_evaluations_of_a_run_share_a_seed_that_ale_takes():
    seeds = {evaluation_seed(run_seed) for run_seed in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert evaluation_seed(0) == evaluation_seed(0)
