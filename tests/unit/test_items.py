"""n-step transitions from items, against a plain reference: every episode length, every kind of end, every n."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbrl.replay.items import future_sequence, n_step_transitions
from tests.scripted_episodes import Episode, check, items_by_definition, numbers_of, reference, terminals, with_pieces


@pytest.mark.parametrize("stack", [1, 2, 3, 4])
@pytest.mark.parametrize("n_max", [1, 2, 3, 5, 10, 13])
def test_every_length_and_end_of_an_episode_for_every_n(stack: int, n_max: int):
    """Episodes shorter and longer than n and n_max, terminated and truncated. One batch has the items of all."""
    script = [
        Episode(number, (*(False,) * (length - 1), terminated), (length,))
        for number, (length, terminated) in enumerate(product(range(1, 16), (False, True)), start=1)
    ]
    items = items_by_definition(script, stack, n_max)
    for n_step in range(1, min(n_max, 10) + 1):
        for discount in (0.5, 0.99, 1.0):
            expected = [transition for episode in script for transition in reference(episode, stack, n_step, discount)]
            check(n_step_transitions(items, stack, n_step, discount), expected)


@settings(max_examples=500)
@given(data=st.data(), stack=st.integers(1, 4), n_step=st.integers(1, 10), spare=st.integers(0, 6))
def test_lives_lost_and_pieces_cut_on_the_way(data: st.DataObject, stack: int, n_step: int, spare: int):
    patterns = data.draw(st.lists(terminals(longest=20), min_size=1, max_size=4))
    piece_steps = data.draw(st.integers(1, 25))
    discount = data.draw(st.floats(0.1, 1.0))
    script = [with_pieces(number, terminal, piece_steps) for number, terminal in enumerate(patterns, start=1)]
    expected = [transition for episode in script for transition in reference(episode, stack, n_step, discount)]
    items = items_by_definition(script, stack, n_step + spare)
    check(n_step_transitions(items, stack, n_step, discount), expected)


def test_a_return_worked_out_by_hand():
    """Rewards 100.5, 101.5, 102.5 and the end; n = 2; gamma = 1/2."""
    items = items_by_definition([Episode(1, (False, False, True), (3,))], stack=2, n_max=4)
    got = n_step_transitions(items, stack=2, n_step=2, discount=0.5)
    np.testing.assert_array_equal(got.r_t, [151.25, 152.75, 102.5])
    np.testing.assert_array_equal(got.discount_t, [0.25, 0.0, 0.0])
    np.testing.assert_array_equal(got.s_tm1[..., 0], [[0, 100], [100, 101], [101, 102]])
    np.testing.assert_array_equal(got.s_t[0, :, 0], [101, 102])
    assert [str(column.dtype) for column in (got.r_t, got.discount_t, got.a_tm1)] == ["float32", "float32", "int64"]


def test_a_truncated_episode_bootstraps_from_its_last_observation_after_fewer_steps():
    items = items_by_definition([Episode(1, (False, False), (2,))], stack=1, n_max=5)
    got = n_step_transitions(items, stack=1, n_step=5, discount=0.5)
    np.testing.assert_array_equal(got.r_t, [151.25, 101.5])
    np.testing.assert_array_equal(got.discount_t, [0.25, 0.5])
    np.testing.assert_array_equal(got.s_t[..., 0], [[102], [102]])


@settings(max_examples=100)
@given(data=st.data(), stack=st.integers(1, 4), jumps=st.integers(1, 5), spare=st.integers(0, 3))
def test_the_sequence_that_follows_ends_with_the_episode_the_life_or_the_piece(
    data: st.DataObject, stack: int, jumps: int, spare: int
):
    patterns = data.draw(st.lists(terminals(longest=12), min_size=1, max_size=4))
    piece_steps = data.draw(st.integers(1, 15))
    script = [with_pieces(number, terminal, piece_steps) for number, terminal in enumerate(patterns, start=1)]
    got = future_sequence(items_by_definition(script, stack, jumps + spare), stack, jumps)
    starts = [(episode, t) for episode in script for t in range(episode.length)]
    for row, (episode, start) in enumerate(starts):
        end = min(end for end in episode.ends if end > start)
        for k in range(jumps):
            taken = range(start, start + k + 1)
            valid = start + k < end and not any(episode.terminal[t] for t in taken)
            assert got.valid[row, k] == valid
            assert got.action[row, k] == (episode.action(start + k) if valid else 0)
            if valid:
                assert numbers_of(got.observation[row, k]).tolist() == episode.observation(start + k + 1, stack)
