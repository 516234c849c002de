"""Does the ratio hold with any number of shards and actors? `python -m tests.chaos.grid`

Every cell has real shards (the program that pods run), the writers and samplers of actors and learner, and the learner's way
of ending at the ratio. Actors are cheap: their environments are this test's own, all are threads of one process, and the
learner trains nothing. They collect at unequal speeds, and the learner stops for breath now and then: with all the same speed
there would be nothing to hold. The exit code is 1 if a cell, or what one of its shards has served, is off by more than 1 %.
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
from typing import NamedTuple

import numpy as np
from actors.stream import Identity, TransitionStream, WarmUp
from numpy.typing import NDArray
from sbrl.replay.probe import ShardProbe

from actors.collector import Collector
from learner.batches import BatchSource
from learner.schedules import Horizon
from sbrl import config as configs
from sbrl.arguments import whole_number
from sbrl.config import Config
from sbrl.envs.make import make_envs, make_spec
from sbrl.lifecycle import run_program
from sbrl.ports import free_ports
from sbrl.replay.backend import reverb
from sbrl.replay.items import TABLE, ItemShape
from sbrl.replay.writer import EpisodeWriter
from sbrl.view import duration
from tests.chaos.markers import ENV_ID, NUM_ACTIONS, environment

SHARDS, ACTORS = (1, 2, 4, 8), (1, 4, 16)
TOLERANCE = 0.01
START_SECONDS, CELL_SECONDS = 600.0, 1800.0
EXHAUSTED_SECONDS = 10.0  # as the learner's own: shards that have served nothing for so long have nothing more
PAUSE_SECONDS, PAUSE_EVERY = 0.5, 500  # batches: the learner publishes, saves, waits for the device


class Cell(NamedTuple):
    """One cell's figures."""

    shards: int
    actors: int
    inserted: int
    served: int  # by the shards' own count
    trained: int
    target: float
    achieved: float  # samples trained / (transitions inserted - min_size)
    off: float  # achieved / target - 1
    worst_shard_off: float  # of samples served by one shard, as far as its limiter lets it be
    least_share: float  # of a shard's transitions, in parts of an equal share
    seconds: float


class RandomPolicy:
    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def act(self, observation: NDArray[np.float32], epsilon: float | NDArray[np.float64]) -> NDArray[np.int64]:
        return self._generator.integers(NUM_ACTIONS, size=len(observation))


class CheapActor(threading.Thread):
    """An actor without a network: one environment, real streams."""

    def __init__(self, config: Config, index: int, steps: int, num_actors: int, stop: threading.Event) -> None:
        super().__init__(name=f"actor-{index}", daemon=True)
        self._envs = make_envs(config.env, 1, seed=1000 + index)
        addresses = config.network.replay_addresses
        self._probes = [ShardProbe(address, shard) for shard, address in enumerate(addresses)]
        shape = ItemShape.of(self._envs.spec, config.agent.stored_steps)
        pieces = 2 * len(addresses) * num_actors
        self._stream = TransitionStream(
            EpisodeWriter(addresses, shape),
            self._probes,
            Identity(index, 1, 0),
            config.actors.max_in_flight_items,
            stop,
            drain_seconds=10.0,
            # It does not know how far the others are: it warms up for as long as its own share takes.
            warm_up=WarmUp(
                max(config.agent.stored_steps, config.min_replay_size // pieces),
                lambda: self._collector.env_steps * num_actors < config.min_replay_size,
            ),
        )
        self._collector = Collector(self._envs, RandomPolicy(index), [self._stream], lambda episode: None)
        self._steps, self._slowness, self._stop_all = steps, index % 4, stop

    def run(self) -> None:
        for probe in self._probes:
            probe.start()
        while self._collector.env_steps < self._steps and not self._stop_all.is_set():
            self._collector.step(0.0, weights_version=1)
            if self._slowness:
                self._stop_all.wait(0.001 * self._slowness)
        self._collector.drain()
        self._stream.close()
        for probe in self._probes:
            probe.stop()


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
        one = cells[-1]
        print(
            f"{shards} shards, {actors} actors: {one.achieved:.4f} of {one.target:g} ({one.off:+.2%}), {one.seconds:.0f} s; "
            f"{len(cells)}/{len(wanted)} cells, ETA {duration(left)}",
            flush=True,
        )
    write(arguments.out, cells)
    print(f"\n{table(cells)}\n\nwritten to {arguments.out}")
    return int(any(max(abs(cell.off), abs(cell.worst_shard_off)) > TOLERANCE for cell in cells))


def measure(num_shards: int, num_actors: int, steps: int) -> Cell:
    """Runs one cell."""
    with tempfile.TemporaryDirectory(prefix="sbrl-grid-") as folder:
        config = cell_config(num_shards, num_actors, steps)
        path = Path(folder) / "run.yaml"
        path.write_text(configs.dump(config), encoding="utf-8")
        processes = start_replay(path, num_shards)
        try:
            clients = [reverb.Client(address) for address in config.network.replay_addresses]
            wait_for(clients)
            return run_cell(config, clients, num_actors, steps)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


def cell_config(num_shards: int, num_actors: int, steps: int) -> Config:
    ports = free_ports("127.0.0.1", 1 + num_shards)
    tree = configs.load(
        overrides=[
            *(f"env.id={ENV_ID}", f"run.env_steps={steps}", f"replay.num_shards={num_shards}"),
            *(f"replay.min_size={steps // 10}", f"replay.capacity={steps // 2}", f"actors.num_actors={min(num_actors, 1024)}"),
            "replay.checkpoint_interval_seconds=1e6",
        ]
    ).model_dump(mode="json")
    tree["network"]["coordinator_address"] = f"127.0.0.1:{ports[0]}"
    tree["network"]["replay_addresses"] = [f"127.0.0.1:{port}" for port in ports[1:]]
    return configs.build(tree)


def start_replay(path: Path, num_shards: int) -> list[subprocess.Popen[bytes]]:
    """The shards' programs, and the coordinator's: without its word a shard waits half a minute before it serves.

    Args: path: of their config; all else goes into its folder.
    """
    programs = [("coordinator", "services.coordinator"), *((f"replay-{k}", "services.replay") for k in range(num_shards))]
    started = []
    for name, module in programs:
        with (path.parent / f"{name}.log").open("wb") as log:
            arguments = ["--config", str(path), "--run-dir", str(path.parent), "--name", name]
            command = [sys.executable, "-P", "-m", module, *arguments]
            started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()))
    return started


def wait_for(clients: Sequence[reverb.Client]) -> None:
    """
    Raises:
        TimeoutError: a shard does not answer.
    """
    deadline = time.monotonic() + START_SECONDS
    for client in clients:
        while True:
            try:
                client.server_info(timeout=1)
                break
            except (RuntimeError, reverb.errors.DeadlineExceededError):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer from a shard within {START_SECONDS:.0f} s") from None


def run_cell(config: Config, clients: Sequence[reverb.Client], num_actors: int, steps: int) -> Cell:
    start, stop = time.monotonic(), threading.Event()
    actors = [CheapActor(config, index, steps // num_actors, num_actors, stop) for index in range(num_actors)]
    shape = ItemShape.of(make_spec(config.env), config.agent.stored_steps)
    source = BatchSource(config.network.replay_addresses, shape, config.agent, config.learner.batch_size)
    for actor in actors:
        actor.start()
    source.start()
    trained = 0
    last_batch = time.monotonic()
    while time.monotonic() < start + CELL_SECONDS:
        if not any(actor.is_alive() for actor in actors) and is_done(config, clients, trained, last_batch):
            break
        if source.get(0.5, Horizon(config.agent.n_step, config.agent.discount)) is not None:
            trained += config.learner.batch_size
            last_batch = time.monotonic()
            if trained // config.learner.batch_size % PAUSE_EVERY == 0:
                time.sleep(PAUSE_SECONDS)
    stop.set()
    source.stop()
    return figures(config, clients, num_actors, trained, time.monotonic() - start)


def is_done(config: Config, clients: Sequence[reverb.Client], trained: int, last_batch: float) -> bool:
    """As the learner ends a run: at the target, to half a batch, or when the shards have nothing more."""
    inserted = sum(client.server_info(timeout=10)[TABLE].rate_limiter_info.insert_stats.completed for client in clients)
    left = config.samples_per_insert * (inserted - config.min_replay_size) - trained
    return left < config.learner.batch_size / 2 or time.monotonic() - last_batch > EXHAUSTED_SECONDS


def figures(config: Config, clients: Sequence[reverb.Client], num_actors: int, trained: int, seconds: float) -> Cell:
    limiters = [client.server_info(timeout=10)[TABLE].rate_limiter_info for client in clients]
    inserted = [limiter.insert_stats.completed for limiter in limiters]
    served = [limiter.sample_stats.completed for limiter in limiters]
    target = config.samples_per_insert
    due = [target * (count - limiter.min_size_to_sample) for count, limiter in zip(inserted, limiters, strict=True)]
    achieved = trained / (sum(inserted) - config.min_replay_size)
    return Cell(
        shards=len(clients),
        actors=num_actors,
        inserted=sum(inserted),
        served=sum(served),
        trained=trained,
        target=target,
        achieved=achieved,
        off=achieved / target - 1,
        worst_shard_off=max((count / max(1.0, wanted) - 1 for count, wanted in zip(served, due, strict=True)), key=abs),
        least_share=min(inserted) * len(inserted) / sum(inserted),
        seconds=seconds,
    )


def table(cells: Sequence[Cell]) -> str:
    """Markdown: a row for each number of shards, a column for each number of actors; in brackets the shard that is most off."""
    actors = sorted({cell.actors for cell in cells})
    lines = ["| shards | " + " | ".join(f"{count} actors" for count in actors) + " |", "|---" * (1 + len(actors)) + "|"]
    for shards in sorted({cell.shards for cell in cells}):
        of = {cell.actors: cell for cell in cells if cell.shards == shards}
        found = [f"{of[count].achieved:.4f} ({of[count].worst_shard_off:+.2%})" if count in of else "-" for count in actors]
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
