"""Serial runs hold sampled items beside Reverb: how many is a matter of speed and memory, never of what is sampled."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from learner.update import configure_torch
from sbrl import config
from sbrl.replay.deterministic import ClockSampler
from sbrl.run_directory import RunDirectory
from serial.run import SerialRun, serial_config

# Three quarters of the items are evicted on the way, many of them held.
SETTINGS = (
    *("run.env_steps=240", "replay.min_size=40", "replay.capacity=60", "learner.batch_size=8", "learner.updates_per_step=0.5"),
    *("agent.hidden_size=16", "agent.num_quantiles=8", "actors.envs_per_actor=2"),
)
ITEM_BYTES = 300  # roughly, of CartPole with n = 5


@pytest.mark.parametrize("prioritized", ["true", "false"])
def test_what_is_held_does_not_change_a_run(prioritized: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree = serial_config(config.load(preset="classic-qr-dqn", overrides=[*SETTINGS, f"replay.prioritized={prioritized}"]))
    configure_torch(1)
    digests = []
    for max_held_bytes in (0, 10 * ITEM_BYTES, 10**6):
        monkeypatch.setattr("serial.run.ClockSampler", partial(ClockSampler, max_held_bytes=max_held_bytes))
        directory = RunDirectory(tmp_path / str(max_held_bytes))
        directory.logs.mkdir(parents=True)
        run = SerialRun(tree, directory)
        try:
            run.run(lambda _status: None)
            assert run.status().totals["learner.updates"] == 100
            digests.append(run.digests())
        finally:
            run.close()
    assert digests[0] == digests[1] == digests[2]
