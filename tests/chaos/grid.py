"""Does the ratio hold with any number of shards and actors? `python -m tests.chaos.grid`

Every cell has real shards (the program that pods run), actors' streams, and the learner's readers, accounting, memory and end
of run. Actors are cheap: their environments are this test's own, all are threads of one process, and the learner trains
nothing. Actors collect at different speeds, and the learner pauses now and then: with equal speeds there would be nothing to
hold. The exit code is 1 if a cell breaks the ratio or the accounting, at any look or at its end.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from actors.collector import Collector
from actors.segment_stream import SegmentStream, preferred_shard
from learner.ending import RunEnd
from learner.replay import Replay
from sbrl import config as configs
from sbrl.config import SEGMENT_STEPS, Config
from sbrl.coordination.fleet import RunState
from sbrl.coordination.fleet_watch import FleetWatch
from sbrl.envs.make import make_envs, make_spec
from sbrl.monitor.readable import duration
from sbrl.monitor.run_status import RunStatus
from sbrl.replay.queue_probe import QueueProbe
from sbrl.replay.receipts import WITH_ACTORS
from sbrl.replay.segment_writer import SegmentWriter
from sbrl.replay.segments import SegmentShape, Stream
from sbrl.rpc.ports import free_ports
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program
from sbrl.v1.fleet_pb2 import GetStatusResponse, LearnerProgress, ShardProgress
from tests.chaos.judge import EXACT, SHARD_SEGMENTS, STREAM_SEGMENTS
from tests.chaos.markers import ENV_ID, NUM_ACTIONS, environment

SHARDS, ACTORS = (1, 2, 4, 8, 16), (1, 4, 16)
START_SECONDS, CELL_SECONDS = 600.0, 1800.0
WAIT_SECONDS = 0.1
PAUSE_SECONDS, PAUSE_EVERY = 0.5, 500  # updates: in place of publishing, saving and waiting for the device


class Cell(NamedTuple):
    """One cell's figures."""

    shards: int
    actors: int
    env_steps: int
    received: int
    lost: int
    in_flight: int  # at the end
    duplicates: int
    most_in_flight: int
    trained: int
    due: float
    target: float
    achieved: float  # samples trained / (transitions received - min_size)
    most_behind: float  # most samples due and not trained, at any look
    least_share: float  # the least share of transitions of a shard, as a fraction of an equal share
    seconds: float
    broken: str  # the promise that did not hold; empty if all did


class RandomPolicy:
    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def act(self, observation: NDArray[np.float32], epsilon: float | NDArray[np.float64]) -> NDArray[np.int64]:
        return self._generator.integers(NUM_ACTIONS, size=len(observation))


class CheapActor(threading.Thread):
    """An actor without a network: one environment, one real stream."""

    def __init__(self, config: Config, probes: Sequence[QueueProbe], index: int, steps: int, stop: threading.Event) -> None:
        super().__init__(name=f"actor-{index}", daemon=True)
        envs = make_envs(config.env, 1, seed=1000 + index)
        shape = SegmentShape.of(envs.spec, config.agent.stored_steps)
        self._stream = SegmentStream(
            SegmentWriter(config.network.replay_addresses, shape, age=lambda: self.env_steps),
            shape,
            probes,
            first=Stream(index, index + 1, 0, 0),
            preferred=preferred_shard(index, 0, 1, len(probes)),
            stop=stop,
            drain_seconds=10.0,
        )
        self._collector = Collector(envs, RandomPolicy(index), [self._stream], lambda episode: None)
        self._steps, self._slowness, self._stop_all = steps, index % 4, stop
        self.env_steps = 0  # counted before the step, as in a real actor: every received step has been counted

    def run(self) -> None:
        while self.env_steps < self._steps and not self._stop_all.is_set():
            self.env_steps += 1
            self._collector.step(0.0, weights_version=1)
            if self._slowness:
                self._stop_all.wait(0.001 * self._slowness)
        self._collector.drain()
        self._stream.drain()
        self._stream.close()


class CellFleet:
    """The status of the actors, as from a coordinator, and of the learner."""

    def __init__(self, config: Config, actors: Sequence[CheapActor], replay: Replay) -> None:
        self._config, self._actors, self._replay = config, actors, replay

    @property
    def status(self) -> GetStatusResponse:
        ratio, receipts = self._replay.ratio, self._replay.receipts
        shards = [
            ShardProgress(**receipts.of_shard(reader.shard)._asdict(), answers=reader.is_up) for reader in self._replay.readers
        ]
        with_actors = receipts.of_shard(WITH_ACTORS)
        progress = LearnerProgress(
            samples_trained=ratio.trained,
            samples_due=ratio.due,
            shards=shards,
            lost_with_actors=with_actors.lost - with_actors.recovered,
        )
        state = RunState.RUNNING if any(actor.is_alive() for actor in self._actors) else RunState.COLLECTED
        totals = {"actor.env_steps": float(sum(actor.env_steps for actor in self._actors))}  # read after the receipts
        return GetStatusResponse(totals=totals, state=state.wire_name, progress=progress)

    @property
    def run(self) -> RunStatus:
        return RunStatus.of(self.status, self._config.min_replay_size)


class Looks:
    """The extremes seen in a cell so far."""

    def __init__(self, config: Config, num_actors: int) -> None:
        self._behind = config.samples_per_insert * (config.receive_ahead + SEGMENT_STEPS)
        self._in_flight = SEGMENT_STEPS * (num_actors * STREAM_SEGMENTS + config.replay.num_shards * SHARD_SEGMENTS)
        self._ratio, self._min_size = config.samples_per_insert, config.min_replay_size
        self.most_in_flight, self.most_behind = 0, 0.0
        self.broken = ""

    def look(self, run: RunStatus) -> None:
        behind = run.samples_due - run.samples_trained
        self.most_in_flight, self.most_behind = max(self.most_in_flight, run.in_flight), max(self.most_behind, behind)
        if not 0 <= run.in_flight <= self._in_flight:
            self.broken = self.broken or f"{run.in_flight} steps in flight, at most {self._in_flight}"
        if not 0 <= behind <= self._behind:
            self.broken = self.broken or f"{behind:g} samples behind, at most {self._behind:g}"
        if abs(run.samples_due - self._ratio * max(0, run.received - self._min_size)) > EXACT:
            self.broken = self.broken or f"{run.samples_due:g} samples due for {run.received} transitions"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.grid", description=__doc__)
    parser.add_argument("--steps", type=whole_number(2_000, 2**31), default=20_000, help="agent steps in each cell (20,000)")
    parser.add_argument("--shards", type=whole_number(1, 17), nargs="+", default=SHARDS)
    parser.add_argument("--actors", type=whole_number(1, 257), nargs="+", default=ACTORS)
    parser.add_argument("--out", type=Path, default=Path("runs/ratio-grid.csv"))
    arguments = parser.parse_args(argv)
    wanted = [(shards, actors) for shards in arguments.shards for actors in arguments.actors]
    cells: list[Cell] = []
    start = time.monotonic()
    for shards, actors in wanted:
        cells.append(measure(shards, actors, arguments.steps))
        elapsed = time.monotonic() - start
        left = elapsed / len(cells) * (len(wanted) - len(cells))
        one, broken = cells[-1], f", BROKEN: {cells[-1].broken}" if cells[-1].broken else ""
        print(
            f"{shards} shards, {actors} actors: {one.achieved:.4f} of {one.target:g}, "
            f"{one.env_steps:,} steps = {one.received:,} received + {one.lost:,} lost, {one.seconds:.0f} s{broken}; "
            f"{len(cells)}/{len(wanted)} cells, ETA {duration(left)}",
            flush=True,
        )
    write(arguments.out, cells)
    print(f"\n{table(cells)}\n\nwritten to {arguments.out}")
    return int(any(cell.broken for cell in cells))


def measure(num_shards: int, num_actors: int, steps: int) -> Cell:
    """Runs one cell."""
    with tempfile.TemporaryDirectory(prefix="sbrl-grid-") as folder:
        config = cell_config(num_shards, num_actors, steps)
        path = Path(folder) / "run.yaml"
        path.write_text(configs.dump(config), encoding="utf-8")
        processes = start_replay(path, num_shards)
        probes = [QueueProbe(address, shard) for shard, address in enumerate(config.network.replay_addresses)]
        try:
            wait_for(probes)
            return run_cell(config, probes, num_actors, steps)
        finally:
            for probe in probes:
                probe.stop()
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


def cell_config(num_shards: int, num_actors: int, steps: int) -> Config:
    ports = free_ports("127.0.0.1", 1 + num_shards)
    tree = configs.load(
        overrides=[
            *(f"env.id={ENV_ID}", f"run.env_steps={steps}", f"replay.num_shards={num_shards}", "replay.sampling=cached"),
            *(f"replay.min_size={steps // 10}", f"replay.capacity={steps // 2}", f"actors.num_actors={num_actors}"),
            "replay.checkpoint_interval_seconds=1e6",
        ]
    ).model_dump(mode="json")
    tree["network"]["coordinator_address"] = f"127.0.0.1:{ports[0]}"
    tree["network"]["replay_addresses"] = [f"127.0.0.1:{port}" for port in ports[1:]]
    return configs.build(tree)


def start_replay(path: Path, num_shards: int) -> list[subprocess.Popen[bytes]]:
    """Starts the shards' programs, and the coordinator's, which they join.

    Args: path: of their config. All other files go into its folder.
    """
    programs = [("coordinator", "services.coordinator"), *((f"replay-{k}", "services.replay") for k in range(num_shards))]
    started = []
    for name, module in programs:
        with (path.parent / f"{name}.log").open("wb") as log:
            arguments = ["--config", str(path), "--run-dir", str(path.parent), "--name", name]
            command = [sys.executable, "-P", "-m", module, *arguments]
            started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()))
    return started


def wait_for(probes: Sequence[QueueProbe]) -> None:
    """
    Raises:
        TimeoutError: a shard does not answer.
    """
    deadline = time.monotonic() + START_SECONDS
    for probe in probes:
        probe.start()
    for probe in probes:
        if not probe.wait_answer(max(0.0, deadline - time.monotonic())):
            raise TimeoutError(f"no answer from shard {probe.shard} within {START_SECONDS:.0f} s")


def run_cell(config: Config, probes: Sequence[QueueProbe], num_actors: int, steps: int) -> Cell:
    """Runs the learner's loop without updates."""
    start, stop = time.monotonic(), threading.Event()
    replay = Replay.of(config, make_spec(config.env), torch.device("cpu"), "cached", state=None, term=1)
    actors = [CheapActor(config, probes, index, steps // num_actors, stop) for index in range(num_actors)]
    fleet, looks, ratio = CellFleet(config, actors, replay), Looks(config, num_actors), replay.ratio
    end = RunEnd(cast(FleetWatch, fleet), replay.readers, replay.intake)
    for thread in actors:
        thread.start()
    replay.start()
    updates, is_ending = 0, False
    while (now := time.monotonic()) < start + CELL_SECONDS:
        if replay.intake.take():
            looks.look(fleet.run)
        if ratio.updates_due or (is_ending and ratio.last_update_due):
            ratio.train()
            updates += 1
            if updates % PAUSE_EVERY == 0:
                looks.look(fleet.run)
                time.sleep(PAUSE_SECONDS)
        elif is_ending:
            break
        else:
            replay.intake.wait(WAIT_SECONDS)
        is_ending = end.is_reached(now)
    stop.set()
    replay.stop()
    return figures(config, fleet.run, looks, num_actors, time.monotonic() - start)


def figures(config: Config, run: RunStatus, looks: Looks, num_actors: int, seconds: float) -> Cell:
    broken = looks.broken
    if run.in_flight or run.env_steps != run.received + run.lost:
        broken = broken or f"{run.in_flight} steps in flight at the end"
    if abs(run.samples_due - run.samples_trained) > config.learner.batch_size / 2:
        broken = broken or f"{run.samples_trained} of {run.samples_due:g} samples trained"
    received = [shard.received for shard in run.shards]
    return Cell(
        shards=len(run.shards),
        actors=num_actors,
        env_steps=run.env_steps,
        received=run.received,
        lost=run.lost,
        in_flight=run.in_flight,
        duplicates=run.duplicates,
        most_in_flight=looks.most_in_flight,
        trained=run.samples_trained,
        due=run.samples_due,
        target=config.samples_per_insert,
        achieved=run.samples_per_insert or 0.0,
        most_behind=looks.most_behind,
        least_share=min(received) * len(received) / max(1, sum(received)),
        seconds=seconds,
        broken=broken,
    )


def table(cells: Sequence[Cell]) -> str:
    """Markdown table: rows are numbers of shards, columns numbers of actors; brackets have the most samples behind."""
    actors = sorted({cell.actors for cell in cells})
    lines = ["| shards | " + " | ".join(f"{count} actors" for count in actors) + " |", "|---" * (1 + len(actors)) + "|"]
    for shards in sorted({cell.shards for cell in cells}):
        of = {cell.actors: cell for cell in cells if cell.shards == shards}
        found = [f"{of[count].achieved:.4f} ({of[count].most_behind:.0f})" if count in of else "-" for count in actors]
        lines.append(f"| {shards} | {' | '.join(found)} |")
    return "\n".join(lines)


def write(path: Path, cells: Sequence[Cell]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Cell._fields)
        writer.writerows([f"{value:.5f}" if isinstance(value, float) else value for value in cell] for cell in cells)


if __name__ == "__main__":
    run_program(main)
