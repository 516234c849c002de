"""A peer's process: does the amount of work in each line of its input, and answers with the seconds it took.

.venv-peers/bin/python -m bench.peers.server TASK SETTINGS_AS_JSON
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable

TASKS = {
    "sb3_updates": "sb3",
    "sb3_run": "sb3",
    "tianshou_updates": "tianshou_agent",
    "tianshou_run": "tianshou_agent",
    "dopamine_updates": "dopamine_agent",
    "cleanrl_updates": "cleanrl",
    "tianshou_memory": "memories",
    "sum_tree_memory": "memories",
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library's own output must not get between the answers
    task, settings = sys.argv[1], json.loads(sys.argv[2])
    module = importlib.import_module(f"bench.peers.{TASKS[task]}")
    work: Callable[[int], None] = getattr(module, task)(**settings)
    for line in sys.stdin:
        start = time.perf_counter()
        work(int(line))
        print(time.perf_counter() - start, file=answers, flush=True)


if __name__ == "__main__":
    main()
