"""A run's tables have every number exactly, and its picture can be drawn from any of them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from PIL import Image

from sbrl import config
from sbrl.errors import RunError
from sbrl.monitor.learning_curve import running_mean, write_learning_curve
from sbrl.storage import tables
from sbrl.storage.tables import GrowingEpisodes, read_episodes, read_evaluations, row_of, write_episodes, write_evaluations
from sbrl.v1.episodes_pb2 import Episode, Evaluation
from services.coordinator import store as stores
from services.coordinator.store import Store

EPISODE = Episode(
    actor=3,
    incarnation=2**40,
    env=1,
    number=7,
    episode_return=-20.1,
    length=812,
    truncated=True,
    env_steps=10**9,
    weights_version=5,
    time=1.7e9 + 0.1,
)
EVALUATION = Evaluation(weights_version=2, updates=50, env_steps=1000, return_mean=1 / 3, return_std=0.1, episodes=10, seed=4)


def test_tables_are_read_back_as_they_were_written(tmp_path: Path):
    episodes, evaluations = [EPISODE, Episode()], [EVALUATION, Evaluation()]
    write_episodes(tmp_path / "episodes.csv", iter(episodes))
    write_evaluations(tmp_path / "evaluations.csv", evaluations)
    assert read_episodes(tmp_path / "episodes.csv") == episodes
    assert read_evaluations(tmp_path / "evaluations.csv") == evaluations
    assert {path.name for path in tmp_path.iterdir()} == {"episodes.csv", "evaluations.csv"}


# Other tools read these. A new field of the message becomes a column after them.
EPISODE_COLUMNS = "actor,incarnation,env,number,episode_return,length,truncated,env_steps,weights_version,time"
EVALUATION_COLUMNS = (
    "weights_version,updates,env_steps,return_mean,return_std,return_min,return_max,episodes,length_mean,epsilon,seed,time"
)


def test_the_columns_other_tools_read(tmp_path: Path):
    write_episodes(tmp_path / "episodes.csv", [EPISODE])
    write_evaluations(tmp_path / "evaluations.csv", [])
    header, row = (tmp_path / "episodes.csv").read_text().splitlines()
    assert f"{header},".startswith(f"{EPISODE_COLUMNS},")
    assert f"{row},".startswith("3,1099511627776,1,7,-20.1,812,1,1000000000,5,1700000000.1,")
    assert f"{(tmp_path / 'evaluations.csv').read_text().strip()},".startswith(f"{EVALUATION_COLUMNS},")


def with_a_field_more(kind: type[Message]) -> type[Message]:
    """The message as in a later version of the proto file."""
    file = descriptor_pb2.FileDescriptorProto(name=f"later/{kind.DESCRIPTOR.name}.proto", package="later", syntax="proto3")
    kind.DESCRIPTOR.CopyToProto(file.message_type.add())
    file.message_type[0].field.add(name="lives", number=1000, type=5, label=1)  # optional int32
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"later.{kind.DESCRIPTOR.name}"))


def test_tables_of_before_a_field_are_read_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "episodes.csv"
    write_episodes(path, [EPISODE])
    later = with_a_field_more(Episode)
    monkeypatch.setattr(tables, "Episode", later)
    assert [row_of(episode) for episode in read_episodes(path)] == [{**row_of(EPISODE), "lives": 0}]
    write_episodes(path, [later(number=3, lives=2)])  # type: ignore[list-item]
    assert [row_of(episode)["lives"] for episode in read_episodes(path)] == [2]


def test_the_coordinators_state_of_before_a_field_is_read_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with closing(Store(tmp_path / "state.sqlite")) as store:
        store.append_evaluation(EVALUATION)
        store.append_episodes([EPISODE])
        assert (store.episodes(0, 10)[0], store.evaluations()) == ([EPISODE], [EVALUATION])
    later = with_a_field_more(Episode)
    monkeypatch.setitem(stores._LOG, "episodes", (later, "incarnation, number"))
    monkeypatch.setattr(stores, "_EPISODE_FIELDS", tuple(field.name for field in later.DESCRIPTOR.fields))
    monkeypatch.setattr(stores, "Episode", later)
    for kept in (1, 2):  # made once
        with closing(Store(tmp_path / "state.sqlite")) as store:
            store.append_episodes([later(incarnation=99, number=kept, lives=3)])  # type: ignore[list-item]
            assert [row_of(episode)["lives"] for episode in store.episodes(0, 10)[0]] == [0, *[3] * kept]


def test_a_row_has_fields_that_are_zero():
    assert row_of(Evaluation(seed=1))["weights_version"] == 0


def test_a_table_that_cannot_be_completed_leaves_the_earlier_one(tmp_path: Path):
    def interrupted() -> Iterator[Episode]:
        yield Episode()
        raise RunError("coordinator unavailable")

    path = tmp_path / "episodes.csv"
    write_episodes(path, [EPISODE])
    with pytest.raises(RunError, match="coordinator unavailable"):
        write_episodes(path, interrupted())
    assert read_episodes(path) == [EPISODE]
    assert list(tmp_path.iterdir()) == [path]


class Log:
    """The coordinator's log, in pages of three. Notes the requested rows."""

    def __init__(self, size: int) -> None:
        self.episodes = [Episode(incarnation=1, number=n, episode_return=n / 3, truncated=n % 2 == 0) for n in range(size)]
        self.asked: list[int] = []
        self.fails_after = 10**9

    def read(self, after_row: int) -> Iterator[tuple[int, list[Episode]]]:
        self.asked.append(after_row)
        for row in range(after_row, len(self.episodes), 3):
            if row >= self.fails_after:
                raise RunError("coordinator unavailable")
            page = self.episodes[row : row + 3]
            yield row + len(page), page

    def add(self, count: int, incarnation: int = 1) -> None:
        first = len(self.episodes)
        self.episodes += [Episode(incarnation=incarnation, number=n, length=n) for n in range(first, first + count)]


def assert_is_what_would_be_written_anew(path: Path, log: Log) -> None:
    whole = path.with_name("whole.csv")
    write_episodes(whole, log.episodes)
    assert path.read_bytes() == whole.read_bytes()
    whole.unlink()
    assert list(path.parent.iterdir()) == [path]


def test_a_table_grows_by_what_is_new(tmp_path: Path):
    path, log = tmp_path / "episodes.csv", Log(0)
    table = GrowingEpisodes(path, log.read)
    for count in (0, 7, 0, 1, 9):
        log.add(count)
        file = path.stat().st_ino if path.exists() else None
        table.follow()
        assert_is_what_would_be_written_anew(path, log)
        assert file in (None, path.stat().st_ino)  # appended to, not replaced
    assert log.asked == [0, 0, 6, 6, 7]


@pytest.mark.parametrize(("kept", "new"), [(4, 0), (4, 2), (4, 9), (0, 0), (0, 5), (7, 3)])
def test_a_table_is_the_logs_when_the_run_went_back(tmp_path: Path, kept: int, new: int):
    path, log = tmp_path / "episodes.csv", Log(7)
    table = GrowingEpisodes(path, log.read)
    table.follow()
    del log.episodes[kept:]
    log.add(new, incarnation=2)
    for _ in range(2):
        table.follow()
        assert_is_what_would_be_written_anew(path, log)
        log.add(2, incarnation=2)


@pytest.mark.parametrize("content", [None, "", "actor,incarn", "a,b\n1,2\n3"], ids=["gone", "empty", "torn", "another"])
def test_a_table_that_is_not_as_it_was_left_is_written_anew(tmp_path: Path, content: str | None):
    path, log = tmp_path / "episodes.csv", Log(4)
    table = GrowingEpisodes(path, log.read)
    table.follow()
    path.unlink()
    if content is not None:
        path.write_text(content)
    log.add(1)
    table.follow()
    assert_is_what_would_be_written_anew(path, log)
    # So is what a process before this one left, a part of a row at its end.
    path.write_text(path.read_text() + "1,2,")
    GrowingEpisodes(path, log.read).follow()
    assert_is_what_would_be_written_anew(path, log)


def test_a_table_goes_on_from_the_page_that_the_log_failed_at(tmp_path: Path):
    path, log = tmp_path / "episodes.csv", Log(4)
    table = GrowingEpisodes(path, log.read)
    table.follow()
    log.add(10)
    log.fails_after = 9
    with pytest.raises(RunError, match="coordinator unavailable"):
        table.follow()
    assert read_episodes(path) == log.episodes[:9]
    log.fails_after = 10**9
    table.follow()
    assert log.asked[-1] == 8
    assert_is_what_would_be_written_anew(path, log)


def test_a_row_that_the_disk_has_no_place_for_is_not_left_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, log = tmp_path / "episodes.csv", Log(4)
    table = GrowingEpisodes(path, log.read)
    table.follow()
    log.add(1)

    def fill(episodes: list[Episode]) -> str:
        with path.open("a") as file:
            file.write("1,2,")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(tables, "_rows", fill)
        with pytest.raises(RunError, match="No space left"):
            table.follow()
    assert read_episodes(path) == log.episodes[:4]
    table.follow()
    assert_is_what_would_be_written_anew(path, log)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n", "has the columns a,b; expected actor,incarnation"),
        ("", "expected actor,incarnation"),
        ("{header}\n1,2,3\n", "line 2: not a row of 10 numbers"),
        ("{header}\n1,2,3,4,?,6,0,8,9,1.5\n", "line 2: not a row of 10 numbers"),
        ("{header}\n1,2,3,4,5,6,0,8,9,1.5\n1,2,3,4,nan,6,0,8,9,1.5\n", "line 3: episode_return is nan, not a finite number"),
        ("{header}\n1,2,3,4,5,6,0,8,9,-inf\n", "line 2: time is -inf"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused_by_line(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "episodes.csv"
    if content is not None:
        path.write_text(content.format(header=EPISODE_COLUMNS))
    with pytest.raises(RunError, match=message):
        read_episodes(path)


def test_the_running_mean_is_over_the_last_values():
    assert running_mean(np.array([2.0, 4.0, 6.0, 8.0]), window=2).tolist() == [2, 3, 5, 7]
    assert running_mean(np.array([]), window=2).tolist() == []
    assert running_mean(np.array([1.0]), window=2).tolist() == [1]


def test_a_huge_value_is_out_of_the_running_mean_with_its_window():
    values = np.array([1.0, 1e45, 2.0, 4.0, 6.0])
    assert running_mean(values, window=2).tolist() == [1, 5e44, 5e44, 3, 5]


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "CartPole-v1"])
@pytest.mark.parametrize(("num_episodes", "num_evaluations"), [(0, 0), (1, 0), (0, 1), (250, 3)])
@pytest.mark.filterwarnings("error")
def test_a_curve_is_drawn_of_few_records_and_many(tmp_path: Path, env_id: str, num_episodes: int, num_evaluations: int):
    episodes = [Episode(env_steps=100 * k, episode_return=k - 21.0) for k in range(num_episodes)]
    evaluations = [Evaluation(env_steps=5000 * k, return_mean=k, return_std=1) for k in range(num_evaluations)]
    paths = tmp_path / "episodes.csv", tmp_path / "evaluations.csv", tmp_path / "curve.png"
    write_episodes(paths[0], episodes)
    write_evaluations(paths[1], evaluations)
    write_learning_curve(*paths, config.build({"env": {"id": env_id}}))
    with Image.open(paths[2]) as picture:
        assert picture.size[0] > 800
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue, orange = (pixels[..., 2] - pixels[..., 0] > 60).any(), (pixels[..., 0] - pixels[..., 2] > 60).any()
    assert (blue, orange) == (num_episodes > 0, num_evaluations > 0)
