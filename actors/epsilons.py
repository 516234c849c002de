"""How often an actor acts at random in each of its environments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbrl.config import Config


def epsilons(config: Config, env_steps: int, actor: int) -> NDArray[np.float64]:
    """Probability of a random action, float64[envs_per_actor], according to agent.exploration.

    Args:
        env_steps: agent steps collected so far by all actors.
        actor: index of the actor in the fleet.
    """
    num_envs = config.actors.envs_per_actor
    if env_steps < config.min_replay_size:
        return np.full(num_envs, config.agent.epsilon_start)
    match config.agent.exploration:
        case "linear-epsilon":
            return np.full(num_envs, linear_epsilon(config, env_steps))
        case "ape-x":
            return ape_x_epsilons(config, actor)
        case "noisy-nets":  # only the network's noise explores (Fortunato et al. 2018)
            return np.zeros(num_envs)


def linear_epsilon(config: Config, env_steps: int) -> float:
    """Dopamine's schedule over global steps: once replay is warm, linear from `epsilon_start` to `epsilon_end`."""
    agent = config.agent
    decay_steps = agent.epsilon_decay_steps or 0
    since_warm = env_steps - config.min_replay_size
    if since_warm >= decay_steps:
        return agent.epsilon_end
    return agent.epsilon_start + (agent.epsilon_end - agent.epsilon_start) * since_warm / decay_steps


def ape_x_epsilons(config: Config, actor: int) -> NDArray[np.float64]:
    """Horgan et al. 2018: environment i of N has epsilon ** (1 + i / (N - 1) * alpha), once replay is warm.

    i counts the environments of all actors, actor by actor. From index actors.num_actors on, the ladder starts again.
    """
    agent, num_envs = config.agent, config.actors.envs_per_actor
    total = num_envs * (config.actors.num_actors or 1)
    index = (actor * num_envs + np.arange(num_envs)) % total
    exponent: NDArray[np.float64] = 1 + index / max(1, total - 1) * agent.ape_x_exponent
    return agent.ape_x_epsilon**exponent
