"""Environments, on real games: observations at the ends of episodes, and facts that the ALE adapter relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from sbrl import config
from sbrl.envs.make import make_envs, make_spec
from sbrl.envs.render import make_rendered_env
from sbrl.envs.spec import StepResult, VectorEnv
from sbrl.errors import UsageError

SMALL = {"frame_size": 36}


def env_config(env_id: str, **settings: Any) -> config.Env:
    return config.build({"env": {"id": env_id, **settings}}).env


@contextmanager
def opened(env_id: str, num_envs: int, seed: int = 1, num_threads: int = 1, **settings: Any) -> Iterator[VectorEnv]:
    envs = make_envs(env_config(env_id, **settings), num_envs, seed, num_threads)
    try:
        yield envs
    finally:
        envs.close()


def actions_of(envs: VectorEnv, action: int) -> NDArray[Any]:
    return np.full(envs.num_envs, action, np.int64)


def step_until(envs: VectorEnv, action: int, condition: Callable[[StepResult], bool], limit: int) -> StepResult:
    """Repeats `action` until a step's result meets `condition`, without resets: no episode may end before."""
    for _ in range(limit):
        result = envs.step(actions_of(envs, action))
        if condition(result):
            return result
        assert not (result.terminated | result.truncated).any()
    raise AssertionError(f"not met within {limit} steps")


def test_an_ale_episode_starts_with_the_first_frame_last_and_zeros_before_it():
    with opened("ALE/Pong-v5", 2) as envs:
        first = envs.reset()
        assert first.shape == (2, 4, 84, 84)
        assert first.dtype == np.uint8
        assert not first[:, :3].any()
        assert first[:, 3].any(axis=(1, 2)).all()
        second = envs.step(actions_of(envs, 0)).observation
        np.testing.assert_array_equal(second[:, 2], first[:, 3])  # oldest first: the stack moves to the left
        assert not second[:, :2].any()


def test_the_last_observation_of_an_ale_episode_is_not_the_first_of_the_next():
    with opened("ALE/Pong-v5", 2, max_episode_steps=6, **SMALL) as envs:
        before = envs.reset()
        for _ in range(6):
            result = envs.step(actions_of(envs, 2))
            before, last = result.observation, before
        assert result.truncated.all()
        np.testing.assert_array_equal(result.observation[:, :3], last[:, 1:])  # goes on from the step before
        first = envs.reset(result.truncated)
        assert not first[:, :3].any()
        assert first[:, 3].any(axis=(1, 2)).all()


def test_an_observation_is_not_overwritten_by_later_steps():
    with opened("ALE/Pong-v5", 1, **SMALL) as envs:
        kept = envs.reset()
        copies = kept.copy()
        step = envs.step(actions_of(envs, 2))
        step_copy = step.observation.copy()
        for _ in range(30):
            envs.step(actions_of(envs, 2))
        np.testing.assert_array_equal(kept, copies)
        np.testing.assert_array_equal(step.observation, step_copy)


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "CartPole-v1", "MinAtar/Freeway-v1"])
def test_an_episode_is_truncated_after_exactly_max_episode_steps(env_id: str):
    with opened(env_id, 1, max_episode_steps=5) as envs:
        for _ in range(2):  # a second episode counts from zero again
            envs.reset(np.array([True]))
            results = [envs.step(actions_of(envs, k % 2)) for k in range(5)]
            assert [bool(result.truncated[0]) for result in results] == [False] * 4 + [True]
            assert not any(result.terminated[0] for result in results)


def test_cartpole_falling_over_is_a_termination_and_only_that_environment_is_reset():
    with opened("CartPole-v1", 2) as envs:
        envs.reset()
        result = step_until(envs, 1, lambda result: bool(result.terminated.any()), limit=30)
        assert not result.truncated.any()
        assert abs(result.observation[result.terminated][0, 0, 2]) > 0.2  # radians: where the pole counts as fallen
        after = envs.reset(result.terminated)
        assert (np.abs(after[result.terminated]) <= 0.05).all()  # CartPole starts that close to upright
        np.testing.assert_array_equal(after[~result.terminated], result.observation[~result.terminated])


def test_a_game_that_is_lost_is_a_termination():
    with opened("ALE/Breakout-v5", 1, **SMALL) as envs:
        envs.reset()
        result = step_until(envs, 1, lambda result: bool(result.terminated.any()), limit=1000)  # fires and never moves
        assert not result.truncated.any()


def test_ale_rewards_are_not_clipped():
    with opened("ALE/MsPacman-v5", 1, **SMALL) as envs:
        envs.reset()
        result = step_until(envs, 3, lambda result: bool(result.reward[0] > 1), limit=200)  # a dot is worth 10 points
        assert result.reward.dtype == np.float32
        assert result.reward[0] % 10 == 0


@pytest.mark.parametrize(("flag", "losses"), [(True, 4), (False, 0)])
def test_a_lost_life_is_marked_only_if_asked_for_and_ends_no_episode(flag: bool, losses: int):
    with opened("ALE/Breakout-v5", 1, terminal_on_life_loss=flag, **SMALL) as envs:
        envs.reset()
        lost: list[bool] = []

        def terminated(result: StepResult) -> bool:
            lost.append(bool(result.life_lost[0]))
            return bool(result.terminated[0])

        step_until(envs, 1, terminated, limit=1000)
        assert sum(lost) == losses  # of five lives the last one ends the game


@pytest.mark.parametrize(
    ("env_id", "settings", "expected"),
    [
        ("ALE/Pong-v5", {}, (6, (84, 84), 4, "frames", True)),
        ("ALE/Breakout-v5", {"full_action_space": True, "frame_stack": 2}, (18, (84, 84), 2, "frames", True)),
        ("ALE/Freeway-v5", {"clip_rewards": False, **SMALL}, (3, (36, 36), 4, "frames", False)),
        ("CartPole-v1", {}, (2, (4,), 1, "vector", False)),
        ("MinAtar/Breakout-v1", {}, (3, (4, 10, 10), 1, "grid", False)),
        ("Blackjack-v1", {}, (2, (45,), 1, "vector", False)),
    ],
)
def test_the_spec_says_what_the_agent_meets(env_id: str, settings: dict[str, Any], expected: tuple[object, ...]):
    spec = make_spec(env_config(env_id, **settings))
    assert (spec.num_actions, spec.frame_shape, spec.stack, spec.kind, spec.clip_rewards) == expected
    with opened(env_id, 2, **settings) as envs:
        observation = envs.reset()
        assert observation.shape == (2, *spec.observation_shape)
        assert observation.dtype == spec.frame_dtype


def test_a_minatar_observation_has_its_planes_first_and_is_of_zeros_and_ones():
    with opened("MinAtar/Breakout-v1", 1) as envs:
        observation = envs.reset()[0, 0]
        assert set(np.unique(observation)) == {0, 1}
        assert observation[0].sum() == 1  # plane 0 is the paddle, on the bottom row
        assert observation[0, 9].sum() == 1
        assert observation[3].sum() == 30  # plane 3 are the bricks: three rows of ten


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "CartPole-v1", "MinAtar/Seaquest-v1"])
def test_a_seed_decides_everything_whatever_the_threads(env_id: str):
    def play(seed: int, num_threads: int) -> NDArray[Any]:
        generator = np.random.default_rng(0)
        with opened(env_id, 3, seed, num_threads, max_episode_steps=30, **SMALL) as envs:
            seen = [envs.reset()]
            for _ in range(70):  # over the ends of episodes
                result = envs.step(generator.integers(envs.spec.num_actions, size=3))
                done = result.terminated | result.truncated
                seen.append(envs.reset(done) if done.any() else result.observation)
            return np.stack(seen)

    once = play(seed=3, num_threads=1)
    np.testing.assert_array_equal(once, play(seed=3, num_threads=2))
    assert (once != play(seed=4, num_threads=1)).any()
    assert (once[:, 0] != once[:, 1]).any()  # each environment of a vector has a seed of its own


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "CartPole-v1", "MinAtar/Breakout-v1"])
def test_a_rendered_environment_plays_the_same_and_draws(env_id: str):
    env = make_rendered_env(env_config(env_id, **SMALL), seed=5)
    pictures = []
    try:
        with opened(env_id, 1, seed=5, **SMALL) as plain:
            np.testing.assert_array_equal(env.reset(), plain.reset())
            for k in range(40):
                actions = np.array([k % 2], np.int64)
                result = env.step(actions)
                for drawn, expected in zip(result, plain.step(actions), strict=True):
                    np.testing.assert_array_equal(drawn, expected)
                pictures.append(env.picture())
                if result.terminated[0]:
                    break
    finally:
        env.close()
    assert pictures[0].dtype == np.uint8
    assert pictures[0].ndim == 3
    assert pictures[0].shape[2] == 3
    assert (pictures[0] != pictures[-1]).any()


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pong", "did you mean 'ALE/Pong-v5'?"),
        ("PongNoFrameskip-v4", "did you mean 'ALE/Pong-v5'?"),
        ("ALE/Breakot-v5", "did you mean 'ALE/Breakout-v5'?"),
        ("CartPole-v9", "did you mean 'CartPole-v1'?"),
        ("cartploe", "did you mean 'CartPole-v1'?"),
        ("ALE/CartPole-v1", "did you mean 'CartPole-v1'?"),
        ("MinAtar/Brekout-v1", "did you mean 'MinAtar/Breakout-v1'?"),
        ("MinAtar/Breakout-v7", "did you mean 'MinAtar/Breakout-v1'?"),
        ("xyzzyxyzzy", "ALE games are written ALE/Pong-v5"),
        ("Pendulum-v1", "need discrete actions"),
        ("LunarLander-v3", "Box2D is not installed"),
        ("CarRacing-v3", "cannot be made"),
        ("no.such.module:Own-v0", "must be installed, or on PYTHONPATH"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named_with_a_remedy(env_id: str, message: str):
    with pytest.raises(UsageError, match=r"env\.id=") as error:
        make_spec(env_config(env_id))
    assert env_id in str(error.value)
    assert message in str(error.value)


class StartsAtOne(gymnasium.Env[Any, Any]):
    """Discrete actions 1 and 2, as Gymnasium allows; shows the action taken."""

    action_space = spaces.Discrete(2, start=1)
    observation_space = spaces.Box(0.0, 9.0, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.full(1, action, np.float32), 0.0, False, False, {}


def test_an_environment_that_takes_no_render_mode_draws_no_picture_and_says_so():
    gymnasium.register("StartsAtOne-v0", entry_point=StartsAtOne)  # type: ignore[arg-type]  # takes no render_mode
    try:
        with pytest.raises(UsageError, match="draws no picture"):
            make_rendered_env(env_config("StartsAtOne-v0"), seed=1)
    finally:
        del gymnasium.envs.registry["StartsAtOne-v0"]


def test_actions_are_counted_from_where_the_environment_counts_from():
    gymnasium.register("StartsAtOne-v0", entry_point=StartsAtOne)  # type: ignore[arg-type]  # takes no render_mode
    try:
        with opened("StartsAtOne-v0", 2) as envs:
            envs.reset()
            assert envs.step(np.array([0, 1], np.int64)).observation.ravel().tolist() == [1.0, 2.0]
    finally:
        del gymnasium.envs.registry["StartsAtOne-v0"]
