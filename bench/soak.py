"""Does memory stay flat? Every role's resident memory over hours at full speed, as a slope with an interval.

    python -m bench.soak --hours 2                     # trains, samples, and analyses
    python -m bench.soak --read rss.csv --warm-up 30   # analyses earlier samples: seconds,name,process id,bytes

A shard grows until its capacity is reached. Here the capacity is small (--capacity), so that shards are full when warm-up ends.
The exit code is 1 if a role grows.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.growth import MEGABYTE, Growth, MemoryReading, growth, series, table
from sbrl.errors import RunError, UsageError
from sbrl.monitor.observation import processes_of
from sbrl.monitor.readable import duration
from sbrl.runtime.arguments import number, whole_number
from sbrl.runtime.program import run_program

SAMPLE_SECONDS = 10.0
LINE_SECONDS = 60.0
STOP_SECONDS = 600.0
ENDLESS = 2**40  # run.env_steps: the run is stopped when its time is over


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=number(above=0), default=2.0)
    parser.add_argument("--warm-up", type=number(least=0), default=30.0, metavar="MINUTES", help="not looked at (30)")
    parser.add_argument(
        "--capacity",
        type=whole_number(2_000, 2**31),
        default=20_000,
        help="replay.capacity, reached well within warm-up (20,000)",
    )
    parser.add_argument("--read", type=Path, metavar="CSV", help="analyse this in place of a new run")
    parser.add_argument("--out", type=Path, help="default: runs/soak-<time>")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the run's config (default: Pong)")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out or Path("runs") / f"soak-{time.strftime('%Y%m%d-%H%M%S')}"
    out.mkdir(parents=True, exist_ok=True)
    if arguments.read is None:
        sample_run(out, arguments.hours, [f"replay.capacity={arguments.capacity}", *arguments.settings])
    readings = read_csv(arguments.read or out / "memory.csv")
    found = analyse(readings, arguments.warm_up * 60)
    draw(out / "memory.png", readings, arguments.warm_up * 60)
    (out / "growth.md").write_text(table(found) + "\n", encoding="utf-8")
    print(f"\n{table(found)}\n\nwritten to {out}", flush=True)
    return int(not all(one.is_flat for one in found))


def sample_run(out: Path, hours: float, settings: Sequence[str]) -> None:
    """Trains for `hours` and writes memory.csv.

    Raises:
        RunError: the run ended by itself.
    """
    directory = out / "run"
    command = [sys.executable, "-m", "sbrl.cli", "train", "--run-dir", str(directory)]
    command += [f"run.env_steps={ENDLESS}", "replay.min_size=2000", "agent.epsilon_decay_steps=100000", *settings]
    start = last_line = time.monotonic()
    with (out / "run.log").open("wb") as log, (out / "memory.csv").open("w", encoding="utf-8", newline="") as file:
        run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(MemoryReading._fields)
        try:
            whole = hours * 3600
            while (elapsed := time.monotonic() - start) < whole:
                if run.poll() is not None:
                    raise RunError(f"the run ended with exit code {run.returncode}: see {out / 'run.log'}")
                for reading in look(directory, run.pid, elapsed):
                    writer.writerow(reading)
                file.flush()
                if time.monotonic() - last_line > LINE_SECONDS:
                    last_line = time.monotonic()
                    print(f"{duration(elapsed)} of {duration(whole)}, ETA {duration(whole - elapsed)}", flush=True)
                time.sleep(SAMPLE_SECONDS)
        finally:
            run.terminate()
            run.wait(STOP_SECONDS)


def look(directory: Path, launcher: int, elapsed: float) -> list[MemoryReading]:
    """The resident memory of every process of the run."""
    processes = [(process.name, process.process_id) for process in processes_of(directory)]
    readings = []
    for name, process_id in [("launcher", launcher), *processes]:
        try:
            readings.append(MemoryReading(elapsed, name, process_id, psutil.Process(process_id).memory_info().rss))
        except psutil.NoSuchProcess:  # it ended between the two looks
            continue
    return readings


def read_csv(path: Path) -> list[MemoryReading]:
    """
    Raises:
        UsageError: the file cannot be read or is not such a table. The message names the line.
    """
    readings = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for cells in csv.reader(file):
                if tuple(cells) == MemoryReading._fields:
                    continue
                readings.append(MemoryReading(float(cells[0]), cells[1], int(cells[2]), float(cells[3])))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, IndexError):
        raise UsageError(f"{path}, line {len(readings) + 1}: not seconds, name, process id and bytes") from None
    return readings


def analyse(readings: Sequence[MemoryReading], after: float) -> list[Growth]:
    """The growth of each role, sorted by name.

    Raises:
        UsageError: there are too few readings after warm-up.
    """
    if not readings:
        raise UsageError("there are no readings")
    end = max(one.seconds for one in readings)
    try:
        return [growth(name, *series(readings, name, after, end)) for name in sorted({one.name for one in readings})]
    except ValueError as error:
        raise UsageError(f"{error}; sample for longer, or lower --warm-up") from None


def draw(path: Path, readings: Sequence[MemoryReading], after: float) -> None:
    from matplotlib.figure import Figure  # takes a second to import, and only this needs it

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for name in sorted({one.name for one in readings}):
        mine = [one for one in readings if one.name == name]
        axes.plot([one.seconds / 60 for one in mine], [one.bytes / MEGABYTE for one in mine], label=name, linewidth=1.2)
    axes.axvspan(0, after / 60, color="0.92", label="warm-up")
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory, MB")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", ncols=2)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run_program(main)
