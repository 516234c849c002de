"""`sbrl train --serial`: a whole run in one process, bit-reproducible from its seed; for debugging and tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from learner.algorithm.precision import configure_precision
from learner.algorithm.update import configure_torch
from sbrl import config as configs
from sbrl.cli.commands import add_config_arguments, closing_lines
from sbrl.config import Config, serial_config
from sbrl.errors import UsageError
from sbrl.monitor.learning_curve import write_learning_curve
from sbrl.monitor.progress import ProgressMeter
from sbrl.monitor.summary import summarize, write_summary
from sbrl.monitor.view import View, make_view
from sbrl.networks.checks import check_network
from sbrl.runtime.arguments import Parser
from sbrl.runtime.env_probe import probe
from sbrl.runtime.output import outlive_output
from sbrl.runtime.program import run_program
from sbrl.seeds import evaluation_seed
from sbrl.storage.atomic import replace_text
from sbrl.storage.metadata import new_run_id, run_metadata
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import write_episodes, write_evaluations
from sbrl.telemetry.logs import Context, configure_logging
from sbrl.v1.episodes_pb2 import Evaluation
from sbrl.v1.fleet_pb2 import GetStatusResponse
from services.evaluator.agent import load_agent
from services.evaluator.protocol import evaluate_weights, make_evaluation
from single_process.run import SerialRun

SHOW_SECONDS = 0.5


def main(argv: Sequence[str]) -> None:
    outlive_output()
    parser = Parser(prog="sbrl train --serial", description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="where results go")
    arguments = parser.parse_args(argv)
    config = serial_config(configs.load(arguments.config, arguments.preset, arguments.overrides))
    directory = RunDirectory(arguments.run_dir)
    if config.run.wandb_mode != "disabled":
        raise UsageError(
            f"run.wandb_mode={config.run.wandb_mode}: --serial keeps no logs but its results; leave out one of the two"
        )
    directory.check_new()
    # First, so that a broken environment ends the run before anything is written.
    spec = probe(config.env)
    check_network(config, spec)
    configure_torch(num_threads=1)
    configure_precision(config.learner)
    with directory.lock():
        run_id = new_run_id(config.env.id)
        configure_logging(Context("serial", "serial", run_id), config.run.log_level)
        replace_text(directory.config, configs.dump(config, run_metadata(run_id, spec)))
        with make_view(config, f"{config.env.id}, serial, in {directory.path}") as view:
            train(config, directory, view)
    print(closing_lines(directory, complete=True))


def train(config: Config, directory: RunDirectory, view: View) -> None:
    """Trains and evaluates. Leaves the same results as a run with all roles, except the video and TensorBoard."""
    start, start_cpu, meter, next_show = time.monotonic(), time.process_time(), ProgressMeter(config), 0.0

    def show(status: Callable[[], GetStatusResponse]) -> None:
        nonlocal next_show
        if time.monotonic() >= next_show:
            next_show = time.monotonic() + SHOW_SECONDS
            view.show(meter.read(status()))

    run = SerialRun(config, directory)
    try:
        run.run(show)
        run.save()
        seconds, status = time.monotonic() - start, run.status()
        cost = {"core_seconds": time.process_time() - start_cpu, "bytes_moved": 0}  # there is one process
        more = {**cost, "diagnostics": run.diagnostics(), **run.digests()}
    finally:
        run.close()
    view.message("evaluating the final agent ...")
    evaluation = evaluate(config, directory)
    status.last_evaluation.CopyFrom(evaluation)
    write_episodes(directory.episodes, run.episodes)
    write_evaluations(directory.evaluations, [evaluation])
    write_learning_curve(directory.episodes, directory.evaluations, directory.learning_curve, config)
    write_summary(directory.summary, {**summarize(config, status, seconds, complete=True), **more})


def evaluate(config: Config, directory: RunDirectory) -> Evaluation:
    """Runs the evaluation protocol on the checkpoint just written."""
    agent = load_agent(directory, updates=None)
    seed = evaluation_seed(config.run.seed)
    result = evaluate_weights(config, agent.weights, seed, threading.Event(), lambda _return, _length: None)
    assert result is not None  # nothing sets the event
    return make_evaluation(
        result,
        config.evaluator,
        weights_version=0,
        updates=agent.updates,
        env_steps=agent.env_steps,
        seed=seed,
    )


if __name__ == "__main__":
    run_program(main)
