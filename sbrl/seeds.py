"""Seeds: a separate stream for each use of random numbers in a run. All of them derive from run.seed here."""

from __future__ import annotations

import numpy as np

# These take an actor's place among the streams: no actor has an index this large.
EVALUATION = 2**32 - 1
LEARNER = 2**32 - 2
RESETS = 2**32 - 3
MEMORY = 2**32 - 4
REWARD_NOISE = 2**32 - 5
PROBES = 2**32 - 6
HELD_OUT = 2**32 - 7


def actor_seeds(run_seed: int, actor: int, incarnation: int) -> tuple[int, int]:
    """Seeds of environments (31 bits) and exploration. A restarted actor (another incarnation) plays new games."""
    environment, policy = np.random.SeedSequence([run_seed, actor, incarnation]).generate_state(2)
    return int(environment >> 1), int(policy)  # ALE takes 31 bits


def evaluation_seed(run_seed: int) -> int:
    """The seed of a run's evaluations, 31 bits. It is always the same, so that they differ only by their weights."""
    return _seed(run_seed, EVALUATION) >> 1


def learner_seed(run_seed: int) -> int:
    """The seed of the noise, augmentation and quantile fractions of a run's updates."""
    return _seed(run_seed, LEARNER)


def reset_seed(run_seed: int, number: int) -> int:
    """The seed of the new values of a run's reset `number` (from 1); 31 bits, like run.seed."""
    return _seed(run_seed, RESETS, number) >> 1


def memory_seed(run_seed: int, term: int) -> int:
    """The seed of a learner's draws from its memory. Each learner of a run has its own term, and so its own seed."""
    return _seed(run_seed, MEMORY, term)


def reward_noise_seed(run_seed: int, actor: int, incarnation: int) -> int:
    """Of the noise on the rewards of one actor."""
    return _seed(run_seed, REWARD_NOISE, actor, incarnation)


def probe_seed(run_seed: int) -> int:
    """Of the transitions that diagnostics look at."""
    return _seed(run_seed, PROBES)


def held_out_seeds(run_seed: int) -> tuple[int, int, int, int]:
    """Of the environment, exploration, draws and reward noise of what is never trained on, 31 bits each."""
    states = np.random.SeedSequence([run_seed, HELD_OUT]).generate_state(4)
    environment, policy, probes, noise = (int(state >> 1) for state in states)
    return environment, policy, probes, noise


def self_prediction_seed(network_seed: int) -> int:
    """Of the initial parameters of self-prediction, beside those of a network that is drawn from the seed itself."""
    return network_seed + 2**32


def single_process_seeds(run_seed: int) -> tuple[int, int, int, int]:
    """Seeds of environments, exploration, the memory's draws and updates of a run in one process, 31 bits each."""
    environment, policy, memory, updates = (int(state >> 1) for state in np.random.SeedSequence(run_seed).generate_state(4))
    return environment, policy, memory, updates


def _seed(run_seed: int, *stream: int) -> int:
    (seed,) = np.random.SeedSequence([run_seed, *stream]).generate_state(1)
    return int(seed)
