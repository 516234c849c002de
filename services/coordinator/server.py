"""The coordinator's gRPC server: the services of protos/sbrl/v1, which state the status of each bad request."""

from __future__ import annotations

import logging
import math
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf.message import Message

from sbrl import config as configs
from sbrl.config import Config
from sbrl.coordination.episode_log import MAX_EPISODES_PER_CALL
from sbrl.coordination.weights import CHUNK_BYTES, chunks
from sbrl.errors import RunError
from sbrl.rpc import channels
from sbrl.rpc.credentials import Credentials
from sbrl.telemetry.metrics import CoordinatorMetrics
from sbrl.v1 import episodes_pb2, episodes_pb2_grpc, fleet_pb2, fleet_pb2_grpc, weights_pb2, weights_pb2_grpc
from services.coordinator.fleet import Fleet
from services.coordinator.refusal import Refused, invalid, statuses
from services.coordinator.store import MAX_INTEGER, Store
from services.coordinator.weights_store import StoredWeights, WeightsStore

MAX_WEIGHTS_BYTES = 1 << 30
RECENT_EPISODES = 100
LARGEST_REAL = 1e150  # largest number in the log: squares of such numbers can still be added up
THREADS = 32
# Slow readers of weights may hold this many threads. The others are always free for heartbeats.
MAX_TRANSFERS = 16
# There is one learner, and perhaps a second one that takes over from it. More publications are stuck, or malicious.
MAX_PUBLICATIONS, PUBLICATION_SECONDS = 4, 60.0

_CONFIG = "config"

_log = logging.getLogger(__name__)


class Coordinator:
    """The whole coordinator, with its state in one directory. The state survives kill -9."""

    def __init__(self, directory: Path, metrics: CoordinatorMetrics, settle: Callable[[str], Config]) -> None:
        """
        Args:
            directory: made if necessary.
            settle: the run's previous config as YAML, empty for a new run -> the run's present config.

        Raises:
            UsageError: the token or certificate that the environment variables name cannot be read.
        """
        self._directory = directory
        self._metrics = metrics
        self._settle = settle
        self._credentials = Credentials.from_environment()
        self._server = channels.make_server(THREADS, "coordinator", self._credentials)

    def start(self, host: str, port: int) -> int:
        """Binds the port (0: any free one), reads the state, serves, and returns the port.

        Raises:
            RunError: the port is taken, or the directory is in use, damaged or cannot be written.
        """
        bound = channels.bind(self._server, host, port, "coordinator", self._credentials)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._store = Store(self._directory / "state.sqlite")
            weights = WeightsStore(self._directory, self._store)
        except OSError as error:
            raise RunError(f"cannot use {self._directory} for the coordinator's state: {error.strerror}") from None
        self.config = self._settle(self._store.text(_CONFIG))
        text = configs.dump(self.config)
        self._store.set_text(_CONFIG, text)
        fleet = Fleet(self._store, self.config.run.env_steps, self._metrics, text)
        add_services(self._server, self._store, weights, fleet, self._metrics)
        self._server.start()
        newest = weights.newest.record.version if weights.newest else 0
        _log.info("serving on %s:%d; %d env steps collected, newest weights version %d", host, bound, fleet.env_steps, newest)
        return bound

    def stop(self, grace: float) -> None:
        """After `start`: accepts no more calls, waits up to `grace` seconds for those in flight, and closes the state."""
        self._server.stop(grace).wait()
        self._store.close()


def add_services(server: grpc.Server, store: Store, weights: WeightsStore, fleet: Fleet, metrics: CoordinatorMetrics) -> None:
    """Adds the three services to a server, and connects the metrics to their state."""
    weights_pb2_grpc.add_WeightsServicer_to_server(_WeightsService(store, weights, metrics), server)
    fleet_pb2_grpc.add_FleetServicer_to_server(_FleetService(store, weights, fleet), server)
    episodes_pb2_grpc.add_LogServicer_to_server(_LogService(store, metrics), server)
    metrics.learner_term.set_function(lambda: store.number("term"))
    metrics.weights_version.set_function(lambda: weights.newest.record.version if weights.newest else 0)
    metrics.weights_age_seconds.set_function(lambda: _weights_age(weights))
    metrics.episodes.set_function(lambda: store.num_episodes)
    evaluation = store.last_evaluation()
    metrics.evaluation_return_mean.set(math.nan if evaluation is None else evaluation.return_mean)
    metrics.evaluation_env_steps.set(0 if evaluation is None else evaluation.env_steps)
    _report_returns(store, metrics)


class _WeightsService(weights_pb2_grpc.WeightsServicer):
    def __init__(self, store: Store, weights: WeightsStore, metrics: CoordinatorMetrics) -> None:
        self._store = store
        self._weights = weights
        self._metrics = metrics
        self._transfers = threading.BoundedSemaphore(MAX_TRANSFERS)
        self._publications = threading.BoundedSemaphore(MAX_PUBLICATIONS)

    def AcquireTerm(
        self, request: weights_pb2.AcquireTermRequest, context: grpc.ServicerContext
    ) -> weights_pb2.AcquireTermResponse:
        with statuses(context):
            term = self._store.acquire_term(request.holder)
        _log.info("term %d is %s's", term, request.holder or "an unnamed learner")
        newest = self._weights.newest
        return weights_pb2.AcquireTermResponse(term=term, newest_version=newest.record.version if newest else 0)

    def Publish(
        self, requests: Iterator[weights_pb2.PublishRequest], context: grpc.ServicerContext
    ) -> weights_pb2.PublishResponse:
        with self._publication(context), statuses(context):
            header, data = _receive(requests)
            try:
                record = self._weights.publish(data, header.term, header.updates, header.crc32)
            except Refused as refusal:
                if refusal.status is grpc.StatusCode.FAILED_PRECONDITION:
                    self._metrics.weights_fenced.inc()
                raise
        self._metrics.weights_published.inc()
        return weights_pb2.PublishResponse(version=record.version)

    @contextmanager
    def _publication(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Takes one of the few slots for publications, for a limited time; ends the call if none is free."""
        if not self._publications.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_PUBLICATIONS} others are publishing: try again")
        time_limit = threading.Timer(PUBLICATION_SECONDS, context.cancel)
        time_limit.start()
        try:
            yield
        finally:
            time_limit.cancel()
            self._publications.release()

    def Fetch(self, request: weights_pb2.FetchRequest, context: grpc.ServicerContext) -> Iterator[weights_pb2.FetchResponse]:
        with statuses(context):
            newest = _require(self._weights.newest)
        record = newest.record
        if record.version <= request.newer_than_version:
            yield weights_pb2.FetchResponse(header=weights_pb2.WeightsHeader(version=record.version))
            return
        if not self._transfers.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_TRANSFERS} others are fetching weights: try again")
        try:
            header = weights_pb2.WeightsHeader(**record._asdict(), age_seconds=newest.age_seconds)
            yield weights_pb2.FetchResponse(header=header)
            for chunk in chunks(newest.data):
                yield weights_pb2.FetchResponse(chunk=chunk)
        finally:
            self._transfers.release()
        self._metrics.weights_fetched.inc()


class _FleetService(fleet_pb2_grpc.FleetServicer):
    def __init__(self, store: Store, weights: WeightsStore, fleet: Fleet) -> None:
        self._store = store
        self._weights = weights
        self._fleet = fleet

    def Join(self, request: fleet_pb2.JoinRequest, context: grpc.ServicerContext) -> fleet_pb2.JoinResponse:
        with statuses(context):
            return self._fleet.join(request)

    def Heartbeat(self, request: fleet_pb2.HeartbeatRequest, context: grpc.ServicerContext) -> fleet_pb2.HeartbeatResponse:
        with statuses(context):
            return self._fleet.heartbeat(request)

    def Leave(self, request: fleet_pb2.HeartbeatRequest, context: grpc.ServicerContext) -> fleet_pb2.LeaveResponse:
        with statuses(context):
            self._fleet.leave(request)
        return fleet_pb2.LeaveResponse()

    def GetStatus(self, request: fleet_pb2.GetStatusRequest, context: grpc.ServicerContext) -> fleet_pb2.GetStatusResponse:
        with statuses(context):
            response = self._fleet.status()
            newest = self._weights.newest
            response.learner_term = self._store.number("term")
            response.learner_holder = self._store.learner_holder
            response.weights_version = newest.record.version if newest else 0
            response.weights_age_seconds = _weights_age(self._weights)
            response.recent_episodes.extend(self._store.recent_episodes(RECENT_EPISODES))
            response.num_episodes = self._store.num_episodes
            evaluation = self._store.last_evaluation()
            if evaluation is not None:
                response.last_evaluation.CopyFrom(evaluation)
        return response

    def Finish(self, request: fleet_pb2.FinishRequest, context: grpc.ServicerContext) -> fleet_pb2.FinishResponse:
        with statuses(context):
            self._fleet.finish()
        _log.info("the run is finished")
        return fleet_pb2.FinishResponse()


class _LogService(episodes_pb2_grpc.LogServicer):
    def __init__(self, store: Store, metrics: CoordinatorMetrics) -> None:
        self._store = store
        self._metrics = metrics

    def AppendEpisodes(
        self, request: episodes_pb2.AppendEpisodesRequest, context: grpc.ServicerContext
    ) -> episodes_pb2.AppendEpisodesResponse:
        with statuses(context):
            if len(request.episodes) > MAX_EPISODES_PER_CALL:
                raise invalid(f"{len(request.episodes)} episodes in one call: {MAX_EPISODES_PER_CALL} at most")
            wrong = [_wrong_number(episode) for episode in request.episodes]
            self._store.append_episodes([one for one, why in zip(request.episodes, wrong, strict=True) if why is None])
        _report_returns(self._store, self._metrics)
        reasons = [why for why in wrong if why is not None]
        self._metrics.episodes_refused.inc(len(reasons))
        return episodes_pb2.AppendEpisodesResponse(refused=len(reasons), reason=reasons[0] if reasons else "")

    def AppendEvaluation(
        self, request: episodes_pb2.AppendEvaluationRequest, context: grpc.ServicerContext
    ) -> episodes_pb2.AppendEvaluationResponse:
        with statuses(context):
            wrong = _wrong_number(request.evaluation)
            if wrong is not None:
                raise invalid(wrong)
            self._store.append_evaluation(request.evaluation)
            last = self._store.last_evaluation()  # the one received may be an earlier one, sent again
        self._metrics.evaluations.inc()
        if last is not None:
            self._metrics.evaluation_return_mean.set(last.return_mean)
            self._metrics.evaluation_env_steps.set(last.env_steps)
        return episodes_pb2.AppendEvaluationResponse()

    def ReadEpisodes(
        self, request: episodes_pb2.ReadEpisodesRequest, context: grpc.ServicerContext
    ) -> Iterator[episodes_pb2.ReadEpisodesResponse]:
        row, left = request.after_row, request.limit or MAX_INTEGER
        while left > 0:
            with statuses(context):
                episodes, row = self._store.episodes(row, limit=min(left, MAX_EPISODES_PER_CALL))
            if not episodes:
                return
            left -= len(episodes)
            yield episodes_pb2.ReadEpisodesResponse(episodes=episodes, last_row=row)

    def ReadEvaluations(
        self, request: episodes_pb2.ReadEvaluationsRequest, context: grpc.ServicerContext
    ) -> episodes_pb2.ReadEvaluationsResponse:
        with statuses(context):
            return episodes_pb2.ReadEvaluationsResponse(evaluations=self._store.evaluations())


def _receive(requests: Iterator[weights_pb2.PublishRequest]) -> tuple[weights_pb2.WeightsHeader, bytes]:
    """The header and the bytes of a publication.

    Raises:
        Refused: the header does not come first, or the total size or a chunk's size is wrong.
    """
    first = next(requests, None)
    if first is None or not first.HasField("header"):
        raise invalid("the first message of a publication must carry the header")
    header = first.header
    if not 0 < header.size_bytes <= MAX_WEIGHTS_BYTES:
        raise invalid(f"the header's size_bytes is {header.size_bytes}: weights have between 1 and {MAX_WEIGHTS_BYTES} bytes")
    data = bytearray()
    for request in requests:
        if not 0 < len(request.chunk) <= CHUNK_BYTES:
            raise invalid(f"a chunk has {len(request.chunk)} bytes: chunks have between 1 and {CHUNK_BYTES}")
        data += request.chunk
        if len(data) > header.size_bytes:
            break
    if len(data) != header.size_bytes:
        raise invalid(f"the weights have not the {header.size_bytes} bytes that the header names")
    return header, bytes(data)


def _require(newest: StoredWeights | None) -> StoredWeights:
    if newest is None:
        raise Refused(grpc.StatusCode.NOT_FOUND, "no weights are published yet")
    return newest


def _wrong_number(record: Message) -> str | None:
    """Which number of a record cannot be stored, and why; None if all can."""
    for descriptor, value in record.ListFields():
        most = LARGEST_REAL if isinstance(value, float) else MAX_INTEGER
        if not abs(value) <= most:
            return f"{descriptor.name} is {value}: it must be finite and at most {most}"
    return None


def _report_returns(store: Store, metrics: CoordinatorMetrics) -> None:
    returns = [episode.episode_return for episode in store.recent_episodes(RECENT_EPISODES)]
    metrics.episode_return_mean.set(statistics.fmean(returns) if returns else math.nan)
    metrics.episode_return_std.set(statistics.pstdev(returns) if returns else math.nan)


def _weights_age(weights: WeightsStore) -> float:
    """Seconds since the newest version was published, -1 if there is none."""
    newest = weights.newest
    return newest.age_seconds if newest else -1.0
