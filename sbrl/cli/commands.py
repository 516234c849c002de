"""The commands without a separate program: `sbrl train`, `config` and `presets`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from sbrl import config as configs
from sbrl.cli.presets import add_presets_command
from sbrl.config import Config
from sbrl.config.presets import DEFAULT_PRESET
from sbrl.errors import UsageError
from sbrl.monitor.readable import duration
from sbrl.runtime.arguments import Parser
from sbrl.runtime.output import outlive_output
from sbrl.runtime.program import check_installed
from sbrl.storage.metadata import game_of
from sbrl.storage.run_directory import RunDirectory
from sbrl.telemetry.logs import WARNING_MARK

EXIT_INTERRUPTED = 130  # as a shell reports Ctrl-C


def make_parser(programs: Mapping[str, str]) -> Parser:
    """Args: programs: name -> help text of the commands that are separate programs."""
    parser = Parser(prog="sbrl", description="Small-batch deep reinforcement learning on Atari.")
    parser.add_argument("--version", action="version", version=f"sbrl {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train",
        help="train an agent: all roles on this machine",
        description="Trains an agent with all roles as processes on this machine, from one config.",
        epilog="example: sbrl train --run-dir runs/pong env.id=ALE/Pong-v5 run.env_steps=100000 run.seed=1",
    )
    add_config_arguments(train)
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="where results go (default: runs/<game>-<time>)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --run-dir, with its config")
    train.add_argument(
        "--serial",
        action="store_true",
        help="one process, bit-reproducible from run.seed: for debugging and tests",
    )
    train.add_argument(
        "--prometheus",
        action="store_true",
        help="watch the run: writes prometheus/ (scrape config, alert rules) into the run directory and, where prometheus is "
        "installed, runs it on a free port of loopback for as long as the run lasts, with its data kept there",
    )
    train.set_defaults(command=_train)

    config = commands.add_parser("config", help="show or describe the config")
    actions = config.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print the config that the arguments add up to, as YAML")
    add_config_arguments(show)
    show.set_defaults(command=_show_config)
    schema = actions.add_parser("schema", help="print the config's JSON schema")
    schema.set_defaults(command=_show_schema)

    add_presets_command(commands)
    for name, description in programs.items():
        commands.add_parser(name, help=description, add_help=False)
    return parser


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that make up a config: --config, --preset and overrides."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="a YAML file with (part of) a config")
    parser.add_argument(
        "--preset", metavar="NAME", help=f"settings to start from, see `sbrl presets` (default: {DEFAULT_PRESET})"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="single settings; these win over all else")


def _train(arguments: argparse.Namespace) -> int:
    check_installed("train")
    outlive_output()
    if arguments.serial:
        _exec_serial(arguments)
    from sbrl.local.launch import load_for_resume, train  # loads gRPC and matplotlib: `sbrl --help` should not

    if arguments.resume:
        if arguments.run_dir is None:
            raise UsageError("--resume needs --run-dir: the run to go on with")
        if arguments.config is not None or arguments.preset is not None:
            raise UsageError("--resume takes the run's own config: leave out --config and --preset; overrides may be given")
        run_directory = RunDirectory(arguments.run_dir)
        config = load_for_resume(run_directory, arguments.overrides)
    else:
        config = configs.load(arguments.config, arguments.preset, arguments.overrides)
        run_directory = RunDirectory(arguments.run_dir or _default_run_directory(config.env.id))
    print_warnings(config)
    complete = train(config, run_directory, arguments.resume, arguments.prometheus)
    if run_directory.summary.exists():
        print(closing_lines(run_directory, complete))
    else:
        print(f"Interrupted before there were results. Go on with: sbrl train --resume --run-dir {run_directory.path}")
    return 0 if complete else EXIT_INTERRUPTED


def _exec_serial(arguments: argparse.Namespace) -> NoReturn:
    """Replaces this process with the serial program, with the same arguments."""
    if arguments.resume:
        raise UsageError("--serial cannot resume: its promise is one unbroken, reproducible run; leave one of the two out")
    if arguments.prometheus:
        raise UsageError("--serial has nothing that Prometheus could scrape: it serves no metrics; leave one of the two out")
    config = configs.load(arguments.config, arguments.preset, arguments.overrides)
    print_warnings(config)
    command = [
        sys.executable,
        "-P",
        "-m",
        "single_process",
        "--run-dir",
        str(arguments.run_dir or _default_run_directory(config.env.id)),
    ]
    for option, value in (("--config", arguments.config), ("--preset", arguments.preset)):
        command += [option, str(value)] if value is not None else []
    os.execv(sys.executable, [*command, *arguments.overrides])


def _show_config(arguments: argparse.Namespace) -> int:
    config = configs.load(arguments.config, arguments.preset, arguments.overrides)
    print_warnings(config)
    print(configs.dump(config), end="")
    return 0


def _show_schema(arguments: argparse.Namespace) -> int:
    print(configs.json_schema())
    return 0


def print_warnings(config: Config) -> None:
    """Prints the config's warnings to standard error."""
    for warning in config.warnings:
        print(f"{WARNING_MARK}{warning}", file=sys.stderr, flush=True)


def _default_run_directory(env_id: str) -> Path:
    return Path("runs") / f"{game_of(env_id)}-{time.strftime('%Y%m%d-%H%M%S')}"


def closing_lines(directory: RunDirectory, complete: bool) -> str:
    """The run's results and where to find them, from its summary."""
    summary = json.loads(directory.summary.read_text(encoding="utf-8"))
    achieved, training, evaluation = (
        summary[key] for key in ("samples_per_insert_achieved", "train_return_mean_100", "eval_return_mean")
    )
    parts = [
        f"{'Trained' if complete else 'Interrupted after'} {summary['env_steps']:,} env steps ({summary['frames']:,} frames), "
        f"{summary['updates']:,} updates of batch {summary['batch_size']}, in {duration(summary['wall_seconds'])}.",
        f"Samples per insert: {'none yet' if achieved is None else f'{achieved:.4f}'} "
        f"(target {summary['samples_per_insert_target']:g}).",
    ]
    if training is not None:
        parts.append(f"Training return: {training:.2f} (mean of the last {min(100, summary['train_episodes'])} episodes).")
    if evaluation is not None:
        parts.append(f"Evaluation return: {evaluation:.2f} over {summary['eval_episodes']} episodes.")
    results = [path for path in (directory.summary, directory.learning_curve, directory.video) if path.exists()]
    parts.append(f"Results: {', '.join(map(str, results))}")
    if not complete:
        parts.append(f"Go on with: sbrl train --resume --run-dir {directory.path}")
    return "\n".join(parts)


def _version() -> str:
    try:
        return metadata.version("sbrl")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
