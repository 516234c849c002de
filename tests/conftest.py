"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Read when torch is loaded: a second thread makes small networks many times slower on a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests ask servers on loopback by other means than the programs, which take no proxy: behind one they would wait for it.
_given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
os.environ["no_proxy"] = f"{_given},127.0.0.1,localhost"

# The same examples every time, and no limit on one example's time: these machines are shared.
settings.register_profile("sbrl", deadline=None, derandomize=True)
settings.load_profile("sbrl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: later the process has threads of Reverb that go on asking for servers that are gone, until it ends."""
    items.sort(key=lambda item: item.path.parent.name not in ("chaos", "smoke"))


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Undoes what `configure_torch` of the learner sets for the whole thread: hypothesis refuses to work without denormals."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
