"""How often an actor acts at random."""

from __future__ import annotations

from sbrl.config import Config


def linear_epsilon(config: Config, env_steps: int) -> float:
    """Dopamine's schedule on the global step: `epsilon_start` until the replay is warm, then linear, then `epsilon_end`.

    Args:
        env_steps: agent steps collected so far over all actors.
    """
    agent = config.agent
    decay_steps = agent.epsilon_decay_steps or 0
    since_warm = env_steps - config.min_replay_size
    if since_warm < 0:
        return agent.epsilon_start
    if since_warm >= decay_steps:
        return agent.epsilon_end
    return agent.epsilon_start + (agent.epsilon_end - agent.epsilon_start) * since_warm / decay_steps
