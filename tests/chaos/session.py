"""A real run of the marked environment under faults: its programs, its links, and what it is checked for."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sbrl import config as configs
from sbrl.config import Config
from sbrl.envs.make import make_spec
from sbrl.fleet_watch import total
from sbrl.ports import free_ports
from sbrl.replay.items import Items, ItemShape
from sbrl.run_directory import RunDirectory
from sbrl.tables import read_episodes
from sbrl.v1.fleet_pb2 import Episode, GetStatusResponse
from tests.chaos.faults import POLL_SECONDS, Injector, kill_everything
from tests.chaos.markers import ENV_ID, environment
from tests.chaos.proxy import Link, Proxies
from tests.chaos.reading import newest_checkpoint, read_items
from tests.chaos.train import LINKS
from tests.chaos.watch import Watch
from tests.chaos.windows import Findings, check_items
from tests.smoke.conftest import LocalRun

START_SECONDS = 600.0  # a dozen programs load TensorFlow or torch at once, on a machine that may be shared
END_SECONDS = 300.0
GENERATION_INTERVALS, GENERATION_SECONDS = 2.0, 30.0  # in which there must be another generation when all goes well
LAST_STEPS = 3000  # collected undisturbed after the faults, so that the run can end as every run does
LEARNED_STEPS = 10_000  # of a whole run that is to have learned, however slow the machine was under faults
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
    "replay.min_size=1000",
    "evaluator.interval_env_steps=5000",
    "evaluator.epsilon=0",
    "evaluator.episodes=20",
)
ENDLESS = 2**40  # run.env_steps while faults are injected


class Resumption(NamedTuple):
    """What a run that was killed whole, or stopped as users do, went on with."""

    before: GetStatusResponse  # as last seen
    after: GetStatusResponse  # as first seen again: no role has begun to work yet
    at: float  # by the monotonic clock
    stopped: Mapping[str, Any] | None  # the summary of a run that was stopped by Ctrl-C


class Session:
    """One run, from its first start to its end, over any number of resumptions."""

    def __init__(self, folder: Path, seed: int, num_shards: int, num_actors: int, *settings: str) -> None:
        """Starts nothing. Args: folder: made if need be; the run goes into `run` in it."""
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
        self.watch = Watch(self.directory, self._addresses[0])
        self.resumptions: list[Resumption] = []
        self.findings: list[Findings] = []

    @property
    def config(self) -> Config:
        return configs.load(RunDirectory(self.directory).config)

    @property
    def run(self) -> LocalRun:
        """The newest start of it."""
        return self._runs[-1]

    def start(self) -> Injector:
        """Starts the run with no end in sight; returns once it trains."""
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
        """SIGKILL for every process of the run at once, and `--resume`."""
        injector.settle()
        self._wait_for_generation()
        before = self.watch.status
        kill_everything(self.run)
        self._resume(before, ENDLESS, None)
        injector.continue_with(self.run)

    def stop_and_resume(self, injector: Injector) -> None:
        """Ctrl-C, and `--resume`: in between nothing is under way, and the books must be even."""
        injector.settle()
        self._resume(self._interrupt(), ENDLESS, self.run.summary())
        injector.continue_with(self.run)

    def kill_and_finish(self, injector: Injector, last_steps: int) -> dict[str, Any]:
        """As `kill_and_resume`, but the run ends by itself `last_steps` later, having learned; returns its summary."""
        injector.settle()
        self._wait_for_generation()
        before = self.watch.status
        kill_everything(self.run)
        self._resume(before, max(int(total(before, "actor.env_steps")) + last_steps, LEARNED_STEPS), None)
        return self._end()

    def finish(self) -> dict[str, Any]:
        """Stops the run as a user does, lets it collect a little more undisturbed and end by itself; returns its summary."""
        before = self._interrupt()
        self._resume(before, self.run.summary()["env_steps"] + LAST_STEPS, self.run.summary())
        return self._end()

    def check_items(self) -> None:
        """Reads back what the shards' newest checkpoints hold, and checks every window."""
        config, directory = self.config, RunDirectory(self.directory)
        shape = ItemShape.of(make_spec(config.env), config.agent.stored_steps)
        found: list[Items] = []
        for shard in range(config.replay.num_shards):
            while (checkpoint := newest_checkpoint(directory.replay_checkpoints(shard))) is not None:
                with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                    try:
                        found.append(read_items(checkpoint, shape, shard, Path(scratch)))
                        break
                    except (FileNotFoundError, shutil.Error):
                        continue  # the shard has just replaced it by a newer one
        self.findings.append(check_items(found))

    def episodes(self, last: int) -> list[Episode]:
        """The last ones of training."""
        return read_episodes(RunDirectory(self.directory).episodes)[-last:]

    def close(self) -> None:
        """Ends what is left of it."""
        self.watch.stop()
        for run in self._runs:
            if run.is_running:
                kill_everything(run)
        self._proxies.close()

    def _end(self) -> dict[str, Any]:
        """Waits until the run has ended; returns its summary."""
        code = self.run.wait(END_SECONDS)
        assert code == 0, f"exit code {code}:\n{self.run.text()[-3000:]}\n{self.run.logs()}"
        self.watch.stop()
        self.check_items()
        return self.run.summary()

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

    def _interrupt(self) -> GetStatusResponse:
        """Stops the run as a user does; returns how it was seen last."""
        self.run.interrupt()
        code = self.run.wait(END_SECONDS)
        assert code == 130, f"exit code {code} after Ctrl-C:\n{self.run.text()[-3000:]}"
        return self.watch.status

    def _resume(self, before: GetStatusResponse, env_steps: int, stopped: Mapping[str, Any] | None) -> None:
        self._train("--resume", f"run.env_steps={env_steps}")
        after = self.run.wait_for(
            lambda status: total(status, "actor.env_steps") > 0, "answer after the resumption", START_SECONDS
        )
        self.resumptions.append(Resumption(before, after, time.monotonic(), stopped))
        self._wait_for_work(START_SECONDS)

    def _wait_for_generation(self) -> None:
        """Until there is one of this course of events: else a resumption would go back behind the one before it."""
        known = self.resumptions[-1].after.generations if self.resumptions else ()
        base = known[-1].generation if known else 0
        self.run.wait_for(
            lambda status: bool(status.generations) and status.generations[-1].generation > base,
            f"generation after {base}",
            GENERATION_INTERVALS * self.config.replay.checkpoint_interval_seconds + GENERATION_SECONDS,
        )

    def _wait_for_work(self, seconds: float) -> None:
        start = time.monotonic()
        while not self.watch.worked_since(start):
            assert self.run.is_running, f"the run has ended:\n{self.run.text()[-3000:]}\n{self.run.logs()}"
            assert time.monotonic() < start + seconds, f"no work within {seconds:.0f} s:\n{self.run.text()}\n{self.run.logs()}"
            time.sleep(POLL_SECONDS)
