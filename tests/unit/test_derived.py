"""Unset values derived from run.env_steps stay as they were when the run began, whatever it is later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sbrl.config import DERIVED, Config, build, dump, with_derived_of
from services.coordinator.__main__ import settled_config

BEGAN, LATER = {"run": {"env_steps": 125_000}}, {"run": {"env_steps": 1_250_000}}


def derived(config: Config) -> tuple[int | None, int | None]:
    return config.replay.min_size, config.agent.epsilon_decay_steps


def settled(directory: Path, given: dict[str, Any], before: str) -> Config:
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return settled_config(path, before)


@pytest.mark.parametrize("later", [1_250_000, 10_000_000, 20_000])
def test_another_number_of_steps_changes_nothing_else(tmp_path: Path, later: int) -> None:
    began = settled(tmp_path, BEGAN, "")
    assert derived(began) == (12_500, 25_000)
    config = began
    for _ in range(2):  # nor does a restart
        config = settled(tmp_path, {"run": {"env_steps": later}}, dump(config))
        assert (config.run.env_steps, derived(config)) == (later, derived(began))
    # A role gets the same values from the coordinator.
    assert with_derived_of(build({"run": {"env_steps": later}}), config) == config


def test_every_key_that_follows_from_the_steps_is_named() -> None:
    """A key that is missing in DERIVED would change during a run."""
    before, after = (build(tree).model_dump() for tree in (BEGAN, LATER))
    changed = {
        (section, key)
        for section, keys in before.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
        if value != after[section][key]
    }
    assert changed - {("run", "env_steps")} == set(DERIVED)


@pytest.mark.parametrize("unset", [{}, {"replay": None}, {"replay": {"min_size": None}}])
def test_what_is_set_holds_and_unset_is_unset_however_it_is_written(tmp_path: Path, unset: dict[str, Any]) -> None:
    before = dump(build(BEGAN))
    config = settled(tmp_path, {**LATER, **unset, "agent": {"epsilon_decay_steps": 60_000}}, before)
    assert derived(config) == (12_500, 60_000)
