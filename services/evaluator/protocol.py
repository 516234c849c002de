"""The frozen evaluation protocol: full episodes, small epsilon, unclipped returns, fixed share per environment."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sbrl.config import Config, Evaluator
from sbrl.envs.make import make_envs
from sbrl.envs.spec import VectorEnv
from sbrl.errors import RunError
from sbrl.networks.build import build_network
from sbrl.networks.policy import EpsilonGreedyPolicy, seed_torch
from sbrl.networks.serialization import Weights
from sbrl.v1.episodes_pb2 import Evaluation


class Policy(Protocol):
    def act(self, observation: npt.NDArray[np.generic], epsilon: float) -> npt.NDArray[np.int64]: ...


class EvaluationResult(NamedTuple):
    """The episodes of one evaluation, by environment and then in order of play."""

    returns: npt.NDArray[np.float64]  # [episodes], unclipped; without cut episodes
    lengths: npt.NDArray[np.int64]  # [episodes], agent steps
    cut: int  # episodes that ended at a bad value of the environment (env.on_bad_value=drop_episode)


def evaluate(
    policy: Policy,
    envs: VectorEnv,
    settings: Evaluator,
    stop: threading.Event,
    on_episode: Callable[[float, int], None],
) -> EvaluationResult | None:
    """Plays `settings.episodes` full episodes; None if `stop` was set before the last one ended.

    The number of episodes per environment is fixed beforehand. Taking the first episodes to end over all environments would
    favour short ones, which are often bad ones. An episode that is cut at a bad value of the environment is not repeated, or
    an environment that always returns one would be played for ever.

    Args:
        envs: New environments, not reset yet. Those that have played their share continue beside the others, uncounted.
        on_episode: Called with return and length when a counted episode has ended.

    Raises:
        RunError: all episodes were cut.
    """
    shares = fixed_shares(settings.episodes, envs.num_envs)
    played: list[list[tuple[float, int] | None]] = [[] for _ in shares]  # return and length; None: cut
    current_return, current_length = np.zeros(envs.num_envs, np.float64), np.zeros(envs.num_envs, np.int64)
    observation = envs.reset()
    while any(len(some) < share for some, share in zip(played, shares, strict=True)):
        if stop.is_set():
            return None
        result = envs.step(policy.act(observation, settings.epsilon))
        current_return += result.reward
        current_length += 1
        observation, done = result.observation, result.terminated | result.truncated | result.bad
        if not done.any():
            continue
        for env in np.flatnonzero(done):
            if len(played[env]) == shares[env]:
                continue
            if result.bad[env]:
                played[env].append(None)
                continue
            episode = float(current_return[env]), int(current_length[env])
            played[env].append(episode)
            on_episode(*episode)
        current_return[done], current_length[done] = 0.0, 0
        observation = envs.reset(done)
    whole = [episode for episode in itertools.chain.from_iterable(played) if episode is not None]
    if not whole:
        raise RunError(
            f"all {settings.episodes} episodes of the evaluation ended at a bad value of the environment: there is no return"
        )
    returns, lengths = zip(*whole, strict=True)
    return EvaluationResult(np.array(returns, np.float64), np.array(lengths, np.int64), cut=settings.episodes - len(whole))


def fixed_shares(episodes: int, num_envs: int) -> list[int]:
    """How many episodes each environment plays: as even as possible; the first ones may play one more."""
    each, rest = divmod(episodes, num_envs)
    return [each + (env < rest) for env in range(num_envs)]


def evaluate_weights(
    config: Config,
    weights: Weights,
    seed: int,
    stop: threading.Event,
    on_episode: Callable[[float, int], None],
) -> EvaluationResult | None:
    """Runs the protocol as `config.evaluator` sets it, on weights of the config's network. Deterministic for a seed.

    Noisy layers act with their mean weights. torch's global generator is seeded, because IQN draws from it.

    Raises:
        UsageError: the environment cannot be made.
        RunError: the weights are from another network or not finite, or every episode was cut at a bad value.
    """
    settings = config.evaluator
    envs = make_envs(config.env, min(settings.num_envs, settings.episodes), seed)
    try:
        seed_torch(seed)
        policy = EpsilonGreedyPolicy(build_network(config.agent, envs.spec), envs.spec.num_actions, seed)
        policy.load(weights)
        return evaluate(policy, envs, settings, stop, on_episode)
    finally:
        envs.close()


def make_evaluation(
    result: EvaluationResult, settings: Evaluator, *, weights_version: int, updates: int, env_steps: int, seed: int
) -> Evaluation:
    """The record for the log, with the present time. The standard deviation is of these episodes, not an estimate for more."""
    return Evaluation(
        weights_version=weights_version,
        updates=updates,
        env_steps=env_steps,
        return_mean=float(result.returns.mean()),
        return_std=float(result.returns.std()),
        return_min=float(result.returns.min()),
        return_max=float(result.returns.max()),
        episodes=len(result.returns),
        length_mean=float(result.lengths.mean()),
        epsilon=settings.epsilon,
        seed=seed,
        time=time.time(),
    )
