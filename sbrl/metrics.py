"""Every Prometheus metric of every role, defined once: names are sbrl_<role>_<thing>_<unit>; docs/metrics.md lists them.

A role makes its own class with its process's registry and increments the members; `counters` and `gauges` give the same
numbers for the beats to the coordinator, so that the live view and Prometheus cannot disagree.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from sbrl.role_metrics import RoleMetrics, Totals, export_disk, make_registry

__all__ = [
    "ActorMetrics",
    "ControllerMetrics",
    "CoordinatorMetrics",
    "EvaluatorMetrics",
    "LearnerMetrics",
    "ReplayMetrics",
    "RoleMetrics",
    "Totals",
    "export_disk",
    "make_registry",
]

RUN_STATES = ("running", "collected", "finished")
LIMITER_STATES = ("filling", "open", "waiting_for_actors", "waiting_for_learner")
SCALE_REASONS = ("learner_starved", "actors_blocked", "bounds", "run_done")
LEARNER_PHASES = ("wait", "copy", "update", "publish")
_PHASE_BUCKETS = (0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0)
_LAG_BUCKETS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
_AGE_BUCKETS = (100, 300, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6)


class ActorMetrics(RoleMetrics):
    """collected = inserted + dropped + in flight."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("actor", registry)
        self.env_steps = self._counter("env_steps", "Agent steps taken over all environments of the process")
        self.frames = self._counter("frames", "Emulator frames played: env.frame_skip a step on Atari, one elsewhere")
        self.episodes = self._counter("episodes", "Training episodes completed")
        self.episodes_dropped = self._counter("episodes_dropped", "Episodes that did not reach the coordinator's log")
        self.episodes_cut = self._counter(
            "episodes_cut", "Episodes dropped from the step on at which the environment returned a bad value (env.on_bad_value)"
        )
        self.transitions_collected = self._counter("transitions_collected", "Items made for replay")
        self.transitions_inserted = self._counter("transitions_inserted", "Items that replay has confirmed")
        self.transitions_dropped = self._counter(
            "transitions_dropped",
            "Items given up, by reason: shard_lost, their shard was silent for too long; stopped, the actor ended before a "
            "shard confirmed them",
            ["reason"],
            ["shard_lost", "stopped"],
        )
        self.transitions_in_flight = self._gauge("transitions_in_flight", "Items sent and not confirmed yet")
        self.blocked_seconds = self._counter(
            "blocked_seconds", "Time spent waiting, by what was waited for", ["waiting_for"], ["replay", "coordinator"]
        )
        self.episode_return = self._gauge("episode_return", "Unclipped return of the last episode completed", unit="reward")
        self.epsilon = self._gauge("epsilon", "Probability of a random action, mean over the environments")
        self.weights_fetched = self._counter("weights_fetched", "Versions of the weights taken up", unit="versions")
        self.weights_version = self._gauge("weights_version", "Version of the weights acted with")
        self.weights_age_seconds = self._gauge("weights_age_seconds", "Time since the newest weights known were published")
        self.policy_lag_versions = self._gauge(
            "policy_lag_versions", "Versions that the policy was behind when newer weights were last looked for"
        )


class LearnerMetrics(RoleMetrics):
    """served = trained + discarded + in flight."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("learner", registry)
        self.updates = self._counter("updates", "Gradient updates made by this process")
        self.network_updates = self._gauge("network_updates", "Gradient updates the network has had since the run began")
        self.samples_served = self._counter("samples_served", "Transitions received from replay")
        self.samples_trained = self._counter("samples_trained", "Transitions trained on")
        self.samples_discarded = self._counter(
            "samples_discarded",
            "Transitions received and not trained on, by reason: shard_lost, their shard was gone; stopped, the learner ended",
            ["reason"],
            ["shard_lost", "stopped"],
        )
        self.samples_lost = self._counter(
            "samples_lost", "Transitions trained on by a learner that was killed before it could save: trained again"
        )
        self.updates_lost = self._counter("updates_lost", "Updates made by a learner that was killed before it could save them")
        self.settling = self._gauge(
            "settling", "1 while the learner holds still for shards to set their limiters to what the books say is owed"
        )
        self.epoch = self._gauge("epoch", "Epoch held: the newest one's holder is the learner")
        self.samples_in_flight = self._gauge("samples_in_flight", "Transitions received and waiting for their update")
        self.samples_per_insert_target = self._gauge(
            "samples_per_insert_target", "Batch size x updates per step", unit="samples per transition"
        )
        self.samples_per_insert_achieved = self._gauge(
            "samples_per_insert_achieved",
            "Samples trained per transition inserted after warm-up",
            unit="samples per transition",
        )
        self.batch_size = self._gauge("batch_size", "Transitions per update", unit="transitions")
        self.updates_per_step_target = self._gauge(
            "updates_per_step_target", "Configured updates per agent step", unit="updates per step"
        )
        self.loss = self._gauge("loss", "Mean loss of a recent batch")
        self.losses_not_finite = self._counter(
            "losses_not_finite", "Times that the loss was infinite or not a number, upon which the learner ends"
        )
        self.gradient_norm = self._gauge("gradient_norm", "Euclidean norm of a recent gradient, before clipping")
        self.td_error = self._gauge("td_error", "Mean absolute temporal difference error of a recent batch", unit="reward")
        self.phase_seconds = self._histogram(
            "phase_seconds",
            "Time of each phase: waiting for a batch, copying it into tensors, the update, handing weights over",
            _PHASE_BUCKETS,
            ["phase"],
            LEARNER_PHASES,
        )
        self.blocked_seconds = self._counter(
            "blocked_seconds", "Time spent waiting, by what was waited for", ["waiting_for"], ["replay"]
        )
        self.shards_ready = self._gauge("shards_ready", "Replay shards that answer")
        self.priority_updates_dropped = self._counter(
            "priority_updates_dropped",
            "Priorities that did not get back to their shard, by reason: shard_lost, it was gone; shard_slow, it answered and "
            "took them too slowly; refused, by the shard; stopped, the learner ended before",
            ["reason"],
            ["shard_lost", "shard_slow", "refused", "stopped"],
            unit="transitions",
        )
        self.priority_updates_evicted = self._counter(
            "priority_updates_evicted",
            "Priorities sent for items that their shard had evicted meanwhile: reckoned from its insertions since then",
            unit="transitions",
        )
        self.max_priority = self._gauge("max_priority", "Highest priority computed, which new items are given")
        self.policy_lag_versions = self._histogram(
            "policy_lag_versions",
            "Versions published since the one that a sampled transition was collected with, for a batch a second",
            _LAG_BUCKETS,
        )
        self.sample_age_env_steps = self._histogram(
            "sample_age_env_steps",
            "Agent steps of the whole run since a sampled transition was collected, estimated, for a batch a second",
            _AGE_BUCKETS,
        )
        self.weights_published = self._counter("weights_published", "Versions of the weights published", unit="versions")
        self.weights_version = self._gauge("weights_version", "Newest version of the weights published")
        self.weights_age_seconds = self._gauge("weights_age_seconds", "Time since weights were last published")
        self.gpu_memory_bytes = self._gauge("gpu_memory_bytes", "Memory that tensors hold on the GPU; 0 on CPU")
        self.checkpoints = self._counter("checkpoints", "Checkpoints written")
        self.checkpoint_failures = self._counter(
            "checkpoint_failures", "Checkpoints that could not be written", unit="checkpoints"
        )
        self.checkpoint_duration_seconds = self._gauge("checkpoint_duration_seconds", "Time the last checkpoint took")
        self.checkpoint_age_seconds = self._gauge(
            "checkpoint_age_seconds", "Time since the last checkpoint, or since the process began"
        )
        self.checkpoint_interval_seconds = self._gauge("checkpoint_interval_seconds", "Configured time between two checkpoints")
        self.diagnostics = self._counter("diagnostics", "Measurements of the diagnostics that follow", unit="measurements")
        self.diagnostics_seconds = self._counter("diagnostics_seconds", "Time spent on these measurements, part of the update")
        self.gradient_noise_scale = self._gauge(
            "gradient_noise_scale",
            "Batch size at which the gradient's noise equals its signal (McCandlish et al. 2018), from averages of both over "
            "about ten measurements; NaN until measured, and while the noise hides the signal",
            unit="transitions",
        )
        self.gradient_signal = self._gauge(
            "gradient_signal",
            "Squared norm of the gradient without its noise, averaged; can come out below zero; NaN until measured",
        )
        self.gradient_variance = self._gauge(
            "gradient_variance",
            "Variance of one transition's gradient, summed over parameters, averaged; the noise scale is this over the signal; "
            "NaN until measured",
        )
        self.policy_churn_ratio = self._gauge(
            "policy_churn_ratio",
            "Share of states whose greedy action one update changed (Schaul et al. 2022); NaN until measured",
        )
        self.dormant_units_ratio = self._gauge(
            "dormant_units_ratio",
            "Share of units after ReLUs that hardly ever fire (Sokar et al. 2023, tau 0.025); NaN until measured",
        )
        self.feature_rank = self._gauge(
            "feature_rank", "Effective rank (srank) of the features of 512 states (Kumar et al. 2021); NaN until measured"
        )
        for diagnostic in (
            *(self.gradient_noise_scale, self.gradient_signal, self.gradient_variance),
            *(self.policy_churn_ratio, self.dormant_units_ratio, self.feature_rank),
            *(self.gradient_norm, self.td_error),
        ):
            diagnostic.set(float("nan"))


class ReplayMetrics(RoleMetrics):
    """One shard. Counters count this process's work; a restored shard's own counts are in the gauges."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("replay", registry)
        self.transitions_inserted = self._counter("transitions_inserted", "Items inserted")
        self.samples_served = self._counter("samples_served", "Items sampled")
        self.transitions = self._gauge("transitions", "Items in the table")
        self.capacity = self._gauge("capacity", "Items the table may hold", unit="transitions")
        self.min_size = self._gauge("min_size", "Items the shard needs before it serves samples", unit="transitions")
        self.limiter_inserts = self._gauge(
            "limiter_inserts", "Insertions the rate limiter has admitted, over restores", unit="transitions"
        )
        self.limiter_samples = self._gauge(
            "limiter_samples",
            "Samples that the rate limiter counts as served for these insertions, at the present ratio and as corrected",
        )
        self.samples_owed = self._gauge(
            "samples_owed", "Samples that the rate limiter counts as due and not served; negative while the shard fills"
        )
        self.limiter_state = self._gauge(
            "limiter_state",
            "1 for the state the rate limiter is in: filling up to min_size, open to both sides, or holding one side back "
            "until the other goes on",
            ["state"],
            LIMITER_STATES,
        )
        self.limiter_room_samples = self._gauge(
            "limiter_room_samples", "Samples that can be served before the limiter waits for actors"
        )
        self.limiter_room_transitions = self._gauge(
            "limiter_room_transitions", "Items that can be inserted before the limiter waits for the learner"
        )
        self.samples_per_insert_target = self._gauge(
            "samples_per_insert_target", "The rate limiter's ratio", unit="samples per transition"
        )
        self.samples_per_insert_achieved = self._gauge(
            "samples_per_insert_achieved",
            "Samples per insertion after the table's warm-up",
            unit="samples per transition",
        )
        self.blocked_seconds = self._counter(
            "blocked_seconds",
            "Time the limiter held calls back, by who was waited for",
            ["waiting_for"],
            ["learner", "actors"],
        )
        self.memory_used_bytes = self._gauge(
            "memory_used_bytes", "Memory that counts towards the limit: the container's working set, else what the process has"
        )
        self.memory_limit_bytes = self._gauge(
            "memory_limit_bytes", "Memory the process may occupy: its container's limit, else the machine's memory"
        )
        self.bytes_per_transition = self._gauge(
            "bytes_per_transition",
            "Memory the table occupies per item in it, the program's own left out; 0 while the table is almost empty",
            unit="bytes per transition",
        )
        self.checkpoints = self._counter("checkpoints", "Checkpoints written")
        self.checkpoint_failures = self._counter(
            "checkpoint_failures", "Checkpoints that could not be written", unit="checkpoints"
        )
        self.checkpoint_duration_seconds = self._gauge("checkpoint_duration_seconds", "Time the last checkpoint took")
        self.checkpoint_age_seconds = self._gauge(
            "checkpoint_age_seconds", "Time since the last checkpoint, or since the process began"
        )
        self.checkpoint_interval_seconds = self._gauge("checkpoint_interval_seconds", "Configured time between two checkpoints")


class EvaluatorMetrics(RoleMetrics):
    """The frozen evaluation protocol's results."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("evaluator", registry)
        self.evaluations = self._counter("evaluations", "Evaluations completed")
        self.episodes = self._counter("episodes", "Evaluation episodes completed")
        self.env_steps = self._counter("env_steps", "Agent steps taken in evaluation")
        self.return_mean = self._gauge("return_mean", "Mean unclipped return of the last evaluation", unit="reward")
        self.duration_seconds = self._gauge("duration_seconds", "Time the last evaluation took")
        self.weights_version = self._gauge("weights_version", "Version of the weights evaluated")
        self.weights_age_seconds = self._gauge("weights_age_seconds", "Time since the weights evaluated were published")
        self.blocked_seconds = self._counter(
            "blocked_seconds",
            "Time spent waiting, by what was waited for",
            ["waiting_for"],
            ["actors", "learner", "coordinator"],
        )


class CoordinatorMetrics(RoleMetrics):
    """The fleet, the weights and the log; and the run's totals, which survive every process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("coordinator", registry)
        self.run_state = self._gauge(
            "run_state", "1 for the state the run is in; collected: all agent steps are taken", ["state"], RUN_STATES
        )
        self.env_steps = self._gauge("env_steps", "Agent steps reported by all actors since the run began")
        self.target_env_steps = self._gauge("target_env_steps", "run.env_steps: agent steps to collect")
        self.updates = self._gauge("updates", "Gradient updates reported by all learners since the run began")
        self.samples_trained = self._gauge("samples_trained", "Samples trained on since the run began")
        self.transitions_inserted = self._gauge("transitions_inserted", "Items all shards have inserted since the run began")
        self.transitions_dropped = self._gauge(
            "transitions_dropped",
            "Items all actors have given up since the run began, and those that were under way in actors which were lost: of "
            "these, no actor counts a reason, and the status has them once more as actor.transitions_dropped.member_lost",
        )
        self.samples_due = self._gauge(
            "samples_due", "Samples that all insertions after warm-up are worth, each at the ratio that held when it was made"
        )
        self.samples_owed = self._gauge(
            "samples_owed",
            "Samples due that the shards' limiters would not admit by their own counts, which a crash set back; corrected when "
            "a shard starts, when the learner does, and at the end",
        )
        self.generation = self._gauge("generation", "Newest complete generation of checkpoints; 0 before the first")
        self.generation_time_seconds = self._gauge("generation_time_seconds", "Unix time when it was committed")
        self.generations = self._counter("generations", "Generations committed")
        self.generations_given_up = self._counter(
            "generations_given_up", "Generations that were not complete when the next was ordered"
        )
        self.generations_refused = self._counter(
            "generations_refused", "Generations gone back to of which a member could not read its part"
        )
        self.timeline = self._gauge("timeline", "Times that the run went back to a generation")
        self.learner_epoch = self._gauge("learner_epoch", "The newest epoch: its holder is the learner, others are refused")
        self.reports_fenced = self._counter("reports_fenced", "Reports refused because their learner had been replaced")
        self.losses_not_finite = self._gauge(
            "losses_not_finite", "Times since the run began that a learner ended because its loss was not finite"
        )
        self.min_replay_size = self._gauge(
            "min_replay_size", "replay.min_size: items over all shards before the first update", unit="transitions"
        )
        self.samples_per_insert_target = self._gauge(
            "samples_per_insert_target", "Batch size x updates per step", unit="samples per transition"
        )
        self.batch_size = self._gauge("batch_size", "learner.batch_size: transitions per update", unit="transitions")
        self.shards_configured = self._gauge("shards_configured", "replay.num_shards: shards that there should be")
        self.live_members = self._gauge("live_members", "Members whose lease holds, by role", ["role"])
        self.leases_expired = self._counter("leases_expired", "Leases that ended for want of a beat, by role", ["role"])
        self.rejoins = self._counter(
            "rejoins",
            "Joins of members that had joined before, by role: their process was restarted, or their lease had ended",
            ["role"],
        )
        self.beats = self._counter("beats", "Beats answered")
        self.weights_published = self._counter("weights_published", "Versions of the weights accepted", unit="versions")
        self.weights_fenced = self._counter("weights_fenced", "Publications refused because their learner had been replaced")
        self.weights_fetched = self._counter("weights_fetched", "Times that weights were sent in full")
        self.weights_version = self._gauge("weights_version", "Newest version of the weights")
        self.weights_age_seconds = self._gauge(
            "weights_age_seconds", "Time since the newest version was published; -1 before the first"
        )
        self.episodes = self._gauge("episodes", "Training episodes in the log")
        self.episodes_refused = self._counter("episodes_refused", "Training episodes left out of it for a number not finite")
        self.episode_return_mean = self._gauge(
            "episode_return_mean",
            "Mean unclipped return of the last 100 training episodes; NaN before any",
            unit="reward",
        )
        self.episode_return_std = self._gauge(
            "episode_return_std", "Standard deviation of the same returns; NaN before the first", unit="reward"
        )
        self.evaluations = self._counter("evaluations", "Evaluations received")
        self.evaluation_return_mean = self._gauge(
            "evaluation_return_mean", "Mean unclipped return of the last evaluation; NaN before the first", unit="reward"
        )
        self.evaluation_env_steps = self._gauge(
            "evaluation_env_steps", "Agent steps of the run when the weights evaluated last were fetched; 0 before the first"
        )
        self.evaluation_interval_env_steps = self._gauge(
            "evaluation_interval_env_steps", "evaluator.interval_env_steps: agent steps between two evaluations"
        )


class ControllerMetrics(RoleMetrics):
    """What the controller sees, would have and does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("controller", registry)
        self.looks = self._counter("looks", "Times that the fleet and its Deployment were looked at")
        self.changes = self._counter(
            "changes", "Times that the number of actors was changed, by reason", ["reason"], SCALE_REASONS
        )
        self.conflicts = self._counter("conflicts", "Changes tried again because something else had written the Deployment")
        self.api_failures = self._counter("api_failures", "Calls that the Kubernetes API did not answer or refused")
        self.coordinator_failures = self._counter("coordinator_failures", "Looks without an answer from the coordinator")
        self.actors_wanted = self._gauge("actors_wanted", "Replicas that the actors' Deployment asks for")
        self.actors_live = self._gauge("actors_live", "Actors whose lease holds")
        self.actors_desired = self._gauge("actors_desired", "Actors that there should be")
        self.load_ratio = self._gauge("load_ratio", "What the learner demands, in parts of what the actors can collect")
        self.learner_waiting_ratio = self._gauge("learner_waiting_ratio", "Part of its time that the learner waits for batches")
        self.actors_blocked_ratio = self._gauge("actors_blocked_ratio", "Part of their time that actors are blocked on replay")
        self.limiter_fill_ratio = self._gauge(
            "limiter_fill_ratio", "0: the limiters hold samples back, for want of transitions; 1: they hold inserts back"
        )
        self.leader = self._gauge("leader", "1 while this process is the one that acts")
        self.held = self._gauge("held", "1 while the fleet cannot be judged, so that its size is left as it is")
        self.limited = self._gauge("limited", "1 while the learner starves and no more actors are allowed")
