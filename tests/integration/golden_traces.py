"""Traces of games in our environment, kept in the repository, to detect changes by ALE, OpenCV or our code.

`python -m tests.integration.golden_traces` says whether they still hold. `--write` replaces them: do that only if you know why
they changed, and say so in the commit.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbrl import config
from sbrl.envs.make import make_envs

GAMES = ("Pong", "Breakout", "Seaquest", "SpaceInvaders", "MsPacman", "Freeway", "Qbert", "MontezumaRevenge")
DIRECTORY = Path(__file__).parent / "golden"
STEPS = 500
LIMIT = 430  # agent steps per episode: games that are not over by then are truncated
EVERY = 10  # one in this many frames is kept: a change to a game shows in all later frames


class Trace(NamedTuple):
    """A game played with given actions, none of them sticky. T steps, K kept frames."""

    action: NDArray[np.uint8]  # [T]
    reward: NDArray[np.int32]  # [T]
    end: NDArray[np.uint8]  # [T], 1 if the game was over, 2 if the episode was truncated
    life_lost: NDArray[np.uint8]  # [T]
    frame: NDArray[np.uint8]  # [K, 84, 84], the newest frame of every EVERY-th observation, of each last and each first


def record(game: str, actions: NDArray[np.uint8]) -> Trace:
    """Plays `actions`, over as many episodes as they last."""
    env = config.build(
        {
            "env": {
                "id": f"ALE/{game}-v5",
                "repeat_action_probability": 0.0,
                "terminal_on_life_loss": True,
                "max_episode_steps": LIMIT,
            }
        }
    ).env
    envs = make_envs(env, num_envs=1, seed=1)
    try:
        frames = [envs.reset()[0, -1]]
        steps = []
        for k, action in enumerate(actions):
            result = envs.step(np.array([action], np.int64))
            end = int(result.terminated[0]) + 2 * int(result.truncated[0])
            steps.append((int(result.reward[0]), end, int(result.life_lost[0])))
            if end or k % EVERY == EVERY - 1:
                frames.append(result.observation[0, -1])
            if end:
                frames.append(envs.reset(np.array([True]))[0, -1])
    finally:
        envs.close()
    reward, ends, life_lost = (np.array(column) for column in zip(*steps, strict=True))
    return Trace(actions, reward.astype(np.int32), ends.astype(np.uint8), life_lost.astype(np.uint8), np.stack(frames))


def random_actions(game: str) -> NDArray[np.uint8]:
    """uint8[STEPS] of the game's minimal set."""
    env = config.build({"env": {"id": f"ALE/{game}-v5"}}).env
    envs = make_envs(env, num_envs=1, seed=1)
    num_actions = envs.spec.num_actions
    envs.close()
    return np.random.default_rng(1).integers(num_actions, size=STEPS, dtype=np.uint8)


def write(game: str, trace: Trace) -> Path:
    """Writes one compressed file: the columns one after the other, frames as differences from the previous one."""
    path = DIRECTORY / f"{game}.xz"
    columns: list[NDArray[Any]] = [*trace[:-1], np.diff(trace.frame, axis=0, prepend=np.uint8(0))]
    path.write_bytes(lzma.compress(b"".join(column.tobytes() for column in columns), preset=9 | lzma.PRESET_EXTREME))
    return path


def read(game: str) -> Trace:
    data = lzma.decompress((DIRECTORY / f"{game}.xz").read_bytes())
    changes = np.frombuffer(data, np.uint8, offset=7 * STEPS).reshape(-1, 84, 84)
    return Trace(
        action=np.frombuffer(data, np.uint8, STEPS),
        reward=np.frombuffer(data, np.int32, STEPS, offset=STEPS),
        end=np.frombuffer(data, np.uint8, STEPS, offset=5 * STEPS),
        life_lost=np.frombuffer(data, np.uint8, STEPS, offset=6 * STEPS),
        frame=np.cumsum(changes, axis=0, dtype=np.uint8),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the traces by what the games are now")
    write_them = parser.parse_args().write
    DIRECTORY.mkdir(exist_ok=True)
    for game in GAMES:
        now = record(game, random_actions(game))
        if write_them:
            path = write(game, now)
            print(f"{game}: {len(now.frame)} frames, {path.stat().st_size:,} bytes")
        else:
            golden = read(game)
            same = all(np.array_equal(getattr(now, name), getattr(golden, name)) for name in Trace._fields)
            print(f"{game}: {'the same' if same else 'CHANGED'}")


if __name__ == "__main__":
    main()
