"""The checks of the chaos runs can fail: an actor's segments pass them, and each kind of wrong segment does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.collector import Collector
from actors.segment_stream import SegmentStream
from sbrl.config import Config, load
from sbrl.envs.make import make_envs
from sbrl.replay import shard
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import PADDING, Segment, SegmentShape, Stream
from sbrl.replay.shard import ShardServer
from sbrl.rpc.ports import free_ports
from tests.chaos.markers import ENV_ID
from tests.chaos.reading import newest_checkpoint, read_log
from tests.chaos.windows import check_segments

ENVS, STEPS, N_MAX, TIMEOUT = 2, 150, 3, 20.0  # fits into a queue that nobody reads


class AlternatingPolicy:
    """Takes each action in turn, so that half of them are right."""

    def __init__(self) -> None:
        self._steps = 0

    def act(self, observation: NDArray[np.float32], epsilon: float | NDArray[np.float64]) -> NDArray[np.int64]:
        self._steps += 1
        return np.full(len(observation), self._steps % 2, np.int64)


class Written(NamedTuple):
    shape: SegmentShape
    segments: list[Segment]


def marker_config() -> Config:
    return load(
        overrides=[
            *(f"env.id={ENV_ID}", "run.env_steps=1000", "replay.num_shards=1", "replay.min_size=1"),
            *("agent.n_step=1", f"agent.n_max={N_MAX}"),
        ]
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The segments that an actor of two environments wrote to a shard, read back from its checkpoint."""
    config, folder = marker_config(), tmp_path_factory.mktemp("shard")
    envs = make_envs(config.env, ENVS, seed=77)
    shape = SegmentShape.of(envs.spec, config.agent.stored_steps)
    (port,) = free_ports("127.0.0.1", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "QUEUE_SEGMENTS", 2 * ENVS * STEPS)  # room for segments that nobody takes
        server = ShardServer(config, envs.spec, 0, "cached", port, folder / "replay")
    address = f"127.0.0.1:{port}"
    probe = QueueProbe(address, 0)
    probe.start()
    assert probe.wait_answer(TIMEOUT)
    collector: Collector
    streams = [
        SegmentStream(
            SegmentWriter([address], shape, age=lambda: collector.env_steps),
            shape,
            [probe],
            first=Stream(0, 1, env, 0),
            preferred=0,
            stop=threading.Event(),
            drain_seconds=TIMEOUT,
        )
        for env in range(ENVS)
    ]
    collector = Collector(envs, AlternatingPolicy(), streams, lambda episode: None)
    for _ in range(STEPS):
        collector.step(epsilon=0.0, weights_version=3)
    collector.drain()
    for stream in streams:
        stream.drain()
        stream.close()
    checkpoint = server.checkpoint()
    probe.stop()
    server.stop()
    assert newest_checkpoint(folder / "replay") == checkpoint
    (folder / "scratch").mkdir()
    return Written(shape, read_log(checkpoint, shape, folder / "scratch"))


def test_what_an_actor_writes_is_read_back_whole_and_breaks_no_rule(written: Written) -> None:
    findings = check_segments({0: written.segments}, written.shape)
    assert findings.problems == ()
    assert (findings.segments, findings.transitions, findings.incarnations) == (len(written.segments), ENVS * STEPS, 1)
    assert findings.episodes > ENVS
    # The last episode of each environment was cut off in the middle.
    assert findings.cut_short <= ENVS * (N_MAX - 1)


def test_a_segment_that_is_missing_is_no_fault(written: Written) -> None:
    """Replay may lose segments, and forgets old ones."""
    assert check_segments({0: written.segments[1:3]}, written.shape).problems == ()


# Each changes the first segment of many; rows 0 and 1 are steps of one episode, as `test_..._breaks_no_rule` would not say.


def take_an_other_frame(segment: Segment) -> Segment:
    """A window whose last frame is another episode's."""
    frame = segment.frame.copy()
    ends = np.flatnonzero(segment.action == PADDING)
    frame[1] = frame[ends[0] + 1]
    return segment._replace(frame=frame)


def skip_a_frame(segment: Segment) -> Segment:
    frame = segment.frame.copy()
    frame[1] = frame[2]
    return segment._replace(frame=frame)


def pay_another_reward(segment: Segment) -> Segment:
    reward = segment.reward.copy()
    reward[0] = 1 - reward[0]
    return segment._replace(reward=reward)


def forget_the_ends(segment: Segment) -> Segment:
    return segment._replace(discount=np.where(segment.action != PADDING, 1.0, 0.0).astype(np.float32))


def end_too_early(segment: Segment) -> Segment:
    discount = segment.discount.copy()
    discount[0] = 0.0
    return segment._replace(discount=discount)


def spoil_a_frame(segment: Segment) -> Segment:
    frame = segment.frame.copy()
    frame[0, 0] += 1e-3
    return segment._replace(frame=frame)


def cross_a_reset(segment: Segment) -> Segment:
    """The row between two episodes is treated as a step."""
    action = segment.action.copy()
    action[np.flatnonzero(action == PADDING)[0]] = 0
    return segment._replace(action=action)


def count_on(segment: Segment) -> Segment:
    stream = segment.stream.copy()
    stream[0, -1] += 1
    return segment._replace(stream=stream)


def change_hands(segment: Segment) -> Segment:
    stream = segment.stream.copy()
    stream[0, 1] += 1
    return segment._replace(stream=stream)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (take_an_other_frame, "all frames are of one episode"),
        (skip_a_frame, "frames follow each other"),
        (pay_another_reward, "each reward is the one"),
        (forget_the_ends, "the discount is 0"),
        (end_too_early, "the discount is 0"),
        (spoil_a_frame, "none that the environment made"),
        (cross_a_reset, "no window reaches past"),
        (count_on, "steps are numbered"),
        (change_hands, "two incarnations are mixed"),
    ],
)
def test_a_wrong_segment_is_found(written: Written, spoil: Callable[[Segment], Segment], rule: str) -> None:
    """Spoils a segment in which an episode begins, continues for three steps, and ends."""
    at = next(k for k, one in enumerate(written.segments) if (one.action[:3] != PADDING).all() and has_terminal(one))
    segments = list(written.segments)
    segments[at] = spoil(segments[at])
    assert rule in "\n".join(check_segments({0: segments}, written.shape).problems)


def has_terminal(segment: Segment) -> bool:
    anchors = slice(0, len(segment.action) - N_MAX)
    return bool(((segment.discount[anchors] == 0) & (segment.action[anchors] != PADDING)).any())


def test_a_transition_that_is_there_twice_is_found(written: Written) -> None:
    """In one shard or over two."""
    problem, *_ = check_segments({0: written.segments, 1: written.segments}, written.shape).problems
    assert problem.startswith(f"{ENVS * STEPS} transitions are there twice")


def test_the_environment_is_gymnasiums(tmp_path: Path) -> None:
    from gymnasium.utils.env_checker import check_env

    from tests.chaos.markers import MarkersEnv

    check_env(MarkersEnv(), skip_render_check=True)
