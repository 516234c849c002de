"""`sbrl play`: makes a video of one episode of the greedy agent in a run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sbrl.envs.render import RenderedEnv, make_rendered_env
from sbrl.errors import plain
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy, seed_torch, use_one_thread
from sbrl.runtime.arguments import whole_number
from sbrl.runtime.program import run_program
from sbrl.seeds import evaluation_seed
from sbrl.storage.run_directory import RunDirectory
from services.evaluator.agent import agent_arguments, load_agent
from services.evaluator.protocol import Policy
from services.evaluator.video import check_format, write_video

STEPS_PER_FRAME = 2  # agent steps; more frames would make the file larger and show little more
MAX_STEPS = 1500  # agent steps: 100 s of an Atari game, about 1 to 4 MB


class Playback(NamedTuple):
    """A recorded episode, or its beginning."""

    frames: list[npt.NDArray[np.uint8]]  # [height, width, 3] each, one for every STEPS_PER_FRAME-th step
    episode_return: float  # unclipped, over the steps played
    length: int  # agent steps
    complete: bool  # whether the episode ended; False: cut off at max_steps


def main(argv: Sequence[str]) -> None:
    parser = agent_arguments("play", __doc__ or "")
    parser.add_argument("--output", type=Path, metavar="FILE", help=".gif or .mp4 (default: video.gif in the run directory)")
    parser.add_argument("--epsilon", metavar="E", help="probability of a random action (default: the run's evaluator.epsilon)")
    parser.add_argument(
        "--max-steps",
        type=whole_number(1, 1_000_000),
        default=MAX_STEPS,
        metavar="N",
        help="agent steps to record at most (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    use_one_thread()
    run_directory = RunDirectory(arguments.run_dir)
    # The config checks the number and words the error.
    overrides = [] if arguments.epsilon is None else [f"evaluator.epsilon={arguments.epsilon}"]
    config, weights, updates, _ = load_agent(run_directory, arguments.checkpoint, overrides)
    output = arguments.output or run_directory.video
    check_format(output)
    seed = evaluation_seed(config.run.seed) if arguments.seed is None else arguments.seed
    env = make_rendered_env(config.env, seed)
    seed_torch(seed)
    try:
        policy = EpsilonGreedyPolicy(build_network(config.agent, env.spec), env.spec.num_actions, seed)
        policy.load(weights)
        playback = play(policy, env, config.evaluator.epsilon, arguments.max_steps)
    finally:
        env.close()
    write_video(output, playback.frames, env.steps_per_second / STEPS_PER_FRAME)
    ended = "the episode ended" if playback.complete else "cut off"
    print(
        f"{config.env.id}, checkpoint of update {updates:,}: "
        f"return {plain(playback.episode_return)} after {playback.length:,} steps ({ended})"
    )
    print(f"video: {output}")


def play(policy: Policy, env: RenderedEnv, epsilon: float, max_steps: int) -> Playback:
    """Plays until the episode ends or `max_steps` are taken."""
    observation = env.reset()
    frames = [env.picture()]
    episode_return = 0.0
    for length in range(1, max_steps + 1):
        result = env.step(policy.act(observation, epsilon))
        observation = result.observation
        episode_return += float(result.reward[0])
        complete = bool(result.terminated[0] or result.truncated[0] or result.bad[0])
        if complete or length == max_steps or length % STEPS_PER_FRAME == 0:
            frames.append(env.picture())
        if complete:
            break
    return Playback(frames, episode_return, length, complete)


if __name__ == "__main__":
    run_program(main)
