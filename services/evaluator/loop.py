"""The evaluator's loop: wait until an evaluation is due, fetch the newest weights, evaluate, log."""

from __future__ import annotations

import logging
import threading
import time

from sbrl.config import Config
from sbrl.coordination.episode_log import LogClient
from sbrl.coordination.fleet import RunState
from sbrl.coordination.membership import FleetMember
from sbrl.coordination.weights import FetchedWeights, WeightsClient
from sbrl.errors import FinalError, RunError
from sbrl.networks.serialization import decode
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.seeds import evaluation_seed
from sbrl.telemetry.metrics import EvaluatorMetrics
from sbrl.v1.episodes_pb2 import Evaluation
from services.evaluator.protocol import evaluate_weights, make_evaluation

WAIT_SECONDS = 1.0  # wait for new instructions before checking again whether to stop
# Shorter than the clients' default deadlines, so that a process that must stop does not wait long for these calls.
FETCH_SECONDS = 10.0
LOG_SECONDS = 5.0

_log = logging.getLogger(__name__)


class EvaluatorLoop:
    """Runs until the run is finished or `stop` is set. The caller makes and closes everything that it uses."""

    def __init__(
        self,
        config: Config,
        member: FleetMember,
        weights: WeightsClient,
        log: LogClient,
        metrics: EvaluatorMetrics,
        stop: threading.Event,
    ) -> None:
        self._config, self._member, self._weights, self._log = config, member, weights, log
        self._metrics, self._stop = metrics, stop
        self._seed = evaluation_seed(config.run.seed)
        self._due: int | None = None  # env_steps of the next evaluation; None until the log has been read
        self._version = 0  # of the last evaluated weights
        self._published_time: float | None = None  # of the same weights, by the monotonic clock; None before the first

    def run(self) -> None:
        """Evaluates every `evaluator.interval_env_steps` until the run is finished."""
        while not self._stop.is_set():
            instructions = self._member.instructions
            if instructions.state is RunState.FINISHED:
                _log.info("the run is finished: stopping")
                return
            self._report_age()
            try:
                fetched = self._fetch_if_due(instructions.env_steps)
            except CoordinatorUnavailable as error:
                _log.debug("nothing to evaluate: %s", error)  # debug only: heartbeats already warn of the outage
                self._wait("coordinator")
                continue
            if fetched is not None:
                self._evaluate(fetched, instructions.env_steps)

    def _fetch_if_due(self, env_steps: int) -> FetchedWeights | None:
        """New weights if an evaluation is due; otherwise waits a moment and returns None."""
        if self._due is None:
            self._go_on_from(self._log.read_evaluations(LOG_SECONDS))
            return None
        if env_steps < self._due:
            self._wait("actors")
            return None
        fetched = self._weights.fetch(self._version, FETCH_SECONDS)
        if fetched is None:
            self._wait("learner")
        return fetched

    def _go_on_from(self, evaluations: list[Evaluation]) -> None:
        """Schedules the next evaluation after those that earlier processes logged."""
        self._version = max([evaluation.weights_version for evaluation in evaluations], default=0)
        self._schedule(max([evaluation.env_steps for evaluation in evaluations], default=0))

    def _schedule(self, env_steps: int) -> None:
        """Schedules the next evaluation at the next multiple of the interval. Missed multiples are not made up."""
        interval = self._config.evaluator.interval_env_steps
        self._due = (env_steps // interval + 1) * interval

    def _evaluate(self, fetched: FetchedWeights, env_steps: int) -> None:
        self._metrics.weights_version.set(fetched.version)
        self._version, self._published_time = fetched.version, fetched.published_time
        _log.info("evaluating weights version %d at env step %d", fetched.version, env_steps)
        start = time.monotonic()
        try:
            result = evaluate_weights(self._config, decode(fetched.data), self._seed, self._stop, self._on_episode)
        except FinalError:
            raise
        except RunError as error:  # the next weights may be usable
            _log.error("weights version %d is not evaluated: %s", fetched.version, error)
            self._schedule(env_steps)
            return
        if result is None:
            _log.info("told to stop: the evaluation is dropped")
            return
        if result.cut:
            _log.warning("%d episodes ended at a bad value of the environment and are left out", result.cut)
        evaluation = make_evaluation(
            result,
            self._config.evaluator,
            weights_version=fetched.version,
            updates=fetched.updates,
            env_steps=env_steps,
            seed=self._seed,
        )
        self._metrics.duration_seconds.set(time.monotonic() - start)
        self._metrics.return_mean.set(evaluation.return_mean)
        self._metrics.evaluations.inc()
        _log.info("mean return %.2f over %d episodes", evaluation.return_mean, evaluation.episodes)
        self._append(evaluation)
        self._schedule(env_steps)

    def _append(self, evaluation: Evaluation) -> None:
        """Logs the evaluation. Waits for the coordinator as long as it is away, unless `stop` is set."""
        while True:
            try:
                self._log.append_evaluation(evaluation, LOG_SECONDS)
                return
            except CoordinatorUnavailable as error:
                if self._stop.is_set():
                    _log.warning("told to stop: the evaluation of version %d is lost: %s", evaluation.weights_version, error)
                    return
                self._wait("coordinator")
            except RunError as error:
                _log.error("the evaluation of version %d is not in the log: %s", evaluation.weights_version, error)
                return

    def _on_episode(self, episode_return: float, length: int) -> None:
        self._metrics.episodes.inc()
        self._metrics.env_steps.inc(length)
        self._report_age()

    def _report_age(self) -> None:
        if self._published_time is not None:
            self._metrics.weights_age_seconds.set(time.monotonic() - self._published_time)

    def _wait(self, waiting_for: str) -> None:
        start = time.monotonic()
        self._member.wait_instructions(WAIT_SECONDS)
        self._metrics.blocked_seconds.labels(waiting_for).inc(time.monotonic() - start)
