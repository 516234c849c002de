"""The bytes that a run's processes sent each other, from their counters: segments and weights, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sbrl.config import Config
from sbrl.envs.spec import EnvSpec
from sbrl.replay.segments import SegmentShape
from sbrl.storage.run_directory import RunDirectory


def bytes_moved(run: RunDirectory, config: Config, metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> float | None:
    """Bytes of payload, as array sizes: without compression, headers and the coordinator's small messages.

    None if unknown: the run is from an older version, has lost its weights, or sampled from Reverb, which does not count items.
    """
    if "bytes_moved" in summary:  # a run in one process
        return float(summary["bytes_moved"])
    segments, weights = summary.get("segments_moved"), summary.get("weights_moved")
    files = sorted(run.coordinator.glob("weights-*.safetensors"))
    if segments is None or weights is None or summary.get("sampling") != "cached" or not files:
        return None
    try:
        shape = SegmentShape.of(EnvSpec.of_plain(metadata.get("environment")), config.agent.stored_steps)
    except (TypeError, ValueError):
        return None
    return float(segments * shape.num_bytes + weights * files[-1].stat().st_size)
