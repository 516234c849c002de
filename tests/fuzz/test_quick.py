"""A few hundred wrong inputs for every reader and service; `make fuzz` feeds ten thousand to each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.mutations import mutated_bytes
from tests.fuzz.readers import readers
from tests.fuzz.receipts import receipt_readers
from tests.fuzz.services import services
from tests.fuzz.shards import shard_readers
from tests.fuzz.target import Refusal, run_target

INPUTS, SEED = 150, 1
NEVER_REFUSE = ("summary", "gRPC port", "black box")  # they ignore inputs that they cannot read

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("kind", [readers, shard_readers, receipt_readers, services], ids=lambda kind: str(kind.__name__))
def test_wrong_inputs_are_refused_in_words(kind, tmp_path: Path) -> None:
    for target in kind(tmp_path):
        report = run_target(target, INPUTS, SEED)
        assert report.failure is None, f"{report.name}: {report.failure.what}\n{report.failure.data!r}"
        assert report.inputs == INPUTS
        # If all or no inputs were refused, the code behind the first check would hardly be tested.
        assert report.accepted > 0, report.name
        if report.name not in NEVER_REFUSE:
            assert report.refused > 0, report.name


class Fragile:
    """A reader that crashes at a zero byte after a one."""

    name = "fragile"

    def make(self, chance: random.Random) -> bytes:
        return mutated_bytes(chance, [b"abc\x01def"])

    def feed(self, data: bytes) -> None:
        if b"\x00" in data.partition(b"\x01")[2]:
            raise KeyError(0)
        if len(data) < 3:
            raise Refusal("too short")

    def check(self) -> None:
        pass


def test_an_input_that_brings_a_reader_down_is_found_and_made_small() -> None:
    report = run_target(Fragile(), 2000, seed=5)
    assert report.failure is not None
    assert "KeyError" in report.failure.what
    assert len(report.failure.data) <= 100  # inputs have up to 3,000 bytes
