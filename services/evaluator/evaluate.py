"""`sbrl eval`: runs the evaluation protocol on a checkpoint of a run; prints every episode's return."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sbrl.errors import RunError, plain
from sbrl.networks.policy import use_one_thread
from sbrl.runtime.program import run_program
from sbrl.seeds import evaluation_seed
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import row_of
from sbrl.v1.episodes_pb2 import Evaluation
from services.evaluator.agent import agent_arguments, load_agent
from services.evaluator.protocol import EvaluationResult, evaluate_weights, make_evaluation


def main(argv: Sequence[str]) -> None:
    parser = agent_arguments("eval", __doc__ or "")
    parser.add_argument("--episodes", metavar="N", help="full episodes to play (default: the run's evaluator.episodes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    arguments = parser.parse_args(argv)
    use_one_thread()
    # The config checks the number and words the error.
    overrides = [] if arguments.episodes is None else [f"evaluator.episodes={arguments.episodes}"]
    agent = load_agent(RunDirectory(arguments.run_dir), arguments.checkpoint, overrides)
    settings = agent.config.evaluator
    seed = evaluation_seed(agent.config.run.seed) if arguments.seed is None else arguments.seed
    print(
        f"{agent.config.env.id}: checkpoint of update {agent.updates:,} (env step {agent.env_steps:,}), "
        f"{settings.episodes} episodes, epsilon {plain(settings.epsilon)}, seed {seed}",
        flush=True,
    )
    with progress_bar(settings.episodes) as advance:
        result = evaluate_weights(agent.config, agent.weights, seed, threading.Event(), lambda _return, _length: advance())
    assert result is not None  # nothing sets the event: Ctrl-C and SIGTERM end this program directly
    evaluation = make_evaluation(
        result, settings, weights_version=0, updates=agent.updates, env_steps=agent.env_steps, seed=seed
    )
    if arguments.json is not None:  # first, because the reader of standard output may be gone
        write_json(arguments.json, evaluation)
    print(report(result, evaluation))


@contextmanager
def progress_bar(episodes: int) -> Iterator[Callable[[], None]]:
    """On a terminal, shows a bar with the time left on standard error. Yields a function to call after each episode."""
    console = Console(stderr=True)
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes, ETA"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=episodes)
        yield lambda: progress.advance(task)


def report(result: EvaluationResult, evaluation: Evaluation) -> str:
    """The printed result: every episode, then mean and spread."""
    lines = [
        f"episode {number}: return {plain(episode_return)} in {length:,} steps"
        for number, (episode_return, length) in enumerate(zip(result.returns, result.lengths, strict=True), start=1)
    ]
    if result.cut:
        lines.append(f"{result.cut} more ended at a bad value of the environment and are left out")
    lines.append(
        f"return: mean {evaluation.return_mean:.2f}, std {evaluation.return_std:.2f}, "
        f"min {plain(evaluation.return_min)}, max {plain(evaluation.return_max)} over {evaluation.episodes} episodes "
        f"of {evaluation.length_mean:,.0f} steps on average"
    )
    return "\n".join(lines)


def write_json(path: Path, evaluation: Evaluation) -> None:
    """Writes exactly the fields of sbrl.v1.Evaluation. Raises RunError if the file system refuses."""
    try:
        path.write_text(json.dumps(row_of(evaluation), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    run_program(main)
