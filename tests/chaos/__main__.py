"""Trains under faults, and checks that nothing but time is lost: `python -m tests.chaos --minutes 30 --kills 20`.

Runs a real `sbrl train` on an environment with unique observations. Every link between its roles goes through a proxy. Each
role is killed with SIGKILL --kills times, stopped for --hold-seconds, and cut off for the same time. Each shard's links are
slowed to a tenth. The order is random, over at least --minutes. Then, --resumptions times each, the run is stopped and resumed,
and all its processes are killed at once and it is resumed. A twin without faults is trained first. Tables and CSV files go to
--out. The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sbrl import config as configs
from sbrl.errors import RunError
from sbrl.monitor.readable import duration
from sbrl.runtime.arguments import number, seed, whole_number
from sbrl.runtime.program import run_program
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import read_episodes
from sbrl.v1.episodes_pb2 import Episode
from tests.chaos.faults import Injector, NotBackError
from tests.chaos.judge import Verdict, fault_table, judge, judge_course, verdict_table, write_csv
from tests.chaos.markers import environment
from tests.chaos.session import SETTINGS, Session
from tests.smoke.conftest import LocalRun

EPISODES = 1000  # the last episodes, whose returns are compared with the twin's
TWIN_SECONDS = 3600.0


class FaultPlan(NamedTuple):
    """The number of faults of each kind."""

    minutes: float
    kills: int
    hold_seconds: float
    resumptions: int
    checks: int  # readings of all logs while faults are injected


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--minutes", type=number(least=0), default=30.0, help="the least time over which faults are spread (30)"
    )
    parser.add_argument(
        "--kills", type=whole_number(0, 1000), default=20, help="SIGKILLs of each role; shards and actors share theirs (20)"
    )
    parser.add_argument(
        "--hold-seconds", type=number(above=0), default=30.0, help="how long stops, cuts and slowness last (30)"
    )
    parser.add_argument("--resumptions", type=whole_number(0, 1000), default=3, help="kills of everything at once (3)")
    parser.add_argument("--checks", type=whole_number(1, 1000), default=6, help="readings of all logs meanwhile (6)")
    parser.add_argument("--shards", type=whole_number(1, 17), default=2)
    parser.add_argument("--actors", type=whole_number(1, 257), default=1)
    parser.add_argument(
        "--twin-steps", type=whole_number(2_000, 2**31), default=40_000, help="agent steps of the twin (40,000)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the run, and of the order and times of faults")
    parser.add_argument("--out", type=Path, help="default: runs/chaos-<time>")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the run's config")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out or Path("runs") / f"chaos-{time.strftime('%Y%m%d-%H%M%S')}"
    plan = FaultPlan(arguments.minutes, arguments.kills, arguments.hold_seconds, arguments.resumptions, arguments.checks)
    configs.load(overrides=[*SETTINGS, *arguments.settings])  # so that bad settings fail now
    twin = train_twin(out / "twin", arguments)
    session = Session(out / "faults", arguments.seed, arguments.shards, arguments.actors, *arguments.settings)
    injector = None
    try:
        injector = session.start()
        say("the run trains: faults begin")
        inject(session, injector, plan, random.Random(arguments.seed), say)
        injector.settle()
        say("no more faults: the run is stopped, resumed and ends by itself")
        ending = session.finish()
        verdicts = judge(session, ending) + judge_course(session, injector.outcomes, session.episodes(EPISODES), twin)
    except NotBackError as error:  # the measurements until then are still worth reading
        print(error, flush=True)
        verdicts = [Verdict("the run goes on after every fault", str(error).partition("\n")[0], is_good=False)]
    finally:
        session.close()
    outcomes = [] if injector is None else injector.outcomes
    write_csv(out / "faults.csv", outcomes)
    write_csv(out / "checks.csv", verdicts)
    report = f"{fault_table(outcomes)}\n\n{verdict_table(verdicts)}\n"
    (out / "report.md").write_text(report, encoding="utf-8")
    print(f"\n{report}\nwritten to {out}", flush=True)
    return int(not all(verdict.is_good for verdict in verdicts))


def inject(session: Session, injector: Injector, plan: FaultPlan, chance: random.Random, tell: Callable[[str], None]) -> None:
    """Injects every fault of the plan. `chance` decides the order and the pauses.

    Raises:
        NotBackError: a role did not return, or the run did not continue.
    """
    faults = faults_of(session.roles, injector, plan, chance)
    pace = plan.minutes * 60 / len(faults) if faults else 0.0
    whole = len(faults) + 1 + plan.resumptions
    check_every = -(-whole // plan.checks)
    start = time.monotonic()
    done = 0

    def after_each(name: str) -> None:
        nonlocal done
        done += 1
        elapsed = time.monotonic() - start
        left = max(elapsed / done * (whole - done), plan.minutes * 60 - elapsed if done < len(faults) else 0.0)
        tell(f"{done}/{whole} faults, {duration(elapsed)} so far, ETA {duration(left)}: {name}")
        if done % check_every == 0:
            session.check_logs()

    for nth, (name, fault) in enumerate(faults, 1):
        fault()
        behind = nth * pace - (time.monotonic() - start)
        injector.pause(max(chance.uniform(0.0, 1.0), chance.uniform(0.0, 2.0) * behind))
        after_each(name)
    session.stop_and_resume(injector)
    after_each("Ctrl-C, and --resume")
    for _ in range(plan.resumptions):
        session.kill_and_resume(injector)
        injector.pause(chance.uniform(15.0, 25.0))  # for enough readings of the loss
        after_each("kill -9 of everything, and --resume")


def faults_of(
    roles: Sequence[str], injector: Injector, plan: FaultPlan, chance: random.Random
) -> list[tuple[str, Callable[[], None]]]:
    """Kills, stops, cuts and slow shards in a random order."""
    kinds = sorted({role.partition("-")[0] for role in roles})
    victims = [
        chance.choice([role for role in roles if role.partition("-")[0] == kind]) for kind in kinds for _ in range(plan.kills)
    ]
    faults: list[tuple[str, Callable[[], None]]] = [
        (f"{victim} was killed", partial(injector.kill, victim)) for victim in victims
    ]
    for role in roles:
        faults.append((f"{role} was stopped", partial(injector.stop, role, plan.hold_seconds)))
        faults.append((f"{role} was cut off", partial(injector.cut, role, plan.hold_seconds)))
        if role.startswith("replay"):
            faults.append((f"{role} was slow", partial(injector.slow, role, plan.hold_seconds, plan.hold_seconds / 3)))
    chance.shuffle(faults)
    return faults


def train_twin(directory: Path, arguments: argparse.Namespace) -> list[Episode]:
    """The last episodes of a run without faults."""
    say(f"training a twin without faults for {arguments.twin_steps:,} steps")
    directory.parent.mkdir(parents=True, exist_ok=True)
    settings = [*SETTINGS, f"run.seed={arguments.seed}", f"replay.num_shards={arguments.shards}"]
    settings += [f"actors.num_actors={arguments.actors}", f"run.env_steps={arguments.twin_steps}", *arguments.settings]
    run = LocalRun(directory, *settings, environment=environment())
    try:
        code = run.wait(TWIN_SECONDS)
        if code != 0:
            raise RunError(f"the twin ended with exit code {code}:\n{run.text()[-3000:]}")
    finally:
        run.close()
    return read_episodes(RunDirectory(directory).episodes)[-EPISODES:]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    run_program(main)
