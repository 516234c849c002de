"""Commands, N at a time, with real processes of a shell."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

from sbrl.runtime.stop_signals import StopRequest
from studies.pool import Ended, Pool, Task, last_words
from studies.progress import StudyProgress, share_done


def task(folder: Path, name: str, script: str) -> Task:
    return Task(name, ("sh", "-c", script), folder / f"{name}.log")


def test_as_many_are_at_work_as_there_are_jobs_and_never_more(tmp_path: Path) -> None:
    at_work: list[int] = []
    ended: list[str] = []
    gates = [tmp_path / f"gate{number}" for number in range(4)]

    def look(tasks: Sequence[Task]) -> None:
        at_work.append(len(tasks))
        if tasks and len(tasks) == min(2, 4 - len(ended)):  # all that can be at work are: let the first go on
            gates[int(tasks[0].name)].touch()

    tasks = [task(tmp_path, str(number), f"until [ -e {gate} ]; do sleep 0.05; done") for number, gate in enumerate(gates)]
    assert Pool(2, StopRequest()).work_off(tasks, lambda one, _end: ended.append(one.name), look)
    assert ended == ["0", "1", "2", "3"]
    assert max(at_work) == 2


def test_a_task_may_be_repeated_and_tells_how_it_ended(tmp_path: Path) -> None:
    ends: list[tuple[str, int]] = []

    def ended(one: Task, end: Ended) -> Task | None:
        ends.append((one.name, end.code))
        return one if len(ends) == 1 else None

    fails, works = task(tmp_path, "fails", "echo 'sbrl: error: no luck'; exit 3"), task(tmp_path, "works", "kill -9 $$")
    assert Pool(1, StopRequest()).work_off([fails, works], ended, lambda _tasks: None)
    assert ends == [("fails", 3), ("fails", 3), ("works", -9)]
    assert fails.log.read_text().count("$ sh -c") == 2
    assert last_words(fails.log) == "no luck"
    assert last_words(works.log) == ""  # not what an earlier one said


def test_the_cores_of_a_task_are_counted_with_its_children(tmp_path: Path) -> None:
    burn = f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.5: pass'"
    ends: list[Ended] = []
    Pool(1, StopRequest()).work_off([task(tmp_path, "burns", burn)], lambda _one, end: ends.append(end), lambda _tasks: None)
    assert 0.5 <= ends[0].core_seconds < 30


def test_a_stop_ends_what_is_at_work_and_begins_nothing(tmp_path: Path) -> None:
    stop, ended = StopRequest(), list[str]()
    process_ids = [tmp_path / f"{number}.pid" for number in range(3)]

    def look(tasks: Sequence[Task]) -> None:
        if all(path.exists() and path.read_text().endswith("\n") for path in process_ids[:2]):
            stop.ask()

    tasks = [task(tmp_path, str(number), f"echo $$ > {path}; exec sleep 600") for number, path in enumerate(process_ids)]
    finished: list[bool] = []
    worker = threading.Thread(
        target=lambda: finished.append(Pool(2, stop).work_off(tasks, lambda one, _end: ended.append(one.name), look))
    )
    worker.start()
    worker.join(60)
    assert finished == [False]
    assert ended == []
    assert not process_ids[2].exists()
    assert not any(psutil.pid_exists(int(path.read_text())) for path in process_ids[:2])


def test_progress_says_what_is_left(tmp_path: Path) -> None:
    lines, seconds = list[str](), [0.0]
    log = tmp_path / "b.log"
    assert share_done(log) == 0.0
    log.write_text("$ sbrl train\n0/1,000 steps (0%)\n250/1,000 steps (25%, ETA 3s) | return 5\n")
    assert share_done(log) == 0.25
    progress = StudyProgress({"a": 100.0, "b": 100.0}, 3, lines.append, clock=lambda: seconds[0])
    seconds[0] = 60.0
    progress.end("a", failed=False)
    progress.look({"b": log})  # not yet: a line was said just now
    seconds[0] = 100.0
    progress.look({"b": log})
    progress.end("b", failed=True)
    assert lines == [
        "4/5 runs are done, 1m 00s so far, ETA 1m 00s",
        "4/5 runs are done, 1m 40s so far, ETA 1m 00s; b 25%",
        "5/5 runs are done, 1 failed, 1m 40s so far, all of them",
    ]
