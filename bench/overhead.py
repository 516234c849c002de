"""The cost of metrics and diagnostics for learner and actor: their real loops with and without them.

    python -m bench.overhead --pairs 40 learner.batch_size=8

Both loops run in this process on random batches and a real game. Stand-ins for replay and the coordinator take no time, so that
shares come out larger than in a run, not smaller. Off: metrics that do nothing, no reports, no diagnostics. On: as in a run,
with metrics that are read as often as by heartbeats and Prometheus, and a report to TensorBoard once a second. Blocks of work
alternate, so that the machine's other load affects all kinds. The figure is the median over pairs of blocks of the quotient of
their times. A third kind of block has one measurement of the diagnostics each; its cost is spread over
learner.diagnostics_period updates. Besides wall-clock time it prints the CPU time of all threads, which other load changes
less. It fails if the wall-clock time grows by more than the limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, start_http_server

from actors.loop import ActorLoop
from bench.learner import random_batch
from learner.algorithm.diagnostics import NUM_STATES
from learner.algorithm.update import make_update_step
from learner.batches import Drawn
from learner.block import make_updates
from learner.loop import Training, train
from learner.metric_loggers import MetricLogger
from learner.publication import Publications
from learner.ratio import Ratio, RatioSettings
from learner.replay import NoMemory, Replay
from learner.reporting import Reporter
from learner.tensorboard import TensorBoard
from learner.threads import settle_threads
from sbrl.config import Config, build, load
from sbrl.coordination.fleet import Instructions, RunState
from sbrl.envs.make import make_envs, make_spec
from sbrl.envs.spec import EnvSpec
from sbrl.local.prometheus_config import SCRAPE_SECONDS
from sbrl.monitor.observation import DIRECT
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy
from sbrl.replay.receipts import Receipts
from sbrl.telemetry.metrics import ActorMetrics, LearnerMetrics, RoleMetrics, make_registry
from sbrl.v1.fleet_pb2 import GetStatusResponse, LearnerState

LIMIT = 0.02
NUM_BATCHES = 8
HEARTBEAT_SECONDS = 1.0
CLOCKS = ("wall", "cpu")
OFF, ON, MEASURING = "off", "on", "on, and a measurement in each block"


class Block(NamedTuple):
    """The duration of a block in seconds."""

    wall: float
    cpu: float  # of all threads of this process


class Share(NamedTuple):
    """Additional time, as a share of the time without."""

    share: float
    low: float  # 95 % of bootstrap samples of the pairs are between low and high
    high: float

    def __str__(self) -> str:
        return f"{self.share:+.2%} (95 %: {self.low:+.2%} to {self.high:+.2%})"


class Loop:
    """A role's loop that works on a block and returns its duration."""

    def __init__(self, run: Callable[[], object], begin: Callable[[int], None], readers: Readers | None) -> None:
        """Args: run: runs until it is stopped. begin: makes it stop after this much work."""
        self._run, self._begin, self._readers = run, begin, readers

    def block(self, work: int) -> Block:
        self._begin(work)
        wall, cpu = time.perf_counter(), time.process_time()
        with self._readers.at_work() if self._readers is not None else nullcontext():
            self._run()
        return Block(time.perf_counter() - wall, time.process_time() - cpu)


class Readers:
    """Reads metrics beside a block as in a run: every second for a heartbeat, and at times over HTTP for Prometheus."""

    def __init__(self, metrics: RoleMetrics, registry: CollectorRegistry) -> None:
        server, _ = start_http_server(0, "127.0.0.1", registry)
        self._metrics, self._url = metrics, f"http://127.0.0.1:{server.server_port}/metrics"
        self._until_scrape = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._read, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _read(self, done: threading.Event) -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            self._metrics.counters()
            self._metrics.gauges()
            self._until_scrape -= 1
            if self._until_scrape < 0:
                self._until_scrape = round(SCRAPE_SECONDS / HEARTBEAT_SECONDS)
                DIRECT.open(self._url, timeout=10).read()


class Nothing:
    """Metrics that do nothing: every attribute and call returns this object again."""

    def __getattr__(self, name: str) -> Nothing:
        return self

    def __call__(self, *arguments: object) -> Nothing:
        return self


class QuietReporter(Reporter):
    """Reports nothing."""

    def report(self, state: LearnerState) -> None: ...


class QuietActor(ActorLoop):
    """Reports nothing."""

    def report(self) -> None: ...


class Countdown:
    """Sets `stop` once the given work is done."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._left = 0

    def begin(self, work: int) -> None:
        self._left = work
        self.stop.clear()

    def done(self, work: int) -> None:
        self._left -= work
        if self._left <= 0:
            self.stop.set()


class Source:
    """A source that has batches at once."""

    is_ready, priorities_ignored = True, 0

    def __init__(self, batch_size: int, spec: EnvSpec, countdown: Countdown) -> None:
        versions = np.zeros(batch_size, np.int64)
        batches = [random_batch(batch_size, spec, seed) for seed in range(NUM_BATCHES)]
        self._batches = [Drawn(batch, None, lambda: versions) for batch in batches]
        self._countdown, self._served = countdown, 0

    def next(self, *_arguments: object) -> Drawn:
        self._countdown.done(1)
        self._served += 1
        return self._batches[self._served % NUM_BATCHES]

    def update_priorities(self, *_arguments: object) -> None: ...

    def max_priority(self) -> float:
        return 1.0


class Stream:
    """A stream that takes each transition at once."""

    created, in_flight, moves, dropped_at_close, blocked_seconds = 0, 0, 0, 0, 0.0
    dropped = (0,)

    @property
    def inserted(self) -> list[int]:
        return [self.created]

    def __init__(self, countdown: Countdown) -> None:
        self._countdown = countdown

    def begin(self, _observation: NDArray[Any]) -> None: ...

    def append(self, *_arguments: object) -> None:
        self.created += 1
        self._countdown.done(1)

    def end(self) -> None: ...

    def drain(self) -> None: ...


def learner_loop(config: Config, directory: Path, kind: str) -> Loop:
    countdown, registry = Countdown(), make_registry("learner")
    metrics = LearnerMetrics(registry) if kind != OFF else cast(LearnerMetrics, Nothing())
    spec = make_spec(config.env)
    step, source = make_update_step(config, spec), Source(config.learner.batch_size, spec, countdown)
    ratio = Ratio(RatioSettings.of(config), received=2**40, due=2.0**60)  # any number of updates is due
    intake = cast(Any, SimpleNamespace(settle=lambda _: None, take=lambda: 0, segments=0, filled=0))
    replay = Replay("cached", ratio, Receipts(), NoMemory(), intake, (), source, term=0)
    publisher = cast(
        Any, SimpleNamespace(publish=lambda *_: None, published=0, version=1, published_time=0.0, is_idle=True, is_finite=True)
    )
    member = cast(Any, SimpleNamespace(instructions=Instructions(RunState.RUNNING, 0, 0, 0), check_fenced=lambda: None))
    watch = cast(Any, SimpleNamespace(status=GetStatusResponse()))
    metric_logger = MetricLogger([TensorBoard(directory)] if kind != OFF else [])
    reporter = (Reporter if kind != OFF else QuietReporter)(
        config, step, replay, publisher, member, watch, metric_logger, metrics
    )
    publications = Publications(step, publisher, config.learner.publish_period, reporter.phase, reporter.diverge)
    training = Training(
        replay=replay,
        updates=make_updates(config, step, source),
        filling=cast(Any, SimpleNamespace(is_enough=True)),
        member=member,
        updates_to_edge=publications.updates_to_edge,
        nothing_comes=lambda now: False,
        phase=reporter.phase,
    )
    run = partial(
        train, training, countdown.stop, reporter.remember_update, publications.publish_if_due, reporter.report_if_due
    )
    return Loop(run, countdown.begin, Readers(metrics, registry) if kind != OFF else None)


def actor_loop(config: Config, closing: ExitStack, kind: str) -> Loop:
    countdown, registry = Countdown(), make_registry("actor")
    metrics = ActorMetrics(registry) if kind != OFF else cast(ActorMetrics, Nothing())
    envs = make_envs(config.env, config.actors.envs_per_actor, seed=0)
    closing.callback(envs.close)
    policy = EpsilonGreedyPolicy(build_network(config.agent, envs.spec), envs.spec.num_actions, seed=0)
    told = SimpleNamespace(state=RunState.RUNNING, step_limit=10**12, step_allowance=10**12, env_steps=10**9)
    loop = (ActorLoop if kind != OFF else QuietActor)(
        config,
        envs,
        policy,
        cast(Any, [Stream(countdown) for _ in range(envs.num_envs)]),
        cast(Any, SimpleNamespace(take=lambda: None, age_seconds=0.0, lag_versions=0)),
        cast(Any, SimpleNamespace(add=lambda _: None, dropped=0)),
        cast(Any, SimpleNamespace(instructions=told, index=0, incarnation=1, of_this_lease=lambda counters: (1, counters))),
        metrics,
        countdown.stop,
        cast(Any, SimpleNamespace(write=lambda incarnation, counters: None)),
    )
    return Loop(loop.run, countdown.begin, Readers(metrics, registry) if kind != OFF else None)


def alternate(loops: Mapping[str, Loop], work: int, pairs: int) -> dict[str, list[Block]]:
    """The blocks of each loop, after one of each as warm-up. The order reverses from one round to the next."""
    blocks: dict[str, list[Block]] = {kind: [] for kind in loops}
    for number in range(pairs + 1):
        for kind in list(loops)[:: 1 if number % 2 else -1]:
            blocks[kind].append(loops[kind].block(work))
        if number % 10 == 0:
            print(f"  {number}/{pairs}", file=sys.stderr, flush=True)
    return {kind: made[1:] for kind, made in blocks.items()}


def share(more: Sequence[Block], less: Sequence[Block], clock: str) -> Share:
    """The share from the median quotient over pairs of blocks, by `clock`."""
    quotients = np.array([getattr(a, clock) / getattr(b, clock) - 1 for a, b in zip(more, less, strict=True)])
    resampled = np.random.default_rng(0).choice(quotients, (10_000, len(quotients)))
    low, high = np.quantile(np.median(resampled, axis=1), (0.025, 0.975))
    return Share(float(np.median(quotients)), float(low), float(high))


def learner_share(config: Config, directory: Path, updates: int, pairs: int) -> float:
    """Measures, prints and returns the share for the learner."""
    period = config.learner.diagnostics_period
    tree = config.model_dump(mode="json")
    none, each = (build(tree, {"learner": {"diagnostics_period": every}}) for every in (None, updates))
    loops = {kind: learner_loop(none, directory / str(number), kind) for number, kind in enumerate((OFF, ON))}
    loops[MEASURING] = learner_loop(each, directory / "measuring", MEASURING)
    blocks = alternate(loops, updates, pairs)
    print(f"learner, batch {config.learner.batch_size}, {updates} updates a block, {pairs} pairs:")
    print(f"  an update, all off: median {median_ms(blocks[OFF], updates):.2f} ms")
    together = {}
    for clock in CLOCKS:
        metrics, measurement = share(blocks[ON], blocks[OFF], clock), share(blocks[MEASURING], blocks[ON], clock)
        of_updates = measurement.share * updates
        spread = 0.0 if period is None else of_updates / period
        together[clock] = metrics.share + spread
        print(f"  {clock} time: metrics and reports {metrics}")
        print(f"    a measurement takes as long as {of_updates:.1f} updates: {spread:+.2%} at one every {period}")
        print(f"    together {together[clock]:+.2%}")
    return together["wall"]


def actor_share(config: Config, steps: int, pairs: int) -> float:
    """Measures, prints and returns the share for an actor."""
    with ExitStack() as closing:
        blocks = alternate({kind: actor_loop(config, closing, kind) for kind in (OFF, ON)}, steps, pairs)
    print(f"actor, {config.actors.envs_per_actor} environments, {steps} steps a block, {pairs} pairs:")
    print(f"  a step, all off: median {median_ms(blocks[OFF], steps):.3f} ms")
    metrics = {clock: share(blocks[ON], blocks[OFF], clock) for clock in CLOCKS}
    for clock, found in metrics.items():
        print(f"  {clock} time: metrics {found}")
    return metrics["wall"].share


def median_ms(blocks: Sequence[Block], work: int) -> float:
    """The median milliseconds per unit of work."""
    return float(np.median([block.wall for block in blocks])) / work * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="blocks of each kind")
    parser.add_argument("--updates", type=int, default=100, help="updates in a block of the learner's")
    parser.add_argument("--steps", type=int, default=2_000, help="agent steps in a block of the actor's")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="of the default preset's config")
    arguments = parser.parse_args()
    config = load(overrides=[*arguments.overrides, "run.checkpoint_interval_seconds=1e9"])  # saves nothing
    least = -(-NUM_STATES // config.learner.batch_size)
    if arguments.updates < least:
        parser.error(f"--updates {arguments.updates}: a measurement looks at the states of the last {least} batches; give more")
    settle_threads(config, make_spec(config.env))
    with tempfile.TemporaryDirectory() as directory:
        shares = [learner_share(config, Path(directory), arguments.updates, arguments.pairs)]
    shares.append(actor_share(config, arguments.steps, arguments.pairs))
    print(f"limit: {LIMIT:.0%}; {'met' if max(shares) <= LIMIT else 'missed'}")
    return 0 if max(shares) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
