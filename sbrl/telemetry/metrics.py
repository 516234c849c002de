"""Every Prometheus metric of every role, defined once.

Names are sbrl_<role>_<thing>_<unit>; docs/metrics.md lists them.

A role makes its own class with its process's registry and increments the members. `counters` and `gauges` return the same
numbers for the heartbeats to the coordinator, so that the live view and Prometheus always agree.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from sbrl.telemetry.metric_base import RoleMetrics, Totals, export_disk, make_registry

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
LEARNER_STATES = ("filling", "warming", "waiting", "training")
SCALE_REASONS = ("learner_starved", "actors_blocked", "bounds", "run_done")
LEARNER_PHASES = ("wait", "receive", "sample", "update", "publish")
_PHASE_BUCKETS = (0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0)
_LAG_BUCKETS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
_AGE_BUCKETS = (100, 300, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6)


class ActorMetrics(RoleMetrics):
    """env_steps counts the steps that the actors have collected. The learner counts what became of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("actor", registry)
        self.env_steps = self._counter("env_steps", "Agent steps taken over all environments of the process")
        self.frames = self._counter("frames", "Emulator frames played: env.frame_skip a step on Atari, one elsewhere")
        self.episodes = self._counter("episodes", "Training episodes completed")
        self.episodes_dropped = self._counter("episodes_dropped", "Episodes that did not reach the coordinator's log")
        self.episodes_cut = self._counter(
            "episodes_cut", "Episodes dropped from the step on at which the environment returned a bad value (env.on_bad_value)"
        )
        self.transitions_confirmed = self._counter("transitions_confirmed", "Transitions that a shard has confirmed")
        self.transitions_dropped = self._counter(
            "transitions_dropped",
            "Transitions given up before a shard confirmed them, by reason: shard_lost, their shard was away and the stream "
            "went on with another; stopped, the actor ended",
            ["reason"],
            ["shard_lost", "stopped"],
        )
        self.transitions_in_flight = self._gauge("transitions_in_flight", "Transitions collected and not confirmed yet")
        self.streams_moved = self._counter(
            "streams_moved", "Times that an environment's stream went on with another shard", unit="streams"
        )
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
    """After warm-up, received x samples per insert = trained + due. Lost transitions were collected but did not come."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("learner", registry)
        self.updates = self._counter("updates", "Gradient updates made by this process")
        self.network_updates = self._gauge("network_updates", "Gradient updates the network has had since the run began")
        self.samples_trained = self._counter("samples_trained", "Transitions trained on by this process")
        self.samples_due = self._gauge("samples_due", "Samples that may be trained on now and are not yet")
        self.state = self._gauge(
            "state",
            "1 for the state the learner is in: filling its memory from the shards' logs, warming up to replay.min_size, "
            "waiting for transitions, or training",
            ["state"],
            LEARNER_STATES,
        )
        self.segments_received = self._counter("segments_received", "Segments received from the shards", unit="segments")
        self.transitions_received = self._counter(
            "transitions_received", "Transitions received for the first time, by shard", ["shard"]
        )
        self.transitions_duplicate = self._counter(
            "transitions_duplicate", "Transitions that came again and were left out, by shard", ["shard"]
        )
        self.transitions_lost = self._counter(
            "transitions_lost",
            "Transitions that were collected and are missing, by the shard that should have had them",
            ["shard"],
        )
        self.transitions_recovered = self._counter(
            "transitions_recovered", "Transitions counted as lost that arrived after all, by shard", ["shard"]
        )
        self.memory_transitions = self._gauge("memory_transitions", "Transitions in the replay memory")
        self.memory_capacity = self._gauge("memory_capacity", "Transitions the replay memory may hold", unit="transitions")
        self.memory_resident_bytes = self._gauge("memory_resident_bytes", "Bytes that the replay memory occupies now")
        self.memory_filled = self._gauge(
            "memory_filled", "Transitions that the memory was filled with from the shards' logs when the learner began"
        )
        self.term = self._gauge("term", "Term held: the newest one's holder is the learner")
        self.samples_per_insert_target = self._gauge(
            "samples_per_insert_target", "Batch size x updates per step", unit="samples per transition"
        )
        self.samples_per_insert_achieved = self._gauge(
            "samples_per_insert_achieved",
            "Samples trained per transition received after warm-up",
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
            "Time of each phase: waiting for transitions, taking segments into the memory, drawing a batch from Reverb, "
            "a block of updates, handing weights over",
            _PHASE_BUCKETS,
            ["phase"],
            LEARNER_PHASES,
        )
        self.blocked_seconds = self._counter(
            "blocked_seconds", "Time spent waiting, by what was waited for", ["waiting_for"], ["replay"]
        )
        self.shards_ready = self._gauge("shards_ready", "Replay shards that answer")
        self.priority_updates_ignored = self._counter(
            "priority_updates_ignored",
            "Priorities that were not set: their transitions were gone from replay meanwhile, or they were not finite",
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
        self.parameter_norm = self._gauge("parameter_norm", "Norm of all parameters of the online network; NaN until measured")
        self.td_error_newest = self._gauge(
            "td_error_newest", "Mean TD error on the newest 256 transitions; NaN until measured, and with remote sampling"
        )
        self.td_error_uniform = self._gauge(
            "td_error_uniform",
            "Mean TD error on 256 transitions of all replay; NaN until measured, and with remote sampling",
        )
        for diagnostic in (
            *(self.parameter_norm, self.td_error_newest, self.td_error_uniform),
            *(self.gradient_noise_scale, self.gradient_signal, self.gradient_variance),
            *(self.policy_churn_ratio, self.dormant_units_ratio, self.feature_rank),
            *(self.gradient_norm, self.td_error),
        ):
            diagnostic.set(float("nan"))


class ReplayMetrics(RoleMetrics):
    """One shard. Counters begin with this process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("replay", registry)
        self.segments_inserted = self._counter("segments_inserted", "Segments that actors have inserted", unit="segments")
        self.segments_served = self._counter("segments_served", "Segments that the learner has taken", unit="segments")
        self.log_segments = self._gauge("log_segments", "Segments in the log", unit="segments")
        self.log_capacity = self._gauge("log_capacity", "Segments the log may hold", unit="segments")
        self.transitions = self._gauge(
            "transitions",
            "Transitions that can be sampled (replay.sampling=remote), or else those in the log, at most: segments hold fewer "
            "where streams end",
        )
        self.transitions_capacity = self._gauge(
            "transitions_capacity", "Transitions the shard may hold before the oldest go", unit="transitions"
        )
        self.queue_segments = self._gauge("queue_segments", "Segments that wait for the learner", unit="segments")
        self.queue_capacity = self._gauge(
            "queue_capacity", "Segments that may wait for the learner before actors wait", unit="segments"
        )
        self.samples_served = self._counter(
            "samples_served", "Transitions sampled; 0 unless replay is sampled from Reverb (replay.sampling=remote)"
        )
        self.blocked_seconds = self._counter(
            "blocked_seconds",
            "Time that the queue held calls back, by who was waited for",
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
            "Memory the log occupies per transition in it, the program's own left out; 0 while the log is almost empty",
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
    """Results of the frozen evaluation protocol."""

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
    """The fleet, the weights, the log, and the run's totals, which outlive every process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("coordinator", registry)
        self.run_state = self._gauge(
            "run_state", "1 for the state the run is in; collected: all agent steps are taken", ["state"], RUN_STATES
        )
        self.env_steps = self._gauge("env_steps", "Agent steps reported by all actors since the run began")
        self.target_env_steps = self._gauge("target_env_steps", "run.env_steps: agent steps to collect")
        self.updates = self._gauge("updates", "Gradient updates that the run's network has had; NaN before the first learner")
        self.samples_trained = self._gauge("samples_trained", "Samples that the run's network was trained on")
        self.samples_due = self._gauge(
            "samples_due",
            "Samples that the transitions received after warm-up are worth, each at the ratio that held when it came",
        )
        self.transitions_received = self._gauge("transitions_received", "Transitions that the learner has received")
        self.transitions_lost = self._gauge(
            "transitions_lost", "Transitions that were collected and are missing, those that came after all left out"
        )
        self.learner_term = self._gauge("learner_term", "The newest term: its holder is the learner, others are refused")
        self.reports_fenced = self._counter("reports_fenced", "Reports refused because their learner had been replaced")
        self.losses_not_finite = self._gauge(
            "losses_not_finite", "Times since the run began that a learner ended because its loss was not finite"
        )
        self.min_replay_size = self._gauge(
            "min_replay_size", "replay.min_size: transitions received before the first update", unit="transitions"
        )
        self.samples_per_insert_target = self._gauge(
            "samples_per_insert_target", "Batch size x updates per step", unit="samples per transition"
        )
        self.batch_size = self._gauge("batch_size", "learner.batch_size: transitions per update", unit="transitions")
        self.shards_configured = self._gauge("shards_configured", "replay.num_shards: shards that there should be")
        self.live_members = self._gauge("live_members", "Members whose lease holds, by role", ["role"])
        self.leases_expired = self._counter("leases_expired", "Leases that ended because no heartbeat came, by role", ["role"])
        self.rejoins = self._counter(
            "rejoins",
            "Joins of members that had joined before, by role: their process was restarted, or their lease had ended",
            ["role"],
        )
        self.heartbeats = self._counter("heartbeats", "Heartbeats answered")
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
    """The controller's measurements, decisions and actions."""

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
        self.queue_fill_ratio = self._gauge(
            "queue_fill_ratio", "0: the queues are empty, and the learner takes what comes; 1: they are full, and actors wait"
        )
        self.leader = self._gauge("leader", "1 while this process is the one that acts")
        self.held = self._gauge("held", "1 while the fleet cannot be judged, so that its size is left as it is")
        self.limited = self._gauge("limited", "1 while the learner starves and no more actors are allowed")
