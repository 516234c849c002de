"""Does the whole system learn? CartPole-v1 through all roles, to an evaluation return of 475, in minutes.

    python -m bench.cartpole --seed 0

475 is Gymnasium's own threshold for CartPole-v1 (the maximum is 500), written down before the run. The mean is over twenty full
episodes of the final agent under the evaluation protocol.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

THRESHOLD = 475.0
SETTINGS = (
    "env.id=CartPole-v1",
    "run.env_steps=20000",
    "agent.n_step=5",
    "agent.hidden_size=128",
    "agent.num_quantiles=20",
    "agent.epsilon_decay_steps=4000",
    "agent.epsilon_end=0.02",
    "replay.min_size=1000",
    "learner.batch_size=32",
    "learner.updates_per_step=1",
    "learner.learning_rate=1e-3",
    "learner.adam_epsilon=1e-5",
    "learner.target_update_period=100",
    "learner.publish_period=50",
    "actors.weights_interval_seconds=0.5",
    "evaluator.interval_env_steps=2000",
    "evaluator.episodes=20",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", type=Path, help="default: runs/bench-cartpole-<seed>-<time>")
    arguments = parser.parse_args()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    run_dir = arguments.run_dir or Path("runs") / f"bench-cartpole-{arguments.seed}-{stamp}"
    command = ["train", "--run-dir", str(run_dir), f"run.seed={arguments.seed}", *SETTINGS]
    subprocess.run([sys.executable, "-m", "sbrl.cli", *command], check=True)
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    reached = float(summary["eval_return_mean"])
    verdict = "passed" if reached >= THRESHOLD else "FAILED"
    print(f"{verdict}: evaluation return {reached:.1f} (threshold {THRESHOLD:g}) in {summary['wall_seconds']:.0f} s")
    return 0 if reached >= THRESHOLD else 1


if __name__ == "__main__":
    sys.exit(main())
