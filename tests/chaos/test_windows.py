"""The checks of the chaos runs can fail: what an actor writes passes them, and each way of getting it wrong does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from actors.stream import Identity, TransitionStream, WarmUp
from numpy.typing import NDArray
from sbrl.replay.probe import ShardProbe
from sbrl.replay.table import ShardServer

from actors.collector import Collector
from sbrl.config import Config, load
from sbrl.envs.make import make_envs
from sbrl.ports import free_ports
from sbrl.replay.items import TABLE, Items, ItemShape
from sbrl.replay.writer import EpisodeWriter
from tests.chaos.markers import ENV_ID
from tests.chaos.reading import read_items
from tests.chaos.windows import check_items

ENVS, STEPS, N_MAX, TIMEOUT = 2, 200, 3, 20.0


class AlternatingPolicy:
    """Takes each action in turn, so that half of them are right."""

    def __init__(self) -> None:
        self._steps = 0

    def act(self, observation: NDArray[np.float32], epsilon: float | NDArray[np.float64]) -> NDArray[np.int64]:
        self._steps += 1
        return np.full(len(observation), self._steps % 2, np.int64)


def marker_config() -> Config:
    """One shard whose limiter stays out of the way."""
    return load(
        overrides=[
            *(f"env.id={ENV_ID}", "run.env_steps=1000", "replay.num_shards=1", "replay.min_size=1", "replay.error_buffer=1e9"),
            *("agent.n_step=1", f"agent.n_max={N_MAX}"),
        ]
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Items:
    """What two environments' actor wrote to a shard, read back from its checkpoint."""
    config, folder = marker_config(), tmp_path_factory.mktemp("shard")
    envs = make_envs(config.env, ENVS, seed=77)
    shape = ItemShape.of(envs.spec, config.agent.stored_steps)
    (port,) = free_ports("127.0.0.1", 1)
    server = ShardServer(config, shape, 0, port, folder / "replay")
    probe = ShardProbe(f"127.0.0.1:{port}", 0)
    probe.start()
    assert probe.wait_up(TIMEOUT)
    streams = [
        TransitionStream(
            EpisodeWriter([probe.address], shape),
            [probe],
            Identity(0, 1, env),
            max_in_flight=16,
            stop=threading.Event(),
            drain_seconds=TIMEOUT,
            warm_up=WarmUp(1000, lambda: False),
        )
        for env in range(ENVS)
    ]
    collector = Collector(envs, AlternatingPolicy(), streams, lambda episode: None)
    for _ in range(STEPS):
        collector.step(epsilon=0.0, weights_version=3)
    collector.drain()
    for stream in streams:
        stream.close()
    list(server.client.sample(TABLE, STEPS, emit_timesteps=False))  # what a learner has sampled is read back like the rest
    checkpoint = server.checkpoint()
    probe.stop()
    server.stop()
    (folder / "scratch").mkdir()
    return read_items(checkpoint, shape, 0, folder / "scratch")


def test_what_an_actor_writes_is_read_back_whole_and_breaks_no_rule(written: Items) -> None:
    findings = check_items([written])
    assert findings.problems == ()
    assert (findings.items, findings.incarnations) == (ENVS * STEPS, 1)
    assert findings.episodes > ENVS
    # The last episode of each environment was cut off in its middle.
    assert findings.cut_short <= ENVS * (N_MAX - 1)


def swap_last_frames(items: Items) -> Items:
    """A window whose last frame is another episode's."""
    frame = items.frame.copy()
    frame[0, -1] = frame[-N_MAX - 1, 0]
    return items._replace(frame=frame)


def skip_a_frame(items: Items) -> Items:
    frame = items.frame.copy()
    frame[0, 1] = frame[0, 2]
    return items._replace(frame=frame)


def pay_another_reward(items: Items) -> Items:
    reward = items.reward.copy()
    reward[0, 0] = 1 - reward[0, 0]
    return items._replace(reward=reward)


def forget_the_end(items: Items) -> Items:
    return items._replace(discount=np.where(items.action >= 0, 1.0, 0.0).astype(np.float32))


def spoil_a_frame(items: Items) -> Items:
    frame = items.frame.copy()
    frame[0, 0, 0] += 1e-3
    return items._replace(frame=frame)


def mix_incarnations(items: Items) -> Items:
    meta = items.meta.copy()
    meta[1::2, 0, 1] += 1
    return items._replace(meta=meta)


def fill_past_the_end(items: Items) -> Items:
    frame = items.frame.copy()
    last = np.flatnonzero(items.action[:, 1] < 0)[0]
    frame[last, 2] = frame[last, 1]
    return items._replace(frame=frame)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (swap_last_frames, "all frames are of one episode"),
        (skip_a_frame, "frames follow each other"),
        (pay_another_reward, "each reward is the one"),
        (forget_the_end, "the discount is 0"),
        (spoil_a_frame, "none that the environment made"),
        (mix_incarnations, "two incarnations are mixed"),
        (fill_past_the_end, "zero frames"),
    ],
)
def test_a_wrong_item_is_found(written: Items, spoil: Callable[[Items], Items], rule: str) -> None:
    assert rule in "\n".join(check_items([spoil(written)]).problems)


def test_an_item_that_is_there_twice_is_found(written: Items) -> None:
    """In one shard or over two."""
    problem, *_ = check_items([written, written._replace(shard=1)]).problems
    assert problem.startswith(f"{ENVS * STEPS} items are there twice")


def test_the_environment_is_gymnasiums(tmp_path: Path) -> None:
    from gymnasium.utils.env_checker import check_env

    from tests.chaos.markers import MarkersEnv

    check_env(MarkersEnv(), skip_render_check=True)
