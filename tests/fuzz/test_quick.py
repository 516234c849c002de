"""A few hundred wrong inputs for every reader and service; `make fuzz` feeds ten thousand to each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.generations import generation_readers
from tests.fuzz.readers import readers
from tests.fuzz.services import services
from tests.fuzz.target import run_target

INPUTS, SEED = 150, 1
NEVER_REFUSE = ("summary", "gRPC port", "generation log", "black box")  # what they cannot read is as if it were not there

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("kind", [readers, generation_readers, services], ids=lambda kind: str(kind.__name__))
def test_wrong_inputs_are_refused_in_words(kind, tmp_path: Path) -> None:
    for target in kind(tmp_path):
        report = run_target(target, INPUTS, SEED)
        assert report.inputs == INPUTS or report.failures
        assert not report.failures, "\n".join(f"{report.name}, input {one.number}: {one.what}" for one in report.failures)
        # Inputs that are all refused, or none, would say little of what comes after the first look at them.
        assert report.accepted > 0, report.name
        if report.name not in NEVER_REFUSE:
            assert report.refused > 0, report.name
