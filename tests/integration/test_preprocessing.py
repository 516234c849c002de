"""An agent's observations of ALE games, against Gymnasium's wrappers, a plain reference, and earlier traces.

docs/preprocessing.md lists the differences from Dopamine and from the defaults of ALE's vector environment, with these tests.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
from ale_py import ALEInterface as Emulator
from ale_py import AtariVectorEnv, LoggerMode
from ale_py.roms import get_rom_path
from gymnasium.spaces import Discrete
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TimeLimit
from numpy.typing import NDArray

from sbrl import config
from sbrl.envs import atari
from sbrl.envs.make import make_envs
from sbrl.envs.render import make_rendered_env
from sbrl.envs.spec import VectorEnv
from tests.integration import golden_traces

# Two builds of OpenCV resize the frames, ALE's and Python's. If a pixel's mean is halfway between two numbers, they may round
# differently, depending on the processor. Measured on x86-64 with AVX2: no pixel of 60 million differs.
LARGEST_DIFFERENCE, LARGEST_MEAN_DIFFERENCE = 1, 0.01

# How the first episode of random actions ends when the limit is 430 steps.
ENDS = {
    "Pong": "truncated",
    "Breakout": "terminated",
    "Seaquest": "terminated",
    "SpaceInvaders": "terminated",
    "MsPacman": "terminated",
    "Freeway": "truncated",
    "Qbert": "terminated",
    "MontezumaRevenge": "truncated",
}
REWARDLESS = ("Freeway", "MontezumaRevenge")  # for random actions


def env_config(game: str, **settings: Any) -> config.Env:
    return config.build({"env": {"id": f"ALE/{game}-v5", "repeat_action_probability": 0.0, **settings}}).env


@contextmanager
def opened(game: str, num_envs: int = 1, seed: int = 1, **settings: Any) -> Iterator[VectorEnv]:
    envs = make_envs(env_config(game, **settings), num_envs, seed)
    try:
        yield envs
    finally:
        envs.close()


@contextmanager
def gymnasium_game(
    game: str,
    limit: int = 27_000,
    frame_skip: int = 4,
    frame_size: int = 84,
    sticky: float = 0.0,
    full_action_space: bool = False,
    life_loss: bool = False,
) -> Iterator[gymnasium.Env[Any, Any]]:
    """The same game through Gymnasium's wrappers; its limit counts agent steps, as ours does."""
    env = gymnasium.make(
        f"ALE/{game}-v5",
        frameskip=1,
        repeat_action_probability=sticky,
        full_action_space=full_action_space,
        disable_env_checker=True,
    )
    frames = AtariPreprocessing(env, noop_max=0, frame_skip=frame_skip, screen_size=frame_size, terminal_on_life_loss=life_loss)
    stacked = FrameStackObservation(TimeLimit(frames, limit), 4, padding_type="zero")
    try:
        yield stacked
    finally:
        stacked.close()


def gymnasium_seed() -> tuple[int, int]:
    """A seed for Gymnasium's environment, and the seed that it passes on to the emulator."""
    for seed in range(64):
        passed_on = int(np.random.SeedSequence(seed).generate_state(2)[1])
        if passed_on < 2**31:  # else it is negative for the emulator
            return seed, passed_on
    raise AssertionError("no seed found")


class Differences:
    """The differences between the frames of two environments."""

    def __init__(self) -> None:
        self.pixels, self.total, self.largest = 0, 0, 0

    def add(self, ours: NDArray[Any], theirs: Any) -> None:
        apart = np.abs(ours.astype(np.int16) - np.asarray(theirs))
        self.pixels += apart.size
        self.total += int(apart.sum())
        self.largest = max(self.largest, int(apart.max()))

    def check(self) -> None:
        assert self.largest <= LARGEST_DIFFERENCE
        assert self.total / self.pixels <= LARGEST_MEAN_DIFFERENCE


def compare(ours: VectorEnv, theirs: gymnasium.Env[Any, Any], steps: int, seed: int | None = None) -> dict[str, int]:
    """Plays both with the same random actions, over several episodes; returns how often each event occurred.

    The same actions lead to the same game only if both have the same set of actions in the same order.
    """
    assert isinstance(theirs.action_space, Discrete)
    assert ours.spec.num_actions == theirs.action_space.n
    met = {"terminated": 0, "truncated": 0, "rewards": 0}
    frames = Differences()
    generator = np.random.default_rng(1)
    frames.add(ours.reset()[0], theirs.reset(seed=seed)[0])
    for _ in range(steps):
        action = int(generator.integers(ours.spec.num_actions))
        result = ours.step(np.array([action], np.int64))
        observation, reward, terminated, truncated, _ = theirs.step(action)
        frames.add(result.observation[0], observation)
        assert result.reward[0] == reward
        assert result.terminated[0] == terminated
        assert result.truncated[0] == (truncated and not terminated)
        met["rewards"] += reward != 0
        met["terminated"] += bool(result.terminated[0])
        met["truncated"] += bool(result.truncated[0])
        if terminated or truncated:
            frames.add(ours.reset(np.array([True]))[0], theirs.reset()[0])
    frames.check()
    return met


@pytest.mark.parametrize("game", ENDS)
def test_a_game_is_what_gymnasium_makes_of_it(game: str):
    with opened(game, max_episode_steps=430) as ours, gymnasium_game(game, limit=430) as theirs:
        met = compare(ours, theirs, steps=500)
    assert met[ENDS[game]] > 0
    assert met["rewards"] > 0 or game in REWARDLESS


@pytest.mark.parametrize("game", ["Breakout", "SpaceInvaders"])
def test_sticky_actions_are_gymnasiums_from_the_same_seed(game: str):
    seed, passed_on = gymnasium_seed()
    with (
        opened(game, seed=passed_on, repeat_action_probability=0.25, max_episode_steps=120) as ours,
        gymnasium_game(game, limit=120, sticky=0.25) as theirs,
    ):
        met = compare(ours, theirs, steps=300, seed=seed)
    assert met["truncated"] > 0  # in both, the emulator's generator continues across episodes


@pytest.mark.parametrize(("frame_skip", "frame_size"), [(1, 84), (2, 84), (3, 36), (5, 100)])
def test_every_frame_skip_and_size_is_gymnasiums(frame_skip: int, frame_size: int):
    with (
        opened("Pong", frame_skip=frame_skip, frame_size=frame_size, max_episode_steps=60) as ours,
        gymnasium_game("Pong", 60, frame_skip, frame_size) as theirs,
    ):
        assert compare(ours, theirs, steps=100)["truncated"] == 1


def test_the_full_set_of_actions_is_gymnasiums():
    with opened("Pong", full_action_space=True) as ours, gymnasium_game("Pong", full_action_space=True) as theirs:
        assert compare(ours, theirs, steps=100)["rewards"] > 0


@pytest.mark.parametrize("frame_skip", [1, 4])
def test_a_step_takes_as_many_emulator_frames_as_the_frame_skip_says(frame_skip: int):
    envs = make_vector_env(env_config("Pong", frame_skip=frame_skip))
    with gymnasium_game("Pong", frame_skip=frame_skip) as theirs:
        _, info = envs.reset(seed=1)
        assert info["episode_frame_number"][0] == theirs.reset()[1]["episode_frame_number"] == 0
        for step in range(1, 20):
            info = envs.step(np.array([step % 6], np.int64))[-1]
            numbers = int(info["episode_frame_number"][0]), theirs.step(step % 6)[-1]["episode_frame_number"]
            assert numbers == (step * frame_skip, step * frame_skip)
    envs.close()


def make_vector_env(env: config.Env) -> AtariVectorEnv:
    """The ALE vector environment inside ours."""
    picture = {"img_height": env.frame_size, "img_width": env.frame_size, "grayscale": True, "stack_num": env.frame_stack}
    rom = gymnasium.spec(env.id).kwargs["game"]
    return atari.make_vector_env(env, rom, num_envs=1, num_threads=1, picture=picture)


class PlainGame:
    """The protocol in plain steps on a bare emulator, in Dopamine's order. The resize is computed, not OpenCV's."""

    def __init__(self, game: str, seed: int) -> None:
        self.emulator = Emulator()
        self.emulator.setLoggerMode(LoggerMode.Error)
        self.emulator.setFloat("repeat_action_probability", 0.0)
        self.emulator.setInt("random_seed", seed)
        rom = get_rom_path(gymnasium.spec(f"ALE/{game}-v5").kwargs["game"])
        assert rom is not None
        self.emulator.loadROM(rom)
        self.actions = self.emulator.getMinimalActionSet()
        self.rows, self.columns = (area_means(size, 84) for size in self.emulator.getScreenDims())
        self.stack: list[NDArray[Any]] = []

    def reset(self) -> NDArray[Any]:
        self.emulator.reset_game()
        self.stack = [np.zeros((84, 84))] * 3 + [self.resized(self.emulator.getScreenGrayscale())]
        return np.stack(self.stack)

    def step(self, action: int) -> tuple[NDArray[Any], float, bool]:
        reward = 0.0
        screens = []
        for _ in range(4):
            reward += self.emulator.act(self.actions[action])
            screens.append(self.emulator.getScreenGrayscale())
            if self.emulator.game_over():
                break
        self.stack = [*self.stack[1:], self.resized(np.maximum(*screens[-2:]) if len(screens) > 1 else screens[0])]
        return np.stack(self.stack), reward, self.emulator.game_over()

    def resized(self, screen: NDArray[Any]) -> NDArray[Any]:
        mean: NDArray[Any] = self.rows @ screen.astype(np.float64) @ self.columns.T
        return mean


def area_means(source: int, target: int) -> NDArray[np.float64]:
    """float64[target, source]: the weight of every source pixel in the mean over each target pixel's area."""
    scale = source / target
    edges = np.arange(target) * scale
    pixels = np.arange(source)
    covered = np.minimum(edges[:, None] + scale, pixels + 1) - np.maximum(edges[:, None], pixels)
    parts: NDArray[np.float64] = np.clip(covered, 0.0, 1.0) / scale
    return parts


@pytest.mark.parametrize("game", ["Breakout", "SpaceInvaders", "AirRaid"])  # AirRaid's screen has 250 lines, others' 210
def test_frames_are_the_means_over_areas_of_the_maximum_of_two_screens(game: str):
    generator = np.random.default_rng(1)
    plain = PlainGame(game, seed=1)
    terminations = 0
    with opened(game, max_episode_steps=350) as ours:
        np.testing.assert_allclose(ours.reset()[0], plain.reset(), atol=0.501, rtol=0)  # rounded to the nearest number
        for _ in range(400):
            action = int(generator.integers(ours.spec.num_actions))
            result = ours.step(np.array([action], np.int64))
            observation, reward, game_over = plain.step(action)
            assert (result.reward[0], result.terminated[0]) == (reward, game_over)
            terminations += game_over
            # A game that is over shows an earlier frame: see docs/preprocessing.md. It is not trained on.
            shown = 3 if game_over else 4
            np.testing.assert_allclose(result.observation[0, :shown], observation[:shown], atol=0.501, rtol=0)
            if game_over or result.truncated[0]:
                np.testing.assert_allclose(ours.reset(np.array([True]))[0], plain.reset(), atol=0.501, rtol=0)
    assert terminations > 0 or game == "AirRaid"


def test_the_last_observation_of_a_truncated_episode_is_what_a_longer_one_shows_then():
    with opened("SpaceInvaders", max_episode_steps=40) as cut, opened("SpaceInvaders") as whole:
        cut.reset()
        whole.reset()
        for step in range(1, 41):
            ours, longer = (envs.step(np.array([step % 6], np.int64)) for envs in (cut, whole))
            np.testing.assert_array_equal(ours.observation, longer.observation)
            assert ours.truncated[0] == (step == 40)


def test_a_picture_follows_a_truncated_game_to_its_end():
    cut, whole = (make_rendered_env(env_config("SpaceInvaders", max_episode_steps=limit), seed=1) for limit in (40, 50))
    for env in (cut, whole):
        env.reset()
    for step in range(1, 41):
        for env in (cut, whole):
            env.step(np.array([step % 6], np.int64))
        np.testing.assert_array_equal(cut.picture(), whole.picture())
    for env in (cut, whole):
        env.close()


def test_games_side_by_side_end_and_start_anew_as_each_alone_does():
    """One environment's end, of either kind, leaves the others as they are."""
    settings = {"max_episode_steps": 150, "repeat_action_probability": 0.25, "terminal_on_life_loss": True}
    actions = np.random.default_rng(0).integers(4, size=(310, 3))

    def play(num_envs: int, seed: int, chosen: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        with opened("Breakout", num_envs, seed, frame_size=36, **settings) as envs:
            frames, ends = [envs.reset()], []
            for row in chosen:
                result = envs.step(row)
                done = result.terminated | result.truncated
                frames += [result.observation, envs.reset(done)] if done.any() else [result.observation] * 2
                ends.append(result.terminated + 2 * result.truncated + 4 * result.life_lost)
            return np.stack(frames, axis=1), np.stack(ends, axis=1)

    frames, ends = play(3, 6, actions)
    for env in range(3):
        alone, alone_ends = play(1, 6 + env, actions[:, env : env + 1])
        np.testing.assert_array_equal(ends[env], alone_ends[0])
        np.testing.assert_array_equal(frames[env], alone[0])
    assert {1, 2, 4} <= set(ends.ravel())  # both kinds of end, and lives lost
    assert ((ends == 2).sum(axis=0) == 1).any()  # one environment's alone


@pytest.mark.parametrize("game", ["Breakout", "Seaquest"])
def test_a_life_is_lost_where_gymnasium_says_so_and_the_game_goes_on_as_without_the_mark(game: str):
    generator = np.random.default_rng(0)
    losses = 0
    with (
        opened(game, terminal_on_life_loss=True) as ours,
        gymnasium_game(game) as theirs,
        gymnasium_game(game, life_loss=True) as cut,
    ):
        lives = theirs.unwrapped.ale  # type: ignore[attr-defined]
        for env in (ours, theirs, cut):
            env.reset()
        before = lives.lives()
        for _ in range(500):
            action = int(generator.integers(ours.spec.num_actions))
            result = ours.step(np.array([action], np.int64))
            observation, reward, terminated, _, info = theirs.step(action)
            assert (result.reward[0], result.terminated[0]) == (reward, terminated)
            np.testing.assert_allclose(result.observation[0], observation, atol=LARGEST_DIFFERENCE)
            assert result.life_lost[0] == (lives.lives() < before and not terminated)
            before = lives.lives()
            if losses == 0:  # until then it is the same game
                _, _, ended, _, cut_info = cut.step(action)
                assert ended == result.life_lost[0]
                # Gymnasium and Dopamine end the step in the frame of the loss; our step has frame_skip frames like any other.
                assert info["episode_frame_number"] - cut_info["episode_frame_number"] in (range(4) if ended else (0,))
            losses += int(result.life_lost[0])
            if terminated:
                break
    assert losses >= 2


@pytest.mark.parametrize("noop_max", [0, 1, 3])
def test_up_to_noop_max_frames_of_no_op_open_an_episode(noop_max: int):
    envs = make_vector_env(env_config("Pong", noop_max=noop_max))
    envs.reset(seed=1)
    numbers = [int(envs.reset()[1]["episode_frame_number"][0]) for _ in range(60)]
    envs.close()
    assert set(numbers) == set(range(noop_max + 1))


# Of every setting of ALE's vector environment: its default, and what `env`'s defaults (Dopamine's protocol) set.
SETTINGS = {
    "batch_size": (0, None),
    "num_threads": (0, 1),
    "thread_affinity_offset": (-1, None),
    "max_num_frames_per_episode": (108_000, 108_004),  # one step more than our own count allows: it never decides
    "repeat_action_probability": (0.0, 0.25),
    "full_action_space": (False, False),
    "continuous": (False, None),
    "continuous_action_threshold": (0.5, None),
    "autoreset_mode": (gymnasium.vector.AutoresetMode.NEXT_STEP, "SameStep"),
    "img_height": (84, 84),
    "img_width": (84, 84),
    "grayscale": (True, True),
    "stack_num": (4, 4),
    "frameskip": (4, 4),
    "maxpool": (True, True),
    "noop_max": (30, 1),  # exclusive: none
    "episodic_life": (False, False),
    "life_loss_info": (False, False),
    "reward_clipping": (True, False),
    "use_fire_reset": (True, False),
}


def test_every_setting_of_the_vector_environment_is_known_and_given(monkeypatch: pytest.MonkeyPatch):
    parameters = inspect.signature(AtariVectorEnv).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert defaults == {name: default for name, (default, _) in SETTINGS.items()}

    given: dict[str, Any] = {}

    class Recorded(AtariVectorEnv):
        def __init__(self, game: str, num_envs: int, **settings: Any) -> None:
            given.update(settings)
            super().__init__(game, num_envs, **settings)

    monkeypatch.setattr(atari, "AtariVectorEnv", Recorded)
    make_envs(config.build({"env": {"id": "ALE/Pong-v5"}}).env, 1, seed=1).close()
    assert given == {name: value for name, (_, value) in SETTINGS.items() if value is not None}


@pytest.mark.parametrize("game", golden_traces.GAMES)
def test_a_game_is_what_it_was_when_the_golden_traces_were_written(game: str):
    golden, now = golden_traces.read(game), golden_traces.record(game, golden_traces.read(game).action)
    np.testing.assert_array_equal(now.reward, golden.reward)
    np.testing.assert_array_equal(now.end, golden.end)
    np.testing.assert_array_equal(now.life_lost, golden.life_lost)
    frames = Differences()
    frames.add(now.frame, golden.frame)
    frames.check()
