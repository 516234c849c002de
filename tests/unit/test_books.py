"""The run's books: what is due at a ratio that changes, and counts that a kill takes back or leaves open."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.books import TrainingBooks
from sbrl.config import load
from sbrl.sharding import limiter_bounds, limiter_room, shard_limits
from services.coordinator.books import Plan, Segment, next_segment, of_the_network, samples_due, samples_owed, under_way
from services.coordinator.manifests import CheckpointRecord, CorruptManifestError, Manifest, decode, encode
from services.coordinator.snapshots import counters_at
from services.coordinator.store import Moment


def test_each_insertion_is_worth_the_ratio_that_held_when_it_was_made() -> None:
    segments = [Segment(0, 100, 2.0), Segment(1, 50, 2.0), Segment(0, 400, 8.0), Segment(0, 500, 1.0)]
    assert samples_due(segments[:2], 0, 100) == 0
    assert samples_due(segments[:1], 0, 0) == -200  # while it fills: an empty shard's limiter starts there
    assert samples_due(segments, 1, 75) == 50
    assert samples_due(segments, 0, 600) == 300 * 2 + 100 * 8 + 100


def test_a_segment_begins_where_the_ratio_changes() -> None:
    plan = Plan(2.0, (100, 50))
    assert next_segment([], 1, 0, plan) == Segment(1, 50, 2.0)
    assert next_segment([Segment(1, 50, 2.0)], 1, 80, plan) is None
    assert next_segment([Segment(1, 50, 1.0)], 1, 80, plan) == Segment(1, 80, 2.0)
    assert next_segment([Segment(1, 50, 1.0)], 1, 20, plan) == Segment(1, 50, 2.0)  # still filling: nothing was worth anything


def test_no_more_is_lost_than_was_trained() -> None:
    net = of_the_network({("learner", "updates"): 5.0, ("learner", "updates_lost"): 1000.0, ("learner", "samples_lost.3"): 8.0})
    assert net["learner", "updates"] == 0
    assert ("learner", "samples_trained.3") not in net


def test_samples_of_lost_updates_are_owed_again() -> None:
    totals = {
        ("replay", "transitions_inserted.0"): 200.0,
        ("learner", "samples_trained.0"): 160.0,
        ("learner", "samples_trained"): 160.0,
        ("learner", "samples_lost.0"): 24.0,
        ("learner", "samples_lost"): 24.0,
        ("learner", "samples_served"): 170.0,
        ("learner", "samples_discarded"): 2.0,
        ("learner", "updates"): 20.0,
        ("learner", "updates_lost"): 3.0,
    }
    assert samples_owed([Segment(0, 100, 2.0)], totals, 0) == 200 - 136
    net = of_the_network(totals)
    assert (net["learner", "samples_trained"], net["learner", "samples_trained.0"], net["learner", "updates"]) == (136, 136, 17)
    assert net["learner", "samples_served"] - net["learner", "samples_trained"] - net["learner", "samples_discarded"] == 8
    assert under_way("learner", {name: value for (_, name), value in totals.items()}) == 8


@pytest.mark.parametrize(
    ("reported", "held", "lost", "found"),
    [
        ({}, {}, [0, 0], [0, 0]),
        ({0: 80, 1: 40}, {0: 80, 1: 40}, [0, 0], [0, 0]),
        ({0: 80, 1: 40}, {0: 64, 1: 40}, [16, 0], [0, 0]),  # killed long after its checkpoint
        ({0: 80, 1: 40}, {0: 88, 1: 40}, [0, 0], [8, 0]),  # killed between its checkpoint and the next beat
    ],
)
def test_a_learners_count_is_its_networks(
    reported: dict[int, int], held: dict[int, int], lost: list[int], found: list[int]
) -> None:
    totals = {f"learner.samples_trained.{shard}": float(count) for shard, count in reported.items()}
    totals["learner.updates"] = sum(reported.values()) / 8
    checkpoint = {f"samples_trained.{shard}": count for shard, count in held.items()}
    updates = sum(held.values()) // 8
    books = TrainingBooks(2, totals, checkpoint, updates)
    books.add(1, 8)
    counters = books.counters()
    assert [counters[f"samples_lost.{shard}"] for shard in range(2)] == lost
    assert [counters[f"samples_trained.{shard}"] for shard in range(2)] == [found[0], found[1] + 8]
    assert books.in_network == sum(held.values()) + 8
    # By the coordinator's sums, too: what was reported, and this process's.
    assert sum(reported.values()) + counters["samples_trained"] - counters["samples_lost"] == books.in_network
    assert totals["learner.updates"] + counters["updates"] - counters["updates_lost"] == updates + 1
    assert books.held() == {
        "samples_trained": books.in_network,
        "samples_trained.0": held.get(0, 0),
        "samples_trained.1": held.get(1, 0) + 8,
    }


@given(
    inserted=st.integers(0, 10**6), sampled=st.integers(0, 10**7), owed=st.integers(-(10**5), 10**6), shards=st.integers(1, 16)
)
def test_a_limiter_set_anew_admits_what_is_owed(inserted: int, sampled: int, owed: int, shards: int) -> None:
    limits = shard_limits(load(overrides=[f"replay.num_shards={shards}"]), 0)
    low, high = limiter_bounds(limits, inserted, sampled, owed)
    error = inserted * limits.samples_per_insert - sampled
    assert max(0.0, error - low) == max(0, owed + 8)  # the learner may be one batch ahead
    counted = round((inserted - limits.min_size) * limits.samples_per_insert - owed)
    room = limiter_room(limits, inserted, counted)
    assert room == pytest.approx((max(0.0, error - low), max(0.0, high - error) / limits.samples_per_insert))
    new = shard_limits(load(overrides=[f"replay.num_shards={shards}"]), 0)
    assert limiter_bounds(new, 0, 0, -new.samples_per_insert * new.min_size) == (new.min_diff, new.max_diff)


def test_the_counts_of_a_generation_are_its_checkpoints() -> None:
    totals = {
        ("actor", "env_steps"): 1010.0,
        ("actor", "frames"): 4040.0,
        ("actor", "transitions_collected"): 1008.0,
        ("actor", "transitions_inserted"): 1000.0,
        ("actor", "transitions_dropped"): 5.0,
        ("replay", "transitions_inserted"): 1000.0,
        ("learner", "samples_trained"): 1700.0,
        ("learner", "samples_lost"): 16.0,
        ("learner", "samples_lost.0"): 16.0,
        ("learner", "samples_trained.0"): 900.0,
        ("learner", "samples_discarded"): 8.0,
        ("learner", "updates"): 212.0,
    }
    held = {
        ("learner", 0): {"updates": 200.0, "samples_trained": 1600.0, "samples_trained.0": 850.0, "samples_trained.1": 750.0},
        ("replay", 0): {"transitions_inserted": 490.0},
        ("replay", 1): {"transitions_inserted": 480.0},
    }
    counters = counters_at(totals, held)
    assert counters["replay", "transitions_inserted"] == counters["actor", "transitions_inserted"] == 970
    assert counters["actor", "transitions_inserted.1"] == 480
    assert counters["actor", "env_steps"] == counters["actor", "transitions_collected"] == 975
    assert counters["actor", "frames"] == 3900
    assert counters["learner", "samples_served"] == 1600 + 8 + 16
    assert (counters["learner", "updates"], counters["learner", "samples_trained.0"]) == (200, 850)
    assert not [name for role, name in counters if "lost" in name]


MANIFEST = Manifest(
    7,
    1.5,
    (CheckpointRecord("learner", 0, "updates-000000000200", 123, "a" * 64), CheckpointRecord("replay", 1, "2026", 4, "b" * 64)),
    Moment({("actor", "env_steps"): 975.0, ("replay", "transitions_inserted.1"): 480.0}, [Segment(0, 100, 2.0)], 12, 3),
)


def test_a_manifest_that_counts_less_than_nothing_is_refused() -> None:
    moment = MANIFEST.moment._replace(counters={("actor", "env_steps"): -1.0})
    with pytest.raises(CorruptManifestError, match=r"-1\.0 stands where a count does"):
        decode(encode(MANIFEST._replace(moment=moment)))


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    assert decode(encode(MANIFEST)) == MANIFEST
    assert MANIFEST.checkpoint("replay", 1) == MANIFEST.checkpoints[1]
    assert MANIFEST.checkpoint("replay", 0) is None


@given(data=st.binary(max_size=64), at=st.integers(0, 2000), length=st.integers(0, 64))
def test_a_damaged_manifest_is_refused(data: bytes, at: int, length: int) -> None:
    whole = encode(MANIFEST)
    at %= len(whole)
    damaged = whole[:at] + data + whole[at + length :]
    try:
        read = decode(damaged)
    except CorruptManifestError:
        return
    assert read == MANIFEST  # only spaces between its parts differ


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '{"sha256": 1, "content": []}', "[" * 10_000, json.dumps({"sha256": "0" * 64, "content": {}})],
)
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(CorruptManifestError):
        decode(text.encode())
