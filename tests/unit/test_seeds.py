"""Each use of random numbers in a run has its own stream."""

from __future__ import annotations

from itertools import chain

from sbrl.seeds import (
    actor_seeds,
    evaluation_seed,
    held_out_seeds,
    learner_seed,
    memory_seed,
    probe_seed,
    reset_seed,
    reward_noise_seed,
    single_process_seeds,
)


def streams(run_seed: int) -> list[int]:
    """All seeds of a run with a few of each kind, without their lowest bit, as some have 31 bits and some 32."""
    numbers = range(1, 5)
    halved = chain(
        *((one, other >> 1) for one, other in (actor_seeds(run_seed, actor, lease) for actor in range(4) for lease in numbers)),
        (reward_noise_seed(run_seed, actor, lease) >> 1 for actor in range(4) for lease in numbers),
        (reset_seed(run_seed, number) for number in numbers),
        (memory_seed(run_seed, term) >> 1 for term in numbers),
        (evaluation_seed(run_seed), learner_seed(run_seed) >> 1, probe_seed(run_seed) >> 1),
        held_out_seeds(run_seed),
        single_process_seeds(run_seed),
    )
    return list(halved)


def test_no_two_uses_of_a_run_share_a_stream() -> None:
    """A reset and the memory once did: the n-th reset's new weights and the n-th filling's samples had the same seed."""
    for run_seed in range(20):
        found = streams(run_seed)
        assert len(set(found)) == len(found)


def test_other_runs_have_other_streams_and_the_same_run_the_same() -> None:
    found = [seed for run_seed in range(20) for seed in streams(run_seed)]
    assert len(set(found)) == len(found)
    assert streams(3) == streams(3)
