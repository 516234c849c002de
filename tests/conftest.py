"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# Read when torch is loaded: a second thread makes small networks many times slower on a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples every time, and no limit on one example's time: these machines are shared.
settings.register_profile("sbrl", deadline=None, derandomize=True)
settings.load_profile("sbrl")
