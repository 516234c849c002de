"""Every metric of every role, defined once: names are sbrl_<role>_<thing>_<unit>.

A role makes its own class with its process's registry and increments the members; `counters` and `gauges` give the same
numbers for the beats to the coordinator, so that the live view and Prometheus cannot disagree.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector


def make_registry(role: str) -> CollectorRegistry:
    """A registry for this process with its memory, CPU and open files (process_*) and sbrl_build_info."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    try:
        version = metadata.version("sbrl")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        version = "unknown"
    Info("sbrl_build", "Version of the running code", registry=registry).info(
        {"role": role, "version": version, "python": platform.python_version()}
    )
    return registry


class RoleMetrics:
    """The metrics of one role, each under its name without the prefix sbrl_<role>_ in `counters` and `gauges`."""

    def __init__(self, role: str, registry: CollectorRegistry) -> None:
        self._prefix = f"sbrl_{role}_"
        self._registry = registry
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}

    def counters(self) -> dict[str, float]:
        """Every counter's value, summed over its labels."""
        return {name: _value(counter, "_total") for name, counter in self._counters.items()}

    def gauges(self) -> dict[str, float]:
        """Every gauge's value."""
        return {name: _value(gauge, "") for name, gauge in self._gauges.items()}

    def _counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        counter = self._counters[name] = Counter(self._prefix + name, documentation, labels, registry=self._registry)
        return counter

    def _gauge(self, name: str, documentation: str) -> Gauge:
        gauge = self._gauges[name] = Gauge(self._prefix + name, documentation, registry=self._registry)
        return gauge


class ActorMetrics(RoleMetrics):
    """collected = inserted + dropped + in flight."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("actor", registry)
        self.env_steps = self._counter("env_steps", "Agent steps taken over all environments of the process")
        self.episodes = self._counter("episodes", "Training episodes completed")
        self.episodes_dropped = self._counter("episodes_dropped", "Episodes that did not reach the coordinator's log")
        self.transitions_collected = self._counter("transitions_collected", "Items made for replay")
        self.transitions_inserted = self._counter("transitions_inserted", "Items that replay has confirmed")
        self.transitions_dropped = self._counter("transitions_dropped", "Items given up, by reason", ["reason"])
        self.transitions_in_flight = self._gauge("transitions_in_flight", "Items sent and not confirmed yet")
        self.blocked_seconds = self._counter(
            "blocked_seconds", "Seconds spent waiting, by what was waited for", ["waiting_for"]
        )
        self.episode_return = self._gauge("episode_return", "Unclipped return of the last episode completed")
        self.epsilon = self._gauge("epsilon", "Probability of a random action")
        self.weights_fetched = self._counter("weights_fetched", "Versions of the weights taken up")
        self.weights_version = self._gauge("weights_version", "Version of the weights acted with")
        self.weights_age_seconds = self._gauge("weights_age_seconds", "Seconds since the weights acted with were published")


class LearnerMetrics(RoleMetrics):
    """served = trained + discarded + in flight."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("learner", registry)
        self.updates = self._counter("updates", "Gradient updates made by this process")
        self.network_updates = self._gauge("network_updates", "Gradient updates the network has had since the run began")
        self.samples_served = self._counter("samples_served", "Transitions received from replay")
        self.samples_trained = self._counter("samples_trained", "Transitions trained on")
        self.samples_discarded = self._counter(
            "samples_discarded", "Transitions received and not trained on, by reason", ["reason"]
        )
        self.samples_in_flight = self._gauge("samples_in_flight", "Transitions received and waiting for their update")
        self.samples_per_insert_target = self._gauge("samples_per_insert_target", "Batch size x updates per step")
        self.samples_per_insert_achieved = self._gauge(
            "samples_per_insert_achieved", "Samples trained per transition inserted after warm-up"
        )
        self.batch_size = self._gauge("batch_size", "Transitions per update")
        self.updates_per_step_target = self._gauge("updates_per_step_target", "Configured updates per agent step")
        self.loss = self._gauge("loss", "Mean loss of a recent batch")
        self.blocked_seconds = self._counter(
            "blocked_seconds", "Seconds spent waiting, by what was waited for", ["waiting_for"]
        )
        self.shards_ready = self._gauge("shards_ready", "Replay shards that serve batches")
        self.priority_updates_dropped = self._counter(
            "priority_updates_dropped", "Priorities not sent back to their shard, by reason", ["reason"]
        )
        self.max_priority = self._gauge("max_priority", "Highest priority computed, which new items are given")
        self.weights_published = self._counter("weights_published", "Versions of the weights published")
        self.weights_version = self._gauge("weights_version", "Newest version of the weights published")
        self.weights_age_seconds = self._gauge("weights_age_seconds", "Seconds since weights were last published")
        self.checkpoints = self._counter("checkpoints", "Checkpoints written")
        self.checkpoint_age_seconds = self._gauge("checkpoint_age_seconds", "Seconds since the last checkpoint")


class ReplayMetrics(RoleMetrics):
    """One shard. Counters count this process's work; a restored shard's own counts are in the gauges."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("replay", registry)
        self.transitions_inserted = self._counter("transitions_inserted", "Items inserted")
        self.samples_served = self._counter("samples_served", "Items sampled")
        self.transitions = self._gauge("transitions", "Items in the table")
        self.capacity = self._gauge("capacity", "Items the table may hold")
        self.limiter_inserts = self._gauge("limiter_inserts", "Insertions the rate limiter has admitted, over restores")
        self.limiter_samples = self._gauge("limiter_samples", "Samples the rate limiter has admitted, over restores")
        self.samples_per_insert_target = self._gauge("samples_per_insert_target", "The rate limiter's ratio")
        self.samples_per_insert_achieved = self._gauge(
            "samples_per_insert_achieved", "Samples per insertion after the table's warm-up"
        )
        self.checkpoints = self._counter("checkpoints", "Checkpoints written")
        self.blocked_seconds = self._counter(
            "blocked_seconds", "Seconds the limiter held calls back, by who was waited for", ["waiting_for"]
        )
        self.checkpoint_failures = self._counter("checkpoint_failures", "Checkpoints that could not be written")
        self.checkpoint_age_seconds = self._gauge("checkpoint_age_seconds", "Seconds since the last checkpoint")


class EvaluatorMetrics(RoleMetrics):
    """The frozen evaluation protocol's results."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("evaluator", registry)
        self.evaluations = self._counter("evaluations", "Evaluations completed")
        self.episodes = self._counter("episodes", "Evaluation episodes completed")
        self.env_steps = self._counter("env_steps", "Agent steps taken in evaluation")
        self.return_mean = self._gauge("return_mean", "Mean unclipped return of the last evaluation")
        self.weights_version = self._gauge("weights_version", "Version of the weights evaluated")
        self.weights_age_seconds = self._gauge("weights_age_seconds", "Seconds since the weights evaluated were published")
        self.blocked_seconds = self._counter(
            "blocked_seconds", "Seconds spent waiting, by what was waited for", ["waiting_for"]
        )


class CoordinatorMetrics(RoleMetrics):
    """The fleet, the weights and the log."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("coordinator", registry)
        self.env_steps = self._gauge("env_steps", "Agent steps reported by all actors since the run began")
        self.live_members = Gauge(
            "sbrl_coordinator_live_members", "Members whose lease holds, by role", ["role"], registry=registry
        )
        self.leases_expired = self._counter("leases_expired", "Leases that ended for want of a beat, by role", ["role"])
        self.beats = self._counter("beats", "Beats answered")
        self.weights_published = self._counter("weights_published", "Versions of the weights accepted")
        self.weights_fenced = self._counter("weights_fenced", "Publications refused because their learner had been replaced")
        self.weights_fetched = self._counter("weights_fetched", "Times that weights were sent in full")
        self.weights_version = self._gauge("weights_version", "Newest version of the weights")
        self.weights_age_seconds = self._gauge("weights_age_seconds", "Seconds since the newest version was published")
        self.episodes = self._gauge("episodes", "Training episodes in the log")
        self.evaluations = self._counter("evaluations", "Evaluations received")
        self.evaluation_return_mean = self._gauge(
            "evaluation_return_mean", "Mean unclipped return of the last evaluation received"
        )


def _value(metric: Counter | Gauge, suffix: str) -> float:
    """The sum over a metric's labels; `suffix` leaves out samples such as a counter's _created."""
    return sum(sample.value for family in metric.collect() for sample in family.samples if sample.name == family.name + suffix)


class Totals:
    """Raises Prometheus counters to totals that are counted elsewhere."""

    def __init__(self) -> None:
        self._seen: dict[Counter, float] = {}

    def raise_to(self, counter: Counter, total: float) -> None:
        """Adds what `total` has grown by since the last call for this counter; a total that fell adds nothing."""
        seen = self._seen.get(counter, 0.0)
        counter.inc(max(0.0, total - seen))
        self._seen[counter] = max(seen, total)
