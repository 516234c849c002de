"""The coordinator's log of episodes and evaluations over real gRPC, through the clients that the roles use."""

import itertools
import json
import math
import time
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from learner.metric_loggers import MetricLogger
from learner.tensorboard import TensorBoard
from sbrl import config
from sbrl.coordination.episode_log import EpisodeSender, LogClient
from sbrl.coordination.fleet import FleetClient
from sbrl.errors import RunError
from sbrl.monitor.learning_curve import write_learning_curve
from sbrl.monitor.progress import ProgressMeter
from sbrl.monitor.summary import summarize
from sbrl.monitor.view import line
from sbrl.rpc.channels import CoordinatorUnavailable
from sbrl.storage.tables import read_episodes, write_episodes, write_evaluations
from sbrl.v1 import episodes_pb2, episodes_pb2_grpc
from sbrl.v1.episodes_pb2 import Episode, Evaluation
from services.coordinator.store import Store
from tests.coordinator import WAIT, serve


def episode(number, incarnation=1, **kwargs):
    return Episode(incarnation=incarnation, number=number, episode_return=-number, length=7, truncated=True, **kwargs)


def test_episodes_are_idempotent_and_come_back_in_order(tmp_path):
    with serve(tmp_path) as address:
        log = LogClient(address)
        log.append_episodes([episode(n) for n in range(1000)])
        log.append_episodes([episode(n) for n in range(500, 1500)])
        log.close()
    with serve(tmp_path) as address:
        log = LogClient(address)
        pages = list(log.read_episodes())
        assert [e for _, page in pages for e in page] == [episode(n) for n in range(1500)]
        assert [[e.number for e in page] for _, page in log.read_episodes(after_row=pages[-1][0] - 1)] == [[1499]]
        client = FleetClient(address)
        status = client.status()
        assert status.num_episodes == 1500
        assert [e.number for e in status.recent_episodes] == list(range(1400, 1500))
        client.close()
        log.close()


def test_each_page_of_the_log_has_a_deadline_of_its_own(address, monkeypatch):
    log = LogClient(address)
    for first in range(0, 2500, 500):
        log.append_episodes([episode(n) for n in range(first, first + 500)])
    read = Store.episodes

    def read_slowly(self, after_row, limit):
        time.sleep(0.5)
        return read(self, after_row, limit)

    monkeypatch.setattr(Store, "episodes", read_slowly)
    start = time.monotonic()
    assert [len(page) for _, page in log.read_episodes(timeout=1.5)] == [1000, 1000, 500]
    assert time.monotonic() - start > 1.5
    with pytest.raises(CoordinatorUnavailable, match="Deadline Exceeded"):
        list(log.read_episodes(timeout=0.2))
    log.close()


@pytest.mark.parametrize(
    ("limit", "pages"), [(0, [1000, 500]), (1, [1]), (1000, [1000]), (1200, [1000, 200]), (2**64 - 1, [1000, 500])]
)
def test_a_reader_of_the_log_says_how_many_episodes_it_wants(address, limit, pages):
    log = LogClient(address)
    log.append_episodes([episode(n) for n in range(1000)])
    log.append_episodes([episode(n) for n in range(1000, 1500)])
    with grpc.insecure_channel(address) as channel:
        request = episodes_pb2.ReadEpisodesRequest(limit=limit)
        responses = list(episodes_pb2_grpc.LogStub(channel).ReadEpisodes(request, timeout=WAIT))
    assert [len(response.episodes) for response in responses] == pages
    assert [response.last_row for response in responses] == list(itertools.accumulate(pages))
    log.close()


def test_repeated_evaluation_replaces_the_earlier(address):
    log = LogClient(address)
    for version, mean in ((1, 10.0), (2, 20.0), (1, 11.0)):
        log.append_evaluation(Evaluation(weights_version=version, seed=3, return_mean=mean, episodes=10), timeout=WAIT)
    assert [(e.weights_version, e.return_mean) for e in log.read_evaluations()] == [(1, 11.0), (2, 20.0)]
    log.close()


def test_the_status_has_the_last_evaluation_and_reads_no_other(address, monkeypatch):
    log, client = LogClient(address), FleetClient(address)
    assert not client.status().HasField("last_evaluation")
    for version, mean in ((1, 10.0), (2, 20.0), (1, 11.0)):
        log.append_evaluation(Evaluation(weights_version=version, seed=3, return_mean=mean, episodes=10), timeout=WAIT)
    monkeypatch.setattr(Store, "evaluations", lambda self: pytest.fail("all evaluations are read for a status"))
    last = client.status().last_evaluation
    assert (last.weights_version, last.return_mean) == (2, 20.0)
    client.close()
    log.close()


def test_an_earlier_evaluation_sent_again_leaves_the_gauges_at_the_last(tmp_path):
    registry = CollectorRegistry()
    with serve(tmp_path, registry=registry) as address:
        log = LogClient(address)
        for version, steps in ((1, 1000), (2, 2000), (1, 1000)):
            sent = Evaluation(weights_version=version, seed=3, env_steps=steps, return_mean=version, episodes=10)
            log.append_evaluation(sent, timeout=WAIT)
        log.close()
        assert registry.get_sample_value("sbrl_coordinator_evaluation_env_steps") == 2000
        assert registry.get_sample_value("sbrl_coordinator_evaluation_return_mean") == 2


def bad_episodes():
    """Episodes, each with a number that cannot be stored."""
    wrong: list[dict[str, Any]] = [{"episode_return": value} for value in (math.nan, math.inf, -math.inf, 1e151)]
    wrong += [{"time": math.nan}, {"env_steps": 2**64 - 1}]
    return [Episode(incarnation=2, number=number, length=1, **fields) for number, fields in enumerate(wrong)]


def test_of_many_episodes_only_those_with_a_bad_number_are_left_out(address):
    log, good = LogClient(address), [episode(n) for n in range(990)]
    bad = bad_episodes()
    answer = log.append_episodes([*good[:400], *bad, *good[400:]])
    assert answer.refused == len(bad)
    assert answer.reason == "episode_return is nan: it must be finite and at most 1e+150"
    assert [e for _, page in log.read_episodes() for e in page] == good
    assert log.append_episodes([episode(2000)]).refused == 0
    with pytest.raises(RunError, match="1000 at most"):
        log.append_episodes([episode(n) for n in range(1001)])
    log.close()


def test_huge_returns_are_kept_and_every_reader_goes_on(address, tmp_path):
    """Such returns are finite, but far above SQLite's integers."""
    log, client = LogClient(address), FleetClient(address)
    huge = [episode(n) for n in range(100)]
    for one, value in zip(huge, (1e19, -1e45, 1e150), strict=False):
        one.episode_return = value
    log.append_episodes(huge)
    log.append_evaluation(Evaluation(weights_version=1, return_mean=1e45, return_std=1e45, episodes=1), timeout=WAIT)
    status, run = client.status(), config.build({})
    assert status.num_episodes == 100
    summary = summarize(run, status, 1.0, complete=False)
    assert summary["eval_return_mean"] == 1e45
    json.dumps(summary, allow_nan=False)
    assert len(line(run, ProgressMeter(run).read(status))) < 400
    metric_logger = TensorBoard(tmp_path / "tensorboard")
    MetricLogger([metric_logger]).returns(status)
    metric_logger.close()
    write_episodes(tmp_path / "episodes.csv", huge)
    write_evaluations(tmp_path / "evaluations.csv", log.read_evaluations())
    assert read_episodes(tmp_path / "episodes.csv") == huge
    write_learning_curve(tmp_path / "episodes.csv", tmp_path / "evaluations.csv", tmp_path / "curve.png", run)
    assert (tmp_path / "curve.png").stat().st_size > 1000
    client.close()
    log.close()


def test_a_sender_drops_the_bad_episodes_alone_counts_them_and_says_so(address, caplog):
    log = LogClient(address)
    sender, bad = EpisodeSender(log), bad_episodes()
    for one in (*bad, *(episode(n) for n in range(50))):
        sender.add(one)
    sender.start()
    sender.close(timeout=WAIT)
    assert (sender.pending, sender.dropped) == (0, len(bad))
    assert [e.number for _, page in log.read_episodes() for e in page] == list(range(50))
    assert f"{len(bad)} episodes dropped: episode_return is nan" in caplog.text
    log.close()


def test_an_evaluation_that_is_not_finite_is_refused(address):
    log = LogClient(address)
    with pytest.raises(RunError, match="return_std is inf: it must be finite"):
        log.append_evaluation(Evaluation(weights_version=1, return_std=math.inf), timeout=WAIT)
    assert log.read_evaluations() == []
    log.close()


def test_sender_loses_nothing_silently_while_the_coordinator_is_away(tmp_path):
    with serve(tmp_path) as address:
        port = int(address.rpartition(":")[2])
    log = LogClient(address)
    sender = EpisodeSender(log, capacity=5)
    for number in range(8):
        sender.add(episode(number))
    assert (sender.pending, sender.dropped) == (5, 3)
    sender.start()
    with serve(tmp_path, port=port):
        sender.close(timeout=WAIT)
        assert (sender.pending, sender.dropped) == (0, 3)
        assert [e.number for _, page in log.read_episodes() for e in page] == [0, 1, 2, 3, 4]
    log.close()


def test_bytes_that_are_no_message_are_one_line_of_the_log(address, caplog):
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/sbrl.v1.Fleet/Join")(b"\xff\xff\xff", timeout=10)
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    (record,) = [record for record in caplog.records if "no message" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert record.exc_info is None
    assert "\n" not in record.getMessage()
