"""Dopamine's published learning curves, for known games and agents."""

from __future__ import annotations

import csv
from importlib import resources

import numpy as np

from sbrl.storage.metadata import game_of
from studies.records import RunRecord
from studies.statistics.aggregates import Floats

AGENTS = {"dqn": "DQN", "c51": "C51", "rainbow": "Rainbow", "qr-dqn": "QR-DQN", "iqn": "IQN"}  # agent.algorithm: their name


def published_curve(run: RunRecord) -> tuple[str, Floats, Floats] | None:
    """The published curve for a run's game, agent and network: a name, env steps float64[T] and mean returns float64[T].

    Their batch is 32, their steps are training steps of 4 frames, and the mean is over 5 seeds. None if nothing is published.
    """
    agent = AGENTS.get(str(run.settings.get("agent.algorithm")))
    frames = run.settings.get("env.frame_skip")
    if "ALE/" not in run.environment or agent is None or not isinstance(frames, int):
        return None
    network = "Impala" if run.settings.get("agent.torso") == "impala" else "CNN"
    wanted = (game_of(run.environment), network, agent)
    with resources.files("studies").joinpath("data/dopamine_atari_baselines.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["game"], row["network"], row["agent"]) == wanted]
    if not rows:
        return None
    steps = np.array([float(row["million_frames"]) * 1e6 / frames for row in rows])
    return f"Dopamine's {agent} (published)", steps, np.array([float(row["mean_return"]) for row in rows])
