"""Starts a peer library in a process of .venv-peers, makes it work, and reads the time that it took."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sbrl.errors import RunError, UsageError

ROOT = Path(__file__).parents[2]
FOLDER, CONSTRAINTS = ROOT / ".venv-peers", ROOT / "constraints-peers.txt"

# The name of each in figures, and its name in bench.peers.server.
UPDATES = {
    "SB3-contrib QR-DQN": "sb3_updates",
    "Tianshou QR-DQN": "tianshou_updates",
    "Dopamine QR-DQN (JAX)": "dopamine_updates",
    "CleanRL-style torch": "cleanrl_updates",
}
MEMORIES = {"Tianshou prioritized buffer": "tianshou_memory", "sum tree in NumPy": "sum_tree_memory"}
RUNS = {"SB3-contrib QR-DQN": "sb3_run", "Tianshou QR-DQN": "tianshou_run"}


class Peer(NamedTuple):
    """A peer's process."""

    name: str
    process: subprocess.Popen[str]

    def seconds(self, work: int) -> float:
        """Makes it do this many updates, batches or env steps; returns the seconds that it took.

        Raises:
            RunError: the process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{work}\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise RunError(
                f"the process of {self.name} has ended with code {self.process.wait()}; its error is above"
            ) from None


def check_ready() -> None:
    """
    Raises:
        UsageError: there is no .venv-peers here, or it does not match constraints-peers.txt.
    """
    if not CONSTRAINTS.exists():
        raise UsageError(
            "--peers compares with libraries in .venv-peers, which a checkout makes: call `make bench-peers` in one"
        )
    complete = FOLDER / ".complete"
    if not complete.exists() or complete.read_bytes() != CONSTRAINTS.read_bytes():
        raise UsageError(
            "--peers needs .venv-peers as constraints-peers.txt asks for it: call `make bench-peers`, which makes it"
        )


@contextmanager
def started(peers: Mapping[str, str], settings: Mapping[str, Any], threads: int = 1) -> Iterator[Sequence[Peer]]:
    """Processes of the named peers, all ready to work; empty without names.

    Args:
        settings: arguments for each.
        threads: number of compute threads of each.
    """
    several = "true" if threads > 1 else "false"
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "JAX_PLATFORMS": "cpu",
        # JAX must use the same number of threads as torch.
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={several} intra_op_parallelism_threads={threads}",
        "PYTHONPATH": str(ROOT),
    }
    with ExitStack() as stack:
        found = []
        for name, task in peers.items():
            process = subprocess.Popen(
                [FOLDER / "bin/python", "-m", "bench.peers.server", task, json.dumps({**settings, "threads": threads})],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.enter_context(process)  # closes its input, which ends it
            found.append(Peer(name, process))
        for peer in found:  # they get ready in parallel
            peer.seconds(1)
        yield found


def timed(peers: Sequence[Peer], work: int) -> dict[str, float]:
    """Work per second of each, one after the other."""
    rates = {}
    for peer in peers:
        start = time.perf_counter()
        peer.seconds(work)
        rates[peer.name] = work / (time.perf_counter() - start)
    return rates
