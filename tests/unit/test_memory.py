"""Freed memory goes back to the system, if that matters. Tested in a separate process, because it cannot be undone."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# Blocks that malloc maps individually, before and after a large one is freed, after which glibc would keep such blocks.
PROGRAM = """
import ctypes, sys
from sbrl.runtime.memory import give_back_large_blocks

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
if sys.argv[1] == "yes":
    give_back_large_blocks()
held = bytearray(9_000_000)
del held
before = libc.mallinfo2().hblkhd
held = bytearray(2_000_000)
print(libc.mallinfo2().hblkhd - before >= 2_000_000)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc of 2.33 or later")
@pytest.mark.parametrize(("called", "mapped"), [("yes", "True"), ("no", "False")])
def test_large_blocks_are_mapped_one_by_one_whatever_was_freed_before(called: str, mapped: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, called], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == mapped, done.stderr


# Blocks of one page among which a few stay in use, as what a checkpoint has copied lies among what is stored.
FREED = """
import sys
from sbrl.runtime.memory import give_back_freed, resident_bytes

blocks = [bytearray(4000) for _ in range(20_000)]
stays = blocks[::100]
del blocks
before = resident_bytes()
if sys.argv[1] == "yes":
    give_back_freed()
print(before - resident_bytes() > 60_000_000)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="no glibc")
@pytest.mark.parametrize(("called", "less"), [("yes", "True"), ("no", "False")])
def test_what_was_freed_below_what_is_in_use_goes_back(called: str, less: str) -> None:
    done = subprocess.run([sys.executable, "-c", FREED, called], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == less, done.stderr
