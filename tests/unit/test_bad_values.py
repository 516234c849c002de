"""Bad values from an environment: they end the run or the episode, and never get further."""

from __future__ import annotations

import json
import logging
import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from actors.collector import Collector
from sbrl import config
from sbrl.envs.gymnasium_envs import BAD_IN_A_ROW, GymnasiumEnvs
from sbrl.envs.make import make_envs
from sbrl.envs.values import LARGEST, BadValueError, check_observation, to_flag, to_reward
from sbrl.errors import FinalError
from sbrl.replay.segments import Transition
from sbrl.v1.episodes_pb2 import Episode
from tests.bad_env import register

NAN, INF = math.nan, math.inf
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
BYTES = spaces.Box(0, 255, (2,), np.uint8)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((1.5, 1.5), (-3, -3.0), (True, 1.0), (np.float32(0.5), 0.5), (np.int64(7), 7.0), (np.array([2.0]), 2.0)),
        *((np.array(4), 4.0), (torch.tensor(0.25), 0.25), (Fraction(1, 4), 0.25), (LARGEST, LARGEST), (-LARGEST, -LARGEST)),
    ],
)
def test_a_reward_is_any_real_number(value: Any, number: float) -> None:
    assert to_reward(value) == number


@pytest.mark.parametrize(
    "value",
    [
        *(NAN, INF, -INF, 1e300, -1e39, 10**400, None, "1.0", b"1", 1j, [1.0, 2.0], [], {}, [[1], [2, 3]]),
        *(
            np.array([1.0, 2.0]),
            np.float64("nan"),
            np.datetime64("2026-01-01"),
            torch.tensor(NAN),
            torch.tensor(1.0, requires_grad=True),
            Ellipsis,
        ),
    ],
    ids=repr,
)
def test_what_is_no_reward(value: Any) -> None:
    with pytest.raises(BadValueError, match=r"reward=.*a reward must be a finite number of at most 3.4e\+38"):
        to_reward(value)


def test_the_end_of_an_episode_is_true_or_false() -> None:
    assert [to_flag("terminated", value) for value in (True, np.True_, 1, np.array([1]), False, 0, 0.0)] == [True] * 4 + [
        False
    ] * 3
    for value in (None, NAN, 2, "yes", np.array([True, False])):
        with pytest.raises(BadValueError, match=r"terminated=.*must be true or false"):
            to_flag("terminated", value)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (BOX, np.array([0.5, 7.0], np.float32)),  # beyond its bounds: as many an environment's are
        (BOX, [0, 1]),
        (BOX, np.array([0.1, 0.2])),  # float64
        (BYTES, np.array([0, 255])),
        (BYTES, [1.0, 2.0]),
        (spaces.Discrete(3), 2),
        (spaces.Tuple((spaces.Discrete(3), BOX)), (np.int64(1), [0.0, 0.0])),
        (spaces.Dict(a=BOX, b=spaces.MultiBinary(2)), {"a": [0.0, 0.0], "b": np.array([0, 1], np.int8), "c": None}),
    ],
    ids=str,
)
def test_good_observations(space: spaces.Space[Any], value: Any) -> None:
    check_observation(space, value)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (BOX, np.array([0.5, NAN], np.float32), "observation[1]=nan, and observations must be finite"),
        (BOX, [INF, 0.0], "observation[0]=inf"),
        (BOX, [1e300, 0.0], "observation[0]=1e+300"),
        (BOX, None, "observation of shape (), and its space has the shape (2,)"),
        (BOX, [0.5], "observation of shape (1,)"),
        (BOX, [[0.5, 0.5]], "observation of shape (1, 2)"),
        (BOX, [None, 0.5], "observation=[None, 0.5], and it must be an array of numbers"),
        (BOX, ["a", "b"], "an array of numbers"),
        (BOX, [[1], [2, 3]], "an array of numbers"),
        (BYTES, np.array([0, 256]), "observation[1]=256, and its space is of uint8"),
        (BYTES, [-1, 0], "observation[0]=-1"),
        (BYTES, [0.5, 0.0], "observation[0]=0.5"),
        (BYTES, [0.0, NAN], "observation[1]=nan"),
        (spaces.Discrete(3), -1, "observation=-1, and it must be of its space Discrete(3)"),
        (spaces.Discrete(3), NAN, "observation=nan"),
        (spaces.Tuple((spaces.Discrete(3), BOX)), (1, [0.0, NAN]), "observation[1][1]=nan"),
        (spaces.Tuple((BOX,)), ([0.0, 0.0], 1), "must be a tuple of 1"),
        (spaces.Dict(a=BOX), {"a": [NAN, 0.0]}, "observation['a'][0]=nan"),
        (spaces.Dict(a=BOX), {"b": [0.0, 0.0]}, "must be a mapping with 'a'"),
        (spaces.Dict(a=BOX), None, "must be a mapping with 'a'"),
    ],
    ids=str,
)
def test_bad_observations(space: spaces.Space[Any], value: Any, message: str) -> None:
    with pytest.raises(BadValueError, match=re.escape(message)):
        check_observation(space, value)


GRID = spaces.Box(0, 1, (5, 5, 2), np.uint8)
BAD = [
    *(("reward", value) for value in (NAN, INF, None, 1e300)),
    *(("observation", value) for value in (np.array([0, 0, NAN, 0], np.float32), np.zeros(1), None)),
    *(("terminated", None), ("truncated", NAN)),
]


def bad_envs(num_envs: int = 1, on_bad_value: str = "stop", **settings: Any) -> GymnasiumEnvs:
    tree = {"env": {"id": register(**{"length": 8, **settings}), "on_bad_value": on_bad_value}}
    envs = make_envs(config.build(tree).env, num_envs, seed=1)
    assert isinstance(envs, GymnasiumEnvs)
    return envs


@pytest.mark.parametrize(("what", "value"), BAD, ids=str)
def test_a_bad_value_ends_the_run_and_names_environment_value_step_and_remedy(what: str, value: Any) -> None:
    envs = bad_envs(what=what, value=value, at=3)
    envs.reset()
    for _ in range(2):
        envs.step(np.zeros(1, np.int64))
    with pytest.raises(FinalError) as refused:
        envs.step(np.zeros(1, np.int64))
    assert all(
        words in str(refused.value) for words in ("env.id=Bad-v0", what, "in step 3 of", "env.on_bad_value=drop_episode")
    )
    assert "\n" not in str(refused.value)


def test_a_grid_of_other_values_is_bad() -> None:
    envs = bad_envs(what="observation", value=np.full((5, 5, 2), NAN), at=1, space=GRID)
    envs.reset()
    with pytest.raises(FinalError, match=r"observation\[0, 0, 0\]=nan"):
        envs.step(np.zeros(1, np.int64))


def test_a_bad_first_observation_is_tried_again_and_in_the_end_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FinalError, match="at a reset"):
        bad_envs(what="observation", value=None, at=0).reset()
    caplog.set_level(logging.WARNING)
    with pytest.raises(FinalError, match=f"the last of {BAD_IN_A_ROW} bad values without a good step between"):
        bad_envs(on_bad_value="drop_episode", what="observation", value=None, at=0).reset()
    assert len(caplog.records) == 4  # the first, the second, the fourth and the eighth


class Policy:
    def act(self, observation: NDArray[Any], epsilon: float | NDArray[np.float64]) -> NDArray[np.int64]:
        assert np.isfinite(observation).all()
        return np.zeros(len(observation), np.int64)


class Stream:
    """Records the rewards of each episode's steps."""

    def __init__(self) -> None:
        self.episodes: list[list[float]] = []
        self.open = False

    def begin(self, observation: NDArray[Any]) -> None:
        assert not self.open
        self.episodes.append([])
        self.open = True

    def append(self, transition: Transition, observation: NDArray[Any]) -> None:
        assert self.open
        assert np.isfinite(observation).all()
        assert np.isfinite(transition.frame).all()
        self.episodes[-1].append(transition.reward)

    def end(self) -> None:
        self.open = False


@pytest.mark.parametrize(("what", "value"), BAD, ids=str)
def test_the_steps_before_a_bad_value_are_kept_and_the_episode_is_no_episode(what: str, value: Any) -> None:
    # Every 11th step of an environment is bad: its first episode of 8 is complete, its second has 2 good steps.
    envs = bad_envs(2, "drop_episode", what=what, value=value, at=11, of_all=True)
    streams, finished = [Stream(), Stream()], list[Episode]()
    collector = Collector(envs, Policy(), streams, finished.append)
    for _ in range(11):
        collector.step(0.0, 0)
    assert [stream.episodes for stream in streams] == [[[1.0] * 8, [1.0] * 2, []]] * 2
    assert [(episode.episode_return, episode.number) for episode in finished] == [(8.0, 0), (8.0, 1)]
    assert (collector.env_steps, collector.episodes_cut) == (22, 2)
    for _ in range(8):
        collector.step(0.0, 0)
    assert [episode.episode_return for episode in finished] == [8.0] * 4
    assert json.dumps([episode.episode_return for episode in finished], allow_nan=False)


def test_an_environment_of_bad_values_alone_ends_the_run_all_the_same() -> None:
    envs = bad_envs(1, "drop_episode", what="reward", value=NAN, at=1)
    collector = Collector(envs, Policy(), [Stream()], lambda episode: None)

    def collect() -> None:
        for _ in range(BAD_IN_A_ROW):
            collector.step(0.0, 0)

    with pytest.raises(FinalError, match="there is nothing to learn from"):
        collect()
    assert collector.episodes_cut == BAD_IN_A_ROW - 1
