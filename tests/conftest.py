"""Setup that all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# torch reads this on import. A second thread makes small networks many times slower on a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The programs use no proxy for loopback, but some clients in tests would, and would wait for it on a machine behind one.
_given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
os.environ["no_proxy"] = f"{_given},127.0.0.1,localhost"

# The same examples every time, and no time limit per example, because machines are shared.
settings.register_profile("sbrl", deadline=None, derandomize=True)
settings.load_profile("sbrl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts whole runs first. Later, the process has threads of Reverb that keep asking for dead servers until it ends."""
    items.sort(key=lambda item: item.path.parent.name not in ("chaos", "smoke"))


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Undoes the learner's `configure_torch`, which affects the whole thread: hypothesis refuses to work without denormals."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
