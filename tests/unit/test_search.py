"""`sbrl tune`: searches through Optuna's storage with pretended runs: stopped, continued and failing ones."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from sbrl.errors import RunError, UsageError
from sbrl.runtime.stop_signals import StopRequest
from studies.arms import PlannedRun, arms_of, config_of
from studies.design import Study, parse_study
from studies.making import Maker, Places, failed_record
from studies.pool import Ended, Pool, Task
from studies.records import write_record
from studies.search.__main__ import main, report
from studies.search.space import Choices, Range, at_edges, space_of
from studies.search.trials import Trials, open_search, runs_of

TREE: dict[str, Any] = {
    "name": "tiny",
    "question": "Which?",
    "preset": "classic-dqn",
    "settings": {"replay.min_size": 100},
    "environments": ["CartPole-v1"],
    "seeds": {"test": 2, "tune": 2},
    "horizons": [300],
    "arms": [{"name": "base"}],
    "search": {"space": {"learner.batch_size": [8, 16, 32], "learner.learning_rate": {"low": 1e-5, "high": 1e-1}}},
}


def study_of(**changes: Any) -> Study:
    return parse_study({**TREE, **changes}, "tiny")


class SaysItWasMade(Maker):
    """Scores a run by its settings; the best are batch 16 and a learning rate of 1e-3."""

    made: Counter[str]
    stop_after: int
    stop: StopRequest
    failing_batch: int | None

    def task(self, run: PlannedRun) -> Task:
        return Task(run.name, ("true",), self._places.log(run))

    def record_finished(self, run: PlannedRun) -> bool:
        return False

    def record(self, run: PlannedRun, end: Ended, resumed: bool) -> str:
        learner = run.config.learner
        self.made[run.name] += 1
        if self.made.total() == self.stop_after:
            self.stop.ask()
        if learner.batch_size == self.failing_batch:
            return "the loss is not finite"
        score = 10 - abs(math.log10(learner.learning_rate) + 3) - abs(math.log2(learner.batch_size / 16)) + run.seed / 1e6
        record = failed_record(self._study, run, "")
        write_record(self._places.results, dataclasses.replace(record, status="complete", scores={300: score}))
        return ""


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> type[SaysItWasMade]:
    monkeypatch.setattr("studies.search.trials.Maker", SaysItWasMade)
    monkeypatch.setattr("studies.pool.LOOK_SECONDS", 0.01)
    SaysItWasMade.made, SaysItWasMade.stop_after, SaysItWasMade.failing_batch = Counter(), 0, None
    return SaysItWasMade


def search(study: Study, folder: Path, trials: int, said: list[str] | None = None, jobs: int = 2) -> tuple[bool, Trials]:
    """One run of the program."""
    stop = SaysItWasMade.stop = StopRequest()
    opened = open_search(study, f"sqlite:///{folder / 'trials.db'}", space_of(study))
    one = Trials(study, places(folder), opened, Pool(jobs, stop), ([] if said is None else said).append, worker="here")
    return one.run(trials), one


def places(folder: Path) -> Places:
    return Places(folder / "results", folder / "work")


def test_a_search_is_stopped_goes_on_and_leaves_an_arm(tmp_path: Path, maker: type[SaysItWasMade], capsys: Any):
    (tmp_path / "results").mkdir()
    study = study_of()
    maker.stop_after = 7
    complete, _ = search(study, tmp_path, 10)
    assert not complete
    said: list[str] = []
    complete, trials = search(study, tmp_path, 10, said)
    assert complete
    assert "to go on with" in said[0]
    assert any("ETA" in line for line in said)
    assert set(maker.made.values()) == {1}  # nothing is made twice
    states = Counter(trial.state.name for trial in trials.ended())
    assert states["COMPLETE"] + states["PRUNED"] == 10
    # A pruned trial saves its second seed.
    assert maker.made.total() == 2 * states["COMPLETE"] + states["PRUNED"]

    report(study, space_of(study), trials.ended(), places(tmp_path))
    arms = yaml.safe_load((tmp_path / "results" / "best.yaml").read_text())
    tuned = study_of(arms=[{"name": "base"}, *arms])
    best = config_of(tuned, arms_of(tuned)[1], "CartPole-v1", seed=0).learner
    values = [trial.value for trial in trials.ended() if trial.value is not None and trial.state.name == "COMPLETE"]
    score = 10 - abs(math.log10(best.learning_rate) + 3) - abs(math.log2(best.batch_size / 16))
    assert score + 1000.5 / 1e6 == pytest.approx(max(values))
    rows = (tmp_path / "results" / "trials.csv").read_text().splitlines()
    assert rows[0] == "trial,state,objective,learner.batch_size,learner.learning_rate,scores,reason"
    assert len(rows) == 11
    assert "best arm:" in capsys.readouterr().out

    with pytest.raises(UsageError, match="holds trials of another search named tiny"):
        search(study_of(horizons=[400]), tmp_path, 10)


def test_a_trial_that_fails_is_retried_once_then_named(tmp_path: Path, maker: type[SaysItWasMade]):
    maker.failing_batch = 8
    said: list[str] = []
    complete, trials = search(study_of(search={**TREE["search"], "sampler": "random"}), tmp_path, 12, said)
    assert complete
    failed = [trial for trial in trials.ended() if trial.state.name == "FAIL"]
    assert failed
    assert all(trial.params["learner.batch_size"] == 8 for trial in failed)
    assert {trial.user_attrs["reason"] for trial in failed} == {"the loss is not finite"}
    assert sum("is tried once more" in line for line in said) == len(failed)


def test_a_search_where_all_fails_ends(tmp_path: Path, maker: type[SaysItWasMade]):
    maker.failing_batch = 8
    with pytest.raises(RunError, match="the first 3 trials all failed, the last because: the loss is not finite"):
        search(study_of(search={"space": {"learner.batch_size": [8]}}), tmp_path, 12, jobs=1)


def test_the_space_is_around_the_studys_own_settings():
    space = space_of(study_of(search={}))
    own = config_of(study_of(), arms_of(study_of())[0], "CartPole-v1", seed=0).learner
    batches, rates = space["learner.batch_size"], space["learner.learning_rate"]
    assert isinstance(batches, Choices)
    assert own.batch_size in batches.values
    assert rates == Range(own.learning_rate / 8, own.learning_rate * 8)
    assert set(space) == {"learner.batch_size", "learner.learning_rate", "learner.adam_beta2", "learner.updates_per_step"}


def test_periods_are_held_in_env_steps():
    study = study_of(settings={"replay.min_size": 100, "learner.updates_per_step": 0.25, "learner.publish_period": 10})
    run, *_ = runs_of(study, 3, {"learner.updates_per_step": 0.5})
    assert run.config.learner.publish_period == 20
    assert run.seed == 1000
    assert run.purpose == "tune"


def test_a_value_at_the_edge_is_named():
    space: dict[str, Choices | Range] = {
        "learner.batch_size": Choices((8, 16, 32)),
        "learner.learning_rate": Range(1e-5, 1e-1),
        "learner.adam_beta2": Range(1e-4, 0.1),
    }
    middle = {"learner.batch_size": 16, "learner.learning_rate": 1e-3, "learner.adam_beta2": 0.999}
    assert at_edges(space, middle) == []
    ends = {"learner.batch_size": 8, "learner.learning_rate": 9.9e-2, "learner.adam_beta2": 0.9999}
    assert at_edges(space, ends) == list(space)


@pytest.mark.parametrize(("values", "named"), [((8, 16), True), ((8,), False), ((8, None), False), ((True, False), False)])
def test_a_list_of_two_numbers_has_only_edges(values: tuple[int | bool | None, ...], named: bool):
    key = "learner.batch_size"
    assert at_edges({key: Choices(values)}, {key: values[0]}) == ([key] if named else [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": {"space": {"learner.batchsize": [8]}}}, "there is no config key 'learner.batchsize'"),
        ({"search": {"space": {"learner.batch_size": [0]}}}, "learner.batch_size"),
        ({"search": {"space": {"run.seed": [1]}}}, "search.space has run.seed, which the study gives by its seeds"),
        ({"search": {"space": {"learner.learning_rate": {"low": 1e-3, "high": 1e-4}}}}, "low must be below high"),
        ({"seeds": {"test": 2}}, "seeds.tune has no seed, and a search may not use the test seeds"),
        ({"search": {"space": {"learner.adam_beta2": ["by batch"]}}}, "which is for arms; give it numbers"),
        ({"environments": ["CartPole-v1", "MinAtar/Breakout-v1"]}, "which returns of MinAtar/Breakout-v1 are low and high"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TREE, **changes}))
    with pytest.raises(UsageError, match=words):
        main([str(file)])


def test_a_storage_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TREE))
    with pytest.raises(UsageError, match=r"storage nonsense cannot be opened: .*; .*sqlite:///trials.db"):
        main(["tiny.yaml", "--storage", "nonsense"])
