"""A real run of the marked environment under faults: its programs, its links, and its checks."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from learner.checkpoint import CheckpointStore
from sbrl import config as configs
from sbrl.config import Config
from sbrl.coordination.fleet_watch import total
from sbrl.envs.make import make_spec
from sbrl.replay.receipts import Receipts
from sbrl.replay.segments import Segment, SegmentShape
from sbrl.rpc.ports import free_ports
from sbrl.storage.checkpoints import list_checkpoints, updates_of
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import read_episodes
from sbrl.v1.episodes_pb2 import Episode
from sbrl.v1.fleet_pb2 import GetStatusResponse
from tests.chaos.faults import POLL_SECONDS, Injector, kill_everything
from tests.chaos.markers import ENV_ID, environment
from tests.chaos.proxy import Link, Proxies
from tests.chaos.reading import newest_checkpoint, read_log
from tests.chaos.train import LINKS
from tests.chaos.watch import Watch
from tests.chaos.windows import Findings, check_segments
from tests.smoke.conftest import LocalRun

START_SECONDS = 600.0  # a dozen programs load TensorFlow or torch at once, on a machine that may be shared
END_SECONDS = 300.0
LAST_STEPS = 3000  # collected undisturbed after the faults, so that the run can end normally
LEARNED_STEPS = 10_000  # length of a run that must have learned, however slow the machine was under faults
MIN_SIZE = 1000
SETTINGS = (
    f"env.id={ENV_ID}",
    "agent.hidden_size=32",
    "agent.num_quantiles=8",
    "agent.epsilon_decay_steps=4000",
    "agent.discount=0.5",
    "learner.learning_rate=2e-3",
    "learner.adam_epsilon=1e-5",
    "learner.target_update_period=100",
    "learner.publish_period=50",
    "actors.weights_interval_seconds=0.5",
    f"replay.min_size={MIN_SIZE}",
    "evaluator.interval_env_steps=5000",
    "evaluator.epsilon=0",
    "evaluator.episodes=20",
)
ENDLESS = 2**40  # run.env_steps while faults are injected
_WENT_ON = re.compile(r"going on from update (\d+)")


class Resumption(NamedTuple):
    """How a run resumed after it was killed as a whole, or stopped as by a user. Times are of the monotonic clock."""

    ended: float
    before: GetStatusResponse  # as last seen
    saved_updates: int  # of the learner's newest checkpoint
    began: float
    after: GetStatusResponse  # as first seen again, before any role has begun to work
    from_updates: int  # the update from which the learner says it resumes
    stopped: Mapping[str, Any] | None  # the summary of a run that was stopped by Ctrl-C


class Ending(NamedTuple):
    """The state after a run that ended by itself."""

    summary: Mapping[str, Any]
    unknown_steps: int  # steps in the shards' logs that the receipts have neither as received nor as lost


class Session:
    """One run, from its first start to its end, over any number of resumptions."""

    def __init__(self, folder: Path, seed: int, num_shards: int, num_actors: int, *settings: str) -> None:
        """Starts nothing. Args: folder: made if necessary. The run is in its subfolder `run`."""
        self.folder, self.directory = folder, folder / "run"
        self._addresses = [f"127.0.0.1:{port}" for port in free_ports("127.0.0.1", 1 + num_shards)]
        self._arguments = (
            *SETTINGS,
            *(f"run.seed={seed}", f"replay.num_shards={num_shards}", f"actors.num_actors={num_actors}"),
            *settings,
        )
        self.roles = [
            "coordinator",
            *(f"replay-{shard}" for shard in range(num_shards)),
            "learner",
            *(f"actor-{actor}" for actor in range(num_actors)),
            "evaluator",
        ]
        self._proxies = Proxies()
        self._links: dict[str, dict[str, Link]] = {}
        self._runs: list[LocalRun] = []
        self.watch = Watch(self.directory, self._addresses[0], configs.load(overrides=[*self._arguments]).min_replay_size)
        self.resumptions: list[Resumption] = []
        self.findings: list[Findings] = []

    @property
    def config(self) -> Config:
        return configs.load(RunDirectory(self.directory).config)

    @property
    def run(self) -> LocalRun:
        """The run's most recent start."""
        return self._runs[-1]

    def start(self) -> Injector:
        """Starts the run without a reachable end; returns once it trains."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._proxies.start()
        servers = dict(zip(["coordinator", *self.shards], self._addresses, strict=True))
        for role in self.roles[1:]:
            wanted = servers if role not in self.shards else {"coordinator": servers["coordinator"]}
            self._links[role] = {server: self._proxies.open(address) for server, address in wanted.items()}
        self._train(*self._arguments, f"run.env_steps={ENDLESS}")
        self.watch.start()
        self._wait_for_work(START_SECONDS)
        return Injector(self.run, self.watch, self._links)

    @property
    def shards(self) -> list[str]:
        return [role for role in self.roles if role.startswith("replay")]

    def kill_and_resume(self, injector: Injector) -> None:
        """Sends SIGKILL to every process of the run at once, then starts it with `--resume`."""
        injector.settle()
        self._kill_and_resume(lambda before: ENDLESS)
        injector.continue_with(self.run)

    def stop_and_resume(self, injector: Injector) -> None:
        """Stops it with Ctrl-C, then starts it with `--resume`: no update is repeated."""
        injector.settle()
        self._stop_and_resume(lambda summary: ENDLESS)
        injector.continue_with(self.run)

    def kill_and_finish(self, injector: Injector, last_steps: int) -> Ending:
        """Like `kill_and_resume`, but the run ends by itself `last_steps` later."""
        injector.settle()
        self._kill_and_resume(lambda before: int(total(before, "actor.env_steps")) + last_steps)
        return self._end()

    def finish(self) -> Ending:
        """Stops the run as a user does, then resumes it undisturbed until it has learned and ends by itself."""
        self._stop_and_resume(lambda summary: max(summary["env_steps"] + LAST_STEPS, LEARNED_STEPS))
        return self._end()

    def check_logs(self) -> dict[int, list[Segment]]:
        """Reads the logs of the shards' newest checkpoints, by shard, and checks every window."""
        shape, directory = self._shape, RunDirectory(self.directory)
        logs: dict[int, list[Segment]] = {}
        for shard in range(self.config.replay.num_shards):
            while (checkpoint := newest_checkpoint(directory.replay_checkpoints(shard))) is not None:
                with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                    try:
                        logs[shard] = read_log(checkpoint, shape, Path(scratch))
                        break
                    except (FileNotFoundError, shutil.Error):
                        continue  # the shard has just replaced this checkpoint
        self.findings.append(check_segments(logs, shape))
        return logs

    def episodes(self, last: int) -> list[Episode]:
        """The last training episodes."""
        return read_episodes(RunDirectory(self.directory).episodes)[-last:]

    def close(self) -> None:
        """Ends all remaining processes."""
        self.watch.stop()
        for run in self._runs:
            if run.is_running:
                kill_everything(run)
        self._proxies.close()

    @property
    def _shape(self) -> SegmentShape:
        return SegmentShape.of(make_spec(self.config.env), self.config.agent.stored_steps)

    def _end(self) -> Ending:
        """Waits until the run has ended."""
        code = self.run.wait(END_SECONDS)
        assert code == 0, f"exit code {code}:\n{self.run.text()[-3000:]}\n{self.run.logs()}"
        self.watch.stop()
        unknown = unknown_steps(RunDirectory(self.directory).learner_checkpoints, self.check_logs(), self._shape)
        return Ending(self.run.summary(), unknown)

    def _train(self, *arguments: str) -> None:
        addresses = {client: {name: link.address for name, link in ways.items()} for client, ways in self._links.items()}
        coordinator, *shards = self._addresses
        self._runs.append(
            LocalRun(
                self.directory,
                *arguments,
                f"network.coordinator_address={coordinator}",
                f"network.replay_addresses={json.dumps(shards)}",
                module="tests.chaos.train",
                environment={**environment(), LINKS: json.dumps(addresses)},
            )
        )

    def _kill_and_resume(self, env_steps: Callable[[GetStatusResponse], int]) -> None:
        before, ended = self.watch.status, time.monotonic()
        kill_everything(self.run)
        self._resume(ended, before, env_steps(before), None)

    def _stop_and_resume(self, env_steps: Callable[[Mapping[str, Any]], int]) -> None:
        ended = time.monotonic()
        self.run.interrupt()
        code = self.run.wait(END_SECONDS)
        assert code == 130, f"exit code {code} after Ctrl-C:\n{self.run.text()[-3000:]}"
        summary = self.run.summary()
        self._resume(ended, self.watch.status, env_steps(summary), summary)

    def _resume(self, ended: float, before: GetStatusResponse, env_steps: int, stopped: Mapping[str, Any] | None) -> None:
        checkpoints = list_checkpoints(RunDirectory(self.directory).learner_checkpoints)
        said_before = len(_WENT_ON.findall(self.run.log("learner")))
        self._train("--resume", f"run.env_steps={env_steps}")
        after = self.run.wait_for(
            lambda status: total(status, "actor.env_steps") > 0, "answer after the resumption", START_SECONDS
        )
        began = time.monotonic()
        if env_steps == ENDLESS:
            self._wait_for_work(START_SECONDS)
        said = self._wait_for_word(said_before) if checkpoints else []
        self.resumptions.append(
            Resumption(
                ended=ended,
                before=before,
                saved_updates=updates_of(checkpoints[-1]) if checkpoints else 0,
                began=began,
                after=after,
                from_updates=int(said[0]) if said else 0,
                stopped=stopped,
            )
        )

    def _wait_for_word(self, known: int) -> list[str]:
        """Waits for the learner's next message on where it resumes. Args: known: the number of earlier messages."""
        deadline = time.monotonic() + START_SECONDS
        while not (said := _WENT_ON.findall(self.run.log("learner"))[known:]) and self.run.is_running:
            assert time.monotonic() < deadline, f"the learner does not say where it goes on:\n{self.run.logs()}"
            time.sleep(POLL_SECONDS)
        return said

    def _wait_for_work(self, seconds: float) -> None:
        start = time.monotonic()
        while not self.watch.worked_since(start):
            assert self.run.is_running, f"the run has ended:\n{self.run.text()[-3000:]}\n{self.run.logs()}"
            assert time.monotonic() < start + seconds, f"no work within {seconds:.0f} s:\n{self.run.text()}\n{self.run.logs()}"
            time.sleep(POLL_SECONDS)


def unknown_steps(learner_checkpoints: Path, logs: Mapping[int, list[Segment]], shape: SegmentShape) -> int:
    """Steps in logs that a learner's newest checkpoint has neither as received nor as lost.

    It is 0 at a run's end. A step that the learner counted twice would be beyond its marks, or make the sum of received and
    lost differ from the steps collected.
    """
    state = CheckpointStore(learner_checkpoints, keep=1).load_newest()
    assert state is not None
    receipts = Receipts.from_state(state.received["receipts"])

    def known() -> int:
        total = receipts.total
        return total.received + total.lost - total.recovered

    before = known()
    for shard, segments in logs.items():
        for segment in sorted(segments, key=lambda one: one.first):
            receipts.take(shard, segment.of, segment.first, int(segment.valid(shape).sum()), from_log=True)
    return known() - before
