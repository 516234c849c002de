"""The conversion of environments' pictures to frames: its rules, against OpenCV, and on real games."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from sbrl import config
from sbrl.envs.make import make_envs, make_spec
from sbrl.envs.pictures import FrameMaker, layout_of
from sbrl.envs.render import make_rendered_env
from sbrl.envs.spec import VectorEnv
from sbrl.errors import UsageError
from tests.picture_env import BUTTONS_ID, LENGTH, SCREEN_ID

RANDOM = np.random.default_rng(1)


def env_config(env_id: str, kwargs: dict[str, Any], **settings: Any) -> config.Env:
    return config.build({"env": {"id": env_id, "kwargs": kwargs, **settings}}).env


@contextmanager
def opened(env: config.Env, num_envs: int = 1, seed: int = 1) -> Iterator[VectorEnv]:
    envs = make_envs(env, num_envs, seed)
    try:
        yield envs
    finally:
        envs.close()


def frame_of(picture: NDArray[np.uint8], size: int = 84) -> NDArray[np.uint8]:
    return FrameMaker(layout_of(spaces.Box(0, 255, picture.shape, np.uint8)), size)(picture)


def random_picture(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def by_opencv(picture: NDArray[np.uint8], size: int = 84) -> NDArray[Any]:
    return cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (size, size), interpolation=cv2.INTER_AREA)


def test_grays_are_opencvs_to_the_bit():
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 3, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 86, 3)
    for square in (colours[k : k + 86] for k in range(0, 7396, 86)):
        np.testing.assert_array_equal(frame_of(square, size=86), cv2.cvtColor(square, cv2.COLOR_RGB2GRAY))


@pytest.mark.parametrize("shape", [(210, 160), (96, 96), (84, 84), (400, 600), (85, 2000), (101, 211)], ids=str)
def test_a_smaller_frame_is_opencvs_by_area(shape: tuple[int, int]):
    """If a mean is halfway between two numbers, OpenCV, which adds floats, may round either way."""
    picture = random_picture(*shape, 3)
    apart = np.abs(frame_of(picture).astype(int) - by_opencv(picture))
    assert apart.max() <= 1
    assert apart.mean() <= 0.01


@pytest.mark.parametrize("shape", [(28, 28), (40, 200), (84, 84), (97, 31), (401, 299)], ids=str)
@pytest.mark.parametrize("size", [36, 84])
def test_a_pixel_is_the_mean_over_its_area_larger_or_smaller(shape: tuple[int, int], size: int):
    """An exact reference: repeats each source pixel `size` times in both directions, and takes means over blocks."""
    picture = random_picture(*shape)
    means = picture.astype(np.float64)
    for side in shape:
        means = means.repeat(size, axis=0).reshape(size, side, -1).mean(axis=1).T
    np.testing.assert_allclose(frame_of(picture, size), means, atol=0.5 + 1e-9, rtol=0)


def test_a_gray_frame_of_the_right_size_is_left_as_it_is():
    picture = random_picture(84, 84)
    np.testing.assert_array_equal(frame_of(picture), picture)


def test_all_layouts_of_one_picture_are_one_frame():
    gray = random_picture(50, 70)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    for picture in (gray[..., None], gray[None], rgb, np.moveaxis(rgb, 2, 0)):
        np.testing.assert_array_equal(frame_of(picture), frame_of(gray))


@pytest.mark.parametrize(
    "shape", [(64, 64, 3), (96, 96, 3), (3, 40, 200), (28, 28), (1, 60, 50), (40, 200, 1), (50, 50), (250, 31, 3)], ids=str
)
@pytest.mark.parametrize(("size", "stack"), [(84, 4), (36, 1)])
def test_any_picture_is_stacked_frames(shape: tuple[int, ...], size: int, stack: int):
    env = env_config(BUTTONS_ID, {"shape": list(shape)}, frame_size=size, frame_stack=stack)
    spec = make_spec(env)
    assert spec == (2, (size, size), np.dtype(np.uint8), stack, "frames", False)
    assert env.frames_per_step == 1
    with opened(env, num_envs=2) as envs:
        before = envs.reset()
        assert before.shape == (2, stack, size, size)
        assert before.dtype == np.uint8
        assert not before[:, :-1].any()  # zeros before an episode's first frame, as in ALE's games
        assert before[:, -1].any()
        for step in range(1, 2 * LENGTH + 1):
            kept = before.copy()
            result = envs.step(np.array([0, 1]))
            np.testing.assert_array_equal(result.observation[:, :-1], before[:, 1:])  # oldest first, also where it ends
            np.testing.assert_array_equal(before, kept)
            before = result.observation
            assert result.terminated.all() == (step % LENGTH == 0)
            if result.terminated.any():
                before = envs.reset(result.terminated)
                assert not before[:, :-1].any()


@pytest.mark.parametrize(
    ("kwargs", "kind", "frame_shape"),
    [
        ({"shape": [10, 10, 4], "high": 1}, "grid", (4, 10, 10)),
        ({"shape": [32, 32, 3], "high": 1}, "grid", (3, 32, 32)),
        ({"shape": [32, 32, 3]}, "frames", (84, 84)),
        ({"shape": [7, 7, 3]}, "vector", (147,)),  # MiniGrid's codes of objects, colours and states: no picture
        ({"shape": [25, 25, 3]}, "vector", (1875,)),
        ({"shape": [27, 60, 1]}, "vector", (1620,)),
        ({"shape": [40, 40, 2]}, "vector", (3200,)),
        ({"shape": [40, 40], "high": 9}, "vector", (1600,)),
        ({"shape": [1, 1, 3]}, "vector", (3,)),
    ],
    ids=str,
)
def test_what_is_a_grid_a_picture_and_a_vector(kwargs: dict[str, Any], kind: str, frame_shape: tuple[int, ...]):
    spec = make_spec(env_config(BUTTONS_ID, kwargs))
    assert (spec.kind, spec.frame_shape) == (kind, frame_shape)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shape": [64, 64, 2]}, "(64, 64, 2), uint8); neither its last nor its first dimension is 1 (gray) or 3 (RGB)"),
        ({"shape": [64, 64, 5]}, "neither its last nor its first dimension"),
        ({"shape": [64, 64, 4]}, "observation[..., :3] drops an alpha channel"),
        ({"shape": [4, 84, 84]}, "env.frame_stack stacks frames"),
        ({"shape": [64, 64, 3], "high": 1}, "its bounds are 0 and 1 and a picture's are 0 and 255"),
        ({"shape": [64, 64, 3], "low": 5}, "its bounds are 5 and 255 and a picture's are 0 and 255"),
        ({"shape": [20, 100, 3]}, "it is 20 x 100 and a picture is at least 28 x 28"),
        ({"shape": [0, 64, 3]}, "it is 0 x 64 and a picture is at least 28 x 28"),
        ({"shape": [64, 0]}, "it is 64 x 0 and a picture is at least 28 x 28"),
        ({"shape": [20, 20, 20]}, "neither its last nor its first dimension"),
        ({"shape": [2, 64, 64, 3]}, "its shape is (2, 64, 64, 3) and a picture has 2 or 3 dimensions"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused_in_a_line_with_shape_rule_and_remedy(kwargs: dict[str, Any], message: str):
    with pytest.raises(UsageError) as error:
        make_spec(env_config(BUTTONS_ID, kwargs))
    text = str(error.value)
    assert text.startswith(f"env.id={BUTTONS_ID}: its observation space is Box(")
    assert message in text
    assert "gymnasium.wrappers" in text
    assert "\n" not in text


def test_a_float_picture_is_refused_with_the_type_that_it_should_have():
    space = spaces.Box(0.0, 1.0, (64, 64, 3), np.float32)
    with pytest.raises(ValueError, match=re.escape("its type is float32 and a picture's is uint8")):
        layout_of(space)


def test_a_picture_of_another_shape_or_type_than_its_space_says_is_a_bad_value():
    env = env_config("tests.bad_env:BadEnv-v0", {})
    gymnasium.registry.pop("BadEnv-v0", None)
    space = spaces.Box(0, 255, (60, 60, 3), np.uint8)
    gymnasium.register(
        "BadEnv-v0",
        entry_point="tests.bad_env:BadEnv",
        kwargs={"what": "observation", "value": np.zeros((60, 61, 3), np.uint8), "at": 2, "length": 5, "space": space},
    )
    with opened(env.model_copy(update={"on_bad_value": "drop_episode"})) as envs:
        first = envs.reset()
        before = envs.step(np.array([0])).observation
        result = envs.step(np.array([0]))
        assert result.bad.all()
        np.testing.assert_array_equal(result.observation, before)
        np.testing.assert_array_equal(envs.reset(result.bad), first)


def gymnasium_seed() -> tuple[int, int]:
    """A seed for Gymnasium's environment, and the seed that it passes on to the emulator."""
    for seed in range(64):
        passed_on = int(np.random.SeedSequence(seed).generate_state(2)[1])
        if passed_on < 2**31:  # else it is negative for the emulator
            return seed, passed_on
    raise AssertionError("no seed found")


@pytest.mark.parametrize("game", ["Breakout", "Seaquest"])
def test_a_game_shown_whole_is_opencvs_gray_and_area_resize(game: str):
    pixels, total = 0, 0
    with opened(env_config(SCREEN_ID, {"game": game, "frameskip": 4}), seed=3) as envs:
        screen = gymnasium.make(f"ALE/{game}-v5", frameskip=4, repeat_action_probability=0.0)
        seen, (shown, _) = envs.reset(), screen.reset(seed=3)
        for step in range(200):
            apart = np.abs(seen[0, -1].astype(int) - by_opencv(shown))
            assert apart.max() <= 1
            pixels, total = pixels + apart.size, total + int(apart.sum())
            result = envs.step(np.array([step % envs.spec.num_actions]))
            shown, reward, terminated, _, _ = screen.step(step % envs.spec.num_actions)
            assert (result.reward[0], result.terminated[0]) == (reward, terminated)
            seen = result.observation
            if terminated:
                seen, (shown, _) = envs.reset(result.terminated), screen.reset()
        screen.close()
    assert total / pixels <= 0.01


def test_a_game_shown_whole_is_what_ales_own_path_makes_of_it():
    """One emulator frame per step, so that neither takes a maximum of two. ALE rounds its palette's grays itself."""
    seed, passed_on = gymnasium_seed()
    ale = config.build({"env": {"id": "ALE/Breakout-v5", "frame_skip": 1, "repeat_action_probability": 0.0}}).env
    with (
        opened(env_config(SCREEN_ID, {"game": "Breakout", "frameskip": 1}), seed=seed) as envs,
        opened(ale, seed=passed_on) as own,
    ):
        np.testing.assert_allclose(envs.reset(), own.reset(), atol=2, rtol=0)
        for step in range(150):
            ours, theirs = (each.step(np.array([step // 10 % 4])) for each in (envs, own))
            np.testing.assert_allclose(ours.observation, theirs.observation, atol=2, rtol=0)
            assert ours.reward == theirs.reward


def test_a_picture_for_people_is_the_environments_own():
    env = make_rendered_env(env_config(BUTTONS_ID, {"shape": [64, 64, 3]}), seed=1)
    try:
        assert env.spec.kind == "frames"
        env.reset()
        env.step(np.array([0]))
        assert env.picture().shape == (20, 30, 3)
    finally:
        env.close()
