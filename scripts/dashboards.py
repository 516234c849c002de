"""Writes the Grafana dashboards of deploy/dashboards/, panel by panel: `python -m scripts.dashboards`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.grafana import Panel, dashboard, stat, value_mappings

DIRECTORY = Path(__file__).resolve().parent.parent / "deploy" / "dashboards"
STATE_COLORS = {"filling": "purple", "warming": "blue", "waiting": "yellow", "training": "green"}
RUN = 'namespace="$namespace", release="$release"'


def overview() -> list[list[Panel]]:
    """For decision makers: results, cost, and the run's health."""
    states = value_mappings({0: ("not running", "text"), 1: ("running", "green")})
    firing = f'max by (alertname) (ALERTS{{alertstate="firing", {RUN}}})'
    achieved = f"release:sbrl_samples_per_insert:achieved{{{RUN}}}"
    target = f"max(sbrl_coordinator_samples_per_insert_target{{{RUN}}})"
    collected = f"max(sbrl_coordinator_env_steps{{{RUN}}})"
    cpu = f'process_cpu_seconds_total{{component=~".+", {RUN}}}'
    return [
        [
            stat("Run", f"release:sbrl_run:running{{{RUN}}}", mappings=states),
            stat(
                "Alerts firing",
                f'count(ALERTS{{alertstate="firing", {RUN}}}) or vector(0)',
                thresholds=[(None, "green"), (1, "red")],
            ),
            stat("Collected", f"{collected} / max(sbrl_coordinator_target_env_steps{{{RUN}}})", "percentunit"),
            stat("Return, last 100 episodes", f"max(sbrl_coordinator_episode_return_mean{{{RUN}}})"),
            stat("Return, last evaluation", f"max(sbrl_coordinator_evaluation_return_mean{{{RUN}}})"),
            stat("Ratio, off target", f"max({achieved}) / {target} - 1", "percentunit"),
        ],
        [
            Panel(
                "Return",
                {
                    "training, last 100 episodes": f"max(sbrl_coordinator_episode_return_mean{{{RUN}}})",
                    "evaluation": f"max(sbrl_coordinator_evaluation_return_mean{{{RUN}}})",
                    "best of a day": f"max(release:sbrl_return:best1d{{{RUN}}})",
                },
                description="Unclipped. Training returns are lower than evaluated ones while actors explore.",
                width=12,
            ),
            Panel(
                "Samples per insert",
                {"achieved": f"max({achieved})", "target": target},
                description="How often a transition is trained on: the ratio that the learner holds.",
                width=12,
            ),
        ],
        [
            Panel(
                "Speed",
                {
                    "env steps": f"sum(release:sbrl_env_steps:rate5m{{{RUN}}})",
                    "frames": f"sum(release:sbrl_frames:rate5m{{{RUN}}})",
                    "updates": f"sum(release:sbrl_updates:rate5m{{{RUN}}})",
                },
                "cps",
            ),
            Panel(
                "Processes alive",
                {"{{role}}": f"max by (role) (sbrl_coordinator_live_members{{{RUN}}})"},
                description="Members of the fleet whose lease holds.",
            ),
            Panel(
                "Alerts firing",
                {"{{alertname}}": f'{firing} or on () label_replace(vector(0), "alertname", "none", "", "")'},
                kind="state-timeline",
                mappings=value_mappings({0: ("quiet", "green"), 1: ("firing", "red")}),
                description="docs/runbook.md says what each means.",
            ),
        ],
        [
            Panel("CPU cores in use", {"{{component}}": f"sum by (component) (rate(process_cpu_seconds_total{{{RUN}}}[5m]))"}),
            Panel(
                "Core-hours a million frames",
                {"at the current pace": f"sum(rate({cpu}[5m])) / sum(release:sbrl_frames:rate5m{{{RUN}}} > 0) * 1e6 / 3600"},
                description="What a million frames cost now. Times the price of a core-hour it is money; a GPU comes on top.",
            ),
            Panel("Memory", {"{{component}}": f"sum by (component) (process_resident_memory_bytes{{{RUN}}})"}, "bytes"),
        ],
    ]


def data_flow() -> list[list[Panel]]:
    """Which role waits for which, and where transitions are."""
    waiting = "Near 100 % all the time: the other side is the bottleneck."
    # A single number: the state with the value 1.
    states = " + ".join(
        f'{number} * max by (pod) (sbrl_learner_state{{state="{state}", {RUN}}})'
        for number, (state, _) in enumerate(STATE_COLORS.items())
    )
    return [
        [
            Panel(
                "Share of time waiting",
                {
                    "learner, for actors": f"max(release:sbrl_learner_waiting:ratio5m{{{RUN}}})",
                    "actors, for replay": f"max(release:sbrl_actors_waiting:ratio5m{{{RUN}}})",
                    "actors, for the coordinator": (
                        f'avg(rate(sbrl_actor_blocked_seconds_total{{waiting_for="coordinator", {RUN}}}[5m]))'
                    ),
                },
                "percentunit",
                description=waiting,
            ),
            Panel(
                "Share of time that queues hold calls back",
                {
                    "{{pod}}, for the {{waiting_for}}": (
                        f"sum by (pod, waiting_for) (rate(sbrl_replay_blocked_seconds_total{{{RUN}}}[5m]))"
                    )
                },
                "percentunit",
            ),
            Panel(
                "What the learner does",
                {"{{pod}}": states},
                kind="state-timeline",
                mappings=value_mappings(dict(enumerate(STATE_COLORS.items()))),
                description="Yellow: it waits for transitions; purple: it fills its memory from the logs after a restart.",
            ),
        ],
        [
            Panel(
                "Segments through the shards",
                {
                    "{{pod}}, written": f"sum by (pod) (rate(sbrl_replay_segments_inserted_total{{{RUN}}}[5m]))",
                    "{{pod}}, read": f"sum by (pod) (rate(sbrl_replay_segments_served_total{{{RUN}}}[5m]))",
                },
                "cps",
                description="A segment is 32 steps of one environment.",
            ),
            Panel(
                "Transitions received",
                {"shard {{shard}}": f"sum by (shard) (rate(sbrl_learner_transitions_received_total{{{RUN}}}[5m]))"},
                "cps",
            ),
            Panel(
                "Lost",
                {
                    "lost, shard {{shard}}": f"sum by (shard) (rate(sbrl_learner_transitions_lost_total{{{RUN}}}[5m]))",
                    "arrived after all, shard {{shard}}": (
                        f"sum by (shard) (rate(sbrl_learner_transitions_recovered_total{{{RUN}}}[5m]))"
                    ),
                    "came twice, shard {{shard}}": (
                        f"sum by (shard) (rate(sbrl_learner_transitions_duplicate_total{{{RUN}}}[5m]))"
                    ),
                },
                "cps",
                description="Zero, but for crashes of a shard or an actor.",
            ),
        ],
        [
            Panel(
                "In flight",
                {
                    "transitions to replay": f"sum(sbrl_actor_transitions_in_flight{{{RUN}}})",
                    "samples due and not trained": learners("samples_due"),
                },
            ),
            Panel(
                "Age of the weights acted with",
                {
                    "oldest actor": f"max(sbrl_actor_weights_age_seconds{{{RUN}}})",
                    "evaluator": f"max(sbrl_evaluator_weights_age_seconds{{{RUN}}})",
                    "newest published": f"max(sbrl_coordinator_weights_age_seconds{{{RUN}}} >= 0)",
                },
                "s",
            ),
            Panel(
                "Versions of the weights",
                {
                    "coordinator": f"max(sbrl_coordinator_weights_version{{{RUN}}})",
                    "slowest actor": f"min(sbrl_actor_weights_version{{{RUN}}})",
                    "evaluator": f"max(sbrl_evaluator_weights_version{{{RUN}}})",
                },
            ),
        ],
        [
            Panel(
                "Policy lag when looking for weights",
                {"worst actor": f"max(sbrl_actor_policy_lag_versions{{{RUN}}})"},
                description="Versions an actor was behind when it looked for newer ones.",
                width=6,
            ),
            Panel(
                "Episodes a minute",
                {"all actors": f"sum(rate(sbrl_actor_episodes_total{{{RUN}}}[5m])) * 60"},
                width=6,
            ),
            Panel(
                "Came back, in the last hour",
                {"{{role}}": f"sum by (role) (increase(sbrl_coordinator_rejoins_total{{{RUN}}}[1h]))"},
                description="Processes that were restarted, or whose lease had ended.",
                width=6,
            ),
            Panel(
                "Return of the last episodes",
                {"{{group}}": f'label_replace(group:sbrl_episode_return:avg{{{RUN}}}, "group", "all actors", "group", "")'},
                description="By group of actors, where there are groups.",
                width=6,
            ),
        ],
    ]


def learners(metric: str) -> str:
    """The query of one of the learner's metrics."""
    return f"max(sbrl_learner_{metric}{{{RUN}}})"


def learner() -> list[list[Panel]]:
    """Where an update's time goes, and the effects of a small batch."""
    phases = f"sum by (le, phase) (rate(sbrl_learner_phase_seconds_bucket{{{RUN}}}[5m]))"
    age = f"sum by (le) (rate(sbrl_learner_sample_age_env_steps_bucket{{{RUN}}}[15m]))"
    lag = f"sum by (le) (rate(sbrl_learner_policy_lag_versions_bucket{{{RUN}}}[15m]))"
    return [
        [
            stat("Updates a second", f"sum(release:sbrl_updates:rate5m{{{RUN}}})", "cps"),
            stat("Batch size", learners("batch_size")),
            stat("Updates per step, target", learners("updates_per_step_target")),
            stat("Updates made", f"max(sbrl_coordinator_updates{{{RUN}}})"),
            stat("Shards that answer", learners("shards_ready")),
            stat("GPU memory", learners("gpu_memory_bytes"), "bytes"),
        ],
        [
            Panel(
                "Share of time by phase",
                {
                    "{{phase}}": f"release:sbrl_learner_phase:ratio5m{{{RUN}}}",
                    "diagnostics, part of update": f"max(rate(sbrl_learner_diagnostics_seconds_total{{{RUN}}}[15m]))",
                },
                "percentunit",
                description="wait for transitions, take segments into the memory, draw a batch, update, hand weights over.",
            ),
            Panel("Median time of a phase", {"{{phase}}": f"histogram_quantile(0.5, {phases})"}, "s"),
            Panel("99th percentile of a phase", {"{{phase}}": f"histogram_quantile(0.99, {phases})"}, "s"),
        ],
        [
            Panel("Loss", {"loss": learners("loss")}),
            Panel(
                "Temporal difference error",
                {
                    "of a batch": learners("td_error"),
                    "of the newest transitions": learners("td_error_newest"),
                    "of all replay": learners("td_error_uniform"),
                },
                description="Mean absolute. Higher on the newest than on all: the network fits what it has seen often.",
            ),
            Panel("Gradient norm", {"before clipping": learners("gradient_norm")}),
        ],
        [
            Panel(
                "Gradient noise scale",
                {"noise scale": learners("gradient_noise_scale"), "batch size": learners("batch_size")},
                description="The batch size at which a gradient's noise equals its signal: far below it, steps are noise.",
                width=6,
            ),
            Panel(
                "Policy churn",
                {"share of states": learners("policy_churn_ratio")},
                "percentunit",
                description="Share of states whose greedy action a single update changed.",
                width=6,
            ),
            Panel(
                "Dormant units",
                {"share of units": learners("dormant_units_ratio")},
                "percentunit",
                description="Units that hardly ever fire: what a network has lost for good without resets.",
                width=6,
            ),
            Panel(
                "Effective rank of the features",
                {"srank": learners("feature_rank")},
                description="How many directions the features use; a fall precedes a collapse of the return.",
                width=6,
            ),
        ],
        [
            Panel(
                "Age of samples, in env steps",
                {"median": f"histogram_quantile(0.5, {age})", "95th percentile": f"histogram_quantile(0.95, {age})"},
            ),
            Panel(
                "Policy lag of samples, in versions",
                {"median": f"histogram_quantile(0.5, {lag})", "95th percentile": f"histogram_quantile(0.95, {lag})"},
            ),
            Panel(
                "Checkpoints",
                {"age": learners("checkpoint_age_seconds"), "time the last one took": learners("checkpoint_duration_seconds")},
                "s",
            ),
        ],
    ]


def replay() -> list[list[Panel]]:
    """Each shard: fill, memory and checkpoints."""
    return [
        [
            Panel(
                "Transitions",
                {
                    "{{pod}}": f"max by (pod) (sbrl_replay_transitions{{{RUN}}})",
                    "capacity of one": f"32 * max(sbrl_replay_log_capacity{{{RUN}}})",
                },
            ),
            Panel(
                "Memory",
                {
                    "{{pod}}": f"max by (pod) (sbrl_replay_memory_used_bytes{{{RUN}}})",
                    "limit of one": f"min(sbrl_replay_memory_limit_bytes{{{RUN}}})",
                },
                "bytes",
            ),
            Panel(
                "Bytes a transition",
                {"{{pod}}": f"max by (pod) (sbrl_replay_bytes_per_transition{{{RUN}}})"},
                "bytes",
                description="Times the capacity, this is what a full shard needs.",
            ),
        ],
        [
            Panel(
                "Queues",
                {
                    "{{pod}}": f"max by (pod) (sbrl_replay_queue_segments{{{RUN}}})",
                    "full": f"max(sbrl_replay_queue_capacity{{{RUN}}})",
                },
                description="Segments that wait for the learner. Full: actors wait.",
            ),
            Panel(
                "Logs",
                {
                    "{{pod}}": f"max by (pod) (sbrl_replay_log_segments{{{RUN}}})",
                    "full": f"max(sbrl_replay_log_capacity{{{RUN}}})",
                },
                description="Segments that the learner's memory is filled from after a restart.",
            ),
            Panel(
                "The learner's memory",
                {"transitions": learners("memory_transitions"), "capacity": learners("memory_capacity")},
            ),
        ],
        [
            Panel(
                "Age of the last checkpoint", {"{{pod}}": f"max by (pod) (sbrl_replay_checkpoint_age_seconds{{{RUN}}})"}, "s"
            ),
            Panel(
                "Time a checkpoint takes",
                {"{{pod}}": f"max by (pod) (sbrl_replay_checkpoint_duration_seconds{{{RUN}}})"},
                "s",
            ),
            Panel(
                "Checkpoints in the last hour",
                {
                    "{{pod}} written": f"sum by (pod) (increase(sbrl_replay_checkpoints_total{{{RUN}}}[1h]))",
                    "{{pod}} failed": f"sum by (pod) (increase(sbrl_replay_checkpoint_failures_total{{{RUN}}}[1h]))",
                },
            ),
        ],
        [
            Panel(
                "Disk left",
                {"{{pod}}": f"pod:sbrl_disk_free:ratio{{{RUN}}}"},
                "percentunit",
                width=12,
            ),
            Panel(
                "CPU cores in use",
                {"{{pod}}": f'sum by (pod) (rate(process_cpu_seconds_total{{component="replay", {RUN}}}[5m]))'},
                width=12,
            ),
        ],
    ]


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard by file name."""
    return {
        "overview.json": dashboard("sbrl-overview", "SBRL / Overview", overview()),
        "data-flow.json": dashboard("sbrl-data-flow", "SBRL / Data flow", data_flow()),
        "learner.json": dashboard("sbrl-learner", "SBRL / Learner and small-batch diagnostics", learner()),
        "replay.json": dashboard("sbrl-replay", "SBRL / Replay", replay()),
    }


if __name__ == "__main__":
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for file, model in dashboards().items():
        (DIRECTORY / file).write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
