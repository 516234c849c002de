"""The soak's analysis recovers the growth of made-up memory, and calls memory that only fluctuates flat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.growth import HOUR, MEGABYTE, MemoryReading, growth, series, table
from bench.soak import main, read_csv
from sbrl.errors import UsageError

SECONDS = np.arange(0.0, 2 * HOUR, 15.0)


def wobble(seed: int) -> NDArray[np.float64]:
    """Noise that is correlated over minutes, like memory that comes and goes with checkpoints."""
    steps = np.random.default_rng(seed).normal(0, 2 * MEGABYTE, len(SECONDS))
    values = np.zeros(len(SECONDS))
    for k in range(1, len(SECONDS)):
        values[k] = 0.95 * values[k - 1] + steps[k]
    return values


@pytest.mark.parametrize("per_hour", [0.0, 40.0, 200.0])
def test_the_interval_holds_the_slope_that_was_put_in(per_hour: float) -> None:
    inside = 0
    for seed in range(10):
        values = 500 * MEGABYTE + per_hour * MEGABYTE * SECONDS / HOUR + wobble(seed)
        found = growth("actor-0", SECONDS, values, samples=40)
        inside += found.low <= per_hour * MEGABYTE <= found.high
        if per_hour == 200.0:
            assert not found.is_flat
    assert inside >= 8


def test_wobbling_memory_is_flat_and_a_steady_leak_is_not() -> None:
    assert growth("a", SECONDS, 500 * MEGABYTE + wobble(1), samples=40).is_flat
    assert not growth("a", SECONDS, 500 * MEGABYTE + 20 * MEGABYTE * SECONDS / HOUR, samples=40).is_flat


def test_one_jump_moves_the_slope_little() -> None:
    values = np.where(SECONDS > HOUR, 520.0, 500.0) * MEGABYTE
    values[5] = 5000 * MEGABYTE
    assert abs(growth("a", SECONDS, values, samples=20).slope) < 20 * MEGABYTE


def test_of_a_role_that_was_restarted_the_longest_life_counts() -> None:
    readings = [MemoryReading(second, "learner", 1 if second < 600 else 2, second) for second in SECONDS]
    seconds, values = series(readings, "learner", 60.0, float(SECONDS[-1]))
    assert seconds[0] == 600.0
    assert (seconds == values).all()


def test_a_file_is_analysed_and_a_bad_one_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rss.csv"
    path.write_text("".join(f"{second},launcher,7,{90e6 + 1e3 * (k % 3)}\n" for k, second in enumerate(SECONDS[:100])))
    assert main(["--read", str(path), "--warm-up", "5", "--out", str(tmp_path / "out")]) == 0
    assert "| launcher | 80 |" in capsys.readouterr().out
    assert (tmp_path / "out" / "memory.png").stat().st_size > 1000
    with pytest.raises(UsageError, match="ten at least; sample for longer"):
        main(["--read", str(path), "--warm-up", "500", "--out", str(tmp_path / "out")])
    path.write_text("1,launcher,7\n")
    with pytest.raises(UsageError, match="line 1: not seconds"):
        read_csv(path)


def test_the_table_says_what_grows_and_what_it_cannot_tell() -> None:
    still = growth("a", SECONDS, 500 * MEGABYTE + wobble(1) / 100, samples=20)
    wobbly = growth("b", SECONDS, 500 * MEGABYTE + wobble(1), samples=20)
    leak = growth("c", SECONDS, 500 * MEGABYTE + 50 * MEGABYTE * SECONDS / HOUR, samples=20)
    lines = table([still, wobbly, leak]).splitlines()[2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["flat", "no growth seen", "GROWS"]


def test_a_file_without_readings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rss.csv"
    path.write_text(",".join(MemoryReading._fields) + "\n")
    with pytest.raises(UsageError, match="there are no readings"):
        main(["--read", str(path), "--out", str(tmp_path / "out")])
