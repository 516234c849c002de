"""The output of `sbrl train`: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sbrl.config import Config
from sbrl.monitor.progress import Progress
from sbrl.monitor.readable import duration, number

LINE_SECONDS = 10.0
LAUNCHER_SUBTITLE = "Ctrl-C stops cleanly; --resume goes on"


class View(Protocol):
    """Shows readings of a run, and messages."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def show(self, progress: Progress) -> None: ...
    def message(self, text: str) -> None: ...


def make_view(config: Config, title: str) -> View:
    """The live panel if standard output is a terminal, otherwise plain lines."""
    return LiveView(config, title) if sys.stdout.isatty() else PlainView(config, title)


class PlainView:
    """One line every ten seconds."""

    def __init__(self, config: Config, title: str) -> None:
        self._config, self._title, self._next = config, title, 0.0

    def __enter__(self) -> Self:
        self.message(f"{self._title}: {headline(self._config)}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def show(self, progress: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self.message(line(self._config, progress))

    def message(self, text: str) -> None:
        print(text, flush=True)


class LiveView:
    """A panel that is redrawn in place."""

    def __init__(self, config: Config, title: str) -> None:
        self._config, self._title = config, title
        self._live = Live(console=Console(), refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        self._live.update(Panel(Text(f"{headline(self._config)}\nstarting ..."), title=escape(self._title)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, progress: Progress) -> None:
        self._live.update(panel(self._config, self._title, progress))

    def message(self, text: str) -> None:
        self._live.console.print(text, markup=False)


def headline(config: Config) -> str:
    """The three numbers at the head of every run."""
    return (
        f"batch size {config.learner.batch_size}, {config.learner.updates_per_step:g} updates per step, "
        f"{config.samples_per_insert:g} samples per insert"
    )


def line(config: Config, progress: Progress) -> str:
    """A reading as one line."""
    share = progress.env_steps / progress.target_env_steps
    parts = [
        f"{progress.env_steps:,}/{progress.target_env_steps:,} steps ({share:.0%}, ETA {duration(progress.eta_seconds)})",
        f"return {number(progress.return_mean)} ({progress.num_episodes} episodes)",
        f"eval {number(progress.evaluation[0] if progress.evaluation else None)}",
        f"{progress.env_steps_per_second:.0f} steps/s",
        f"{progress.updates_per_second:.1f} updates/s",
        f"SPI {progress.samples_per_insert:.3f}/{config.samples_per_insert:g}",
        f"UPS {progress.updates_per_step:.4f}/{config.learner.updates_per_step:g}",
        f"memory {progress.memory_transitions:,}",
        f"shards {'+'.join(f'{size:,}' for size in progress.shard_sizes) or '-'}",
        f"weights v{progress.weights_version} {duration(progress.weights_age_seconds)} old",
        progress.waiting,
    ]
    return " | ".join(parts)


def panel(config: Config, title: str, progress: Progress, subtitle: str = LAUNCHER_SUBTITLE) -> Panel:
    """A reading as a panel."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    evaluation = "none yet"
    if progress.evaluation is not None:
        evaluation = f"{number(progress.evaluation[0])} at {progress.evaluation[1]:,} steps"
    rows = {
        "speed": f"{progress.env_steps_per_second:.0f} env steps/s, {progress.updates_per_second:.1f} updates/s "
        f"({progress.updates:,} updates made)",
        "return": f"{number(progress.return_mean)} (mean of the last 100 of {progress.num_episodes:,} training episodes)",
        "evaluation": evaluation,
        "batch size": str(config.learner.batch_size),
        "updates per step": f"target {config.learner.updates_per_step:g}, achieved {progress.updates_per_step:.4f}",
        "samples per insert": f"target {config.samples_per_insert:g}, achieved {progress.samples_per_insert:.4f}",
        "replay memory": f"{progress.memory_transitions:,} transitions",
        "shards' logs": "  ".join(f"{size:,}" for size in progress.shard_sizes) or "starting",
        "weights": f"version {progress.weights_version}, {duration(progress.weights_age_seconds)} old",
        "processes": ", ".join(f"{count} {role}" for role, count in progress.alive.items() if count) or "starting",
        "who waits": progress.waiting,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    share = progress.env_steps / progress.target_env_steps
    counted = Text(
        f"{progress.env_steps:,} of {progress.target_env_steps:,} env steps ({share:.0%}), ETA {duration(progress.eta_seconds)}"
    )
    bar = ProgressBar(total=progress.target_env_steps, completed=min(progress.env_steps, progress.target_env_steps))
    return Panel(Group(counted, bar, Text(), table), title=escape(title), subtitle=subtitle)
