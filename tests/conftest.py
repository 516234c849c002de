"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# The same examples every time, and no limit on one example's time: these machines are shared.
settings.register_profile("sbrl", deadline=None, derandomize=True)
settings.load_profile("sbrl")
