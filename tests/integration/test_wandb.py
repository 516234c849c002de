"""The Weights & Biases sink with the real package: its offline files, no network traffic, and error messages."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined] # made when it is imported
from wandb.sdk.internal.datastore import DataStore

from learner import wandb_logger
from learner.metric_loggers import MetricLogger
from learner.wandb_logger import wandb_sinks
from sbrl.config import Config, build
from sbrl.errors import RunError, UsageError
from sbrl.storage.run_directory import RunDirectory
from sbrl.telemetry import weights_and_biases

pytestmark = pytest.mark.timeout(300)  # its service takes long to start on a busy machine


class Listener:
    """The target of all its connections: the configured server, and the proxy to all others. Accepts and drops them."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Listener]:
    made = Listener()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, made.url)
    for name in ("NO_PROXY", "no_proxy", "WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody's login
    yield made
    wandb.teardown()  # its service has this environment
    made.close()


def make_config(mode: str) -> Config:
    return build({"run": {"wandb_mode": mode, "wandb_project": "small"}})


def read(file: Path) -> Iterator[Record]:
    store = DataStore()
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        yield record


def test_offline_everything_is_in_the_run_directory_and_nothing_is_sent(listener: Listener, tmp_path: Path) -> None:
    config, directory = make_config("offline"), RunDirectory(tmp_path / "pong")
    for part in range(2):  # as when the learner is started again
        metric_logger = MetricLogger(wandb_sinks(config, directory))
        metric_logger._write({"learner/loss": 0.5, "learner/mean_q": 2.0}, 100 + part)
        metric_logger._write({"evaluation/return_mean": float("nan")}, 60)
        metric_logger.close()
    assert listener.connections == 0
    files = sorted(directory.wandb.glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    ids = set()
    for part, file in enumerate(files):
        records = list(read(file))
        (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        settings = {item.key: json.loads(item.value_json) for item in run.config.update}
        rows = [
            {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for record in records
            if record.WhichOneof("record_type") == "history"
        ]
        ids.add(run.run_id)
        assert (run.project, run.display_name) == ("small", "pong")
        assert settings["learner"]["batch_size"] == 8
        assert [row["env_steps"] for row in rows] == [100 + part, 60]
        assert rows[0]["learner/loss"] == 0.5
        assert rows[0]["learner/mean_q"] == 2.0
        assert rows[1].keys() >= {"evaluation/return_mean"}
    assert ids == {(directory.wandb / "run_id").read_text(encoding="utf-8").strip()}


def test_online_a_server_that_does_not_answer_is_one_clear_line(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also shows that connections would have gone to the listener."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_logger, "INIT_SECONDS", 2.0)
    with pytest.raises(RunError, match=r"run\.wandb_mode=online: .*set run\.wandb_mode=offline") as raised:
        wandb_sinks(make_config("online"), RunDirectory(tmp_path / "run"))
    assert "\n" not in str(raised.value)
    assert listener.connections > 0


def test_nothing_is_made_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert wandb_sinks(build(), RunDirectory(tmp_path)) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_package_that_is_missing_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str) -> None:
    monkeypatch.setattr(weights_and_biases, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"run\.wandb_mode={mode} needs the package wandb: pip install .*=disabled$"):
        wandb_sinks(make_config(mode), RunDirectory(tmp_path))
    assert wandb_sinks(make_config("disabled"), RunDirectory(tmp_path)) == []
