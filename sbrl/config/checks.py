"""Rules across the keys of a config: which combinations are refused, which ones get a warning, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError, create_model

from sbrl.config.agents import find_algorithm
from sbrl.config.errors import explain
from sbrl.errors import plain, shown

if TYPE_CHECKING:
    from sbrl.config.tree import Config


def check(config: Config) -> None:
    """Checks a complete config, in the order of its sections.

    Raises:
        ValueError: the first broken rule, with the keys, their values, the consequence and the remedy.
    """
    _check_environment(config)
    _check_steps(config)
    _check_exploration(config)
    _check_algorithm(config)
    _check_options(config)
    _check_images(config)
    _check_resets(config)
    _check_replay(config)
    _check_precision(config)
    _check_addresses(config)


def warn(config: Config) -> tuple[str, ...]:
    """One sentence for each setting that is allowed but rarely intended."""
    return tuple(
        sentence
        for rule in (
            _warn_environment,
            _warn_support,
            _warn_munchausen,
            _warn_self_prediction,
            _warn_weights,
            _warn_shards,
            _warn_resets,
        )
        for sentence in rule(config)
    )


def _check_environment(config: Config) -> None:
    if config.env.is_atari and config.env.kwargs:
        raise ValueError(
            f"env.kwargs is {config.env.kwargs} with env.id {config.env.id}: ALE games are not made by gymnasium.make, their "
            f"settings are the other keys of env; leave env.kwargs out"
        )


def _check_steps(config: Config) -> None:
    agent = config.agent
    if agent.n_max is None:
        return
    needs = {"agent.n_step": agent.n_step, "agent.n_step_initial": agent.n_step_initial or 0, "agent.spr_jumps": agent.jumps}
    for key, steps in needs.items():
        if agent.n_max < steps:
            raise ValueError(
                f"agent.n_max is {agent.n_max}, below {key} {steps}: what is stored would be too short "
                f"for the target; set agent.n_max={steps} or more, or leave it unset"
            )


def _check_exploration(config: Config) -> None:
    agent = config.agent
    if agent.noisy and agent.exploration != "noisy-nets":
        raise ValueError(
            f"agent.noisy is true but agent.exploration is {agent.exploration}: noisy layers explore by themselves, and random "
            f"actions on top would hide what they learn; set agent.exploration=noisy-nets, or agent.noisy=false"
        )
    if agent.exploration == "noisy-nets" and not agent.noisy:
        raise ValueError(
            "agent.exploration is noisy-nets but agent.noisy is false: without noisy layers nothing would explore after "
            "replay.min_size steps; set agent.noisy=true, or agent.exploration=linear-epsilon"
        )
    if agent.exploration == "linear-epsilon" and agent.epsilon_end > agent.epsilon_start:
        raise ValueError(
            f"agent.epsilon_end is {plain(agent.epsilon_end)}, above agent.epsilon_start {plain(agent.epsilon_start)}: "
            f"exploration would grow while the agent learns; swap them"
        )


def _check_algorithm(config: Config) -> None:
    agent = config.agent
    if agent.algorithm == "m-dqn" and agent.double:
        raise ValueError(
            "agent.double is true with agent.algorithm m-dqn: its target is an expectation over the softmax policy, so there "
            "is no greedy action for the online network to choose; set agent.double=false"
        )
    if agent.algorithm != "c51":
        return
    if agent.v_max is None or agent.v_min is None:
        raise ValueError(
            f"agent.v_max is unset with agent.algorithm c51, and the rewards of {config.env.id} are not clipped: returns above "
            f"v_max cannot be represented, and how large they get is not known; set agent.v_max to the largest discounted "
            f"return (at most {largest_return(config):.0f} if no reward is above 1), or env.clip_rewards=true"
        )
    if agent.v_min >= agent.v_max:
        raise ValueError(
            f"agent.v_min is {plain(agent.v_min)}, not below agent.v_max {plain(agent.v_max)}: the return distribution "
            f"would have no support; lower v_min or raise v_max"
        )


def _check_options(config: Config) -> None:
    """Only agents of other packages have options. The package defines which ones are valid."""
    agent, algorithm = config.agent, find_algorithm(config.agent.algorithm)
    model = algorithm.options if algorithm is not None else None
    if model is None and agent.options:
        raise ValueError(
            f"agent.options is {shown(agent.options)} with agent.algorithm {agent.algorithm}, which has none: its settings, if "
            f"any, are keys of agent; leave agent.options out"
        )
    if model is not None:
        tree = create_model("Options", **{"agent.options": (model, ...)})  # type: ignore[call-overload]
        try:
            tree.model_validate({"agent.options": agent.options or {}})
        except ValidationError as error:
            raise ValueError(explain(error, tree, f"the documentation of {agent.algorithm}")) from None


def _check_images(config: Config) -> None:
    """Self-prediction and image augmentation need images. torso=auto is not checked here: it depends on the environment."""
    if config.agent.torso != "mlp":
        return
    for key, value, why in (
        ("agent.spr_weight", config.agent.spr_weight, "self-prediction's transition model is convolutional"),
        ("learner.random_shift", config.learner.random_shift, "only images can be shifted"),
        ("learner.intensity_jitter", config.learner.intensity_jitter, "only images have a brightness"),
    ):
        if value:
            raise ValueError(f"{key} is {plain(value)} with agent.torso mlp: {why}; set {key}=0, or another torso")


def _check_resets(config: Config) -> None:
    learner, agent = config.learner, config.agent
    anneals = agent.n_step_initial is not None or agent.discount_initial is not None
    if learner.reset_period is not None and learner.reset_period <= agent.anneal_updates and anneals:
        raise ValueError(
            f"learner.reset_period is {learner.reset_period}, not above agent.anneal_updates {agent.anneal_updates}: n and the "
            f"discount would start again before they ever reached their final values; raise learner.reset_period or lower "
            f"agent.anneal_updates"
        )


def _check_replay(config: Config) -> None:
    replay, min_size = config.replay, config.min_replay_size
    if min_size < replay.num_shards:
        raise ValueError(
            f"replay.min_size is {min_size}, below replay.num_shards {replay.num_shards}: training would begin before every "
            f"shard has a transition; raise replay.min_size or lower replay.num_shards"
        )
    if config.run.env_steps <= min_size:
        raise ValueError(
            f"run.env_steps is {config.run.env_steps}, not above replay.min_size {min_size}: the run would end before "
            f"its first update; raise run.env_steps or lower replay.min_size"
        )
    if replay.capacity < min_size:
        raise ValueError(
            f"replay.capacity is {replay.capacity}, below replay.min_size {min_size}: the first update would wait "
            f"for ever; raise replay.capacity or lower replay.min_size"
        )
    if replay.recency_horizon is not None and (replay.prioritized or replay.sampling != "cached"):
        raise ValueError(
            f"replay.recency_horizon is {replay.recency_horizon} with replay.prioritized {str(replay.prioritized).lower()} and "
            f"replay.sampling {replay.sampling}: age or priority can decide, and Reverb samples by no age; set "
            f"replay.prioritized=false replay.sampling=cached, or leave replay.recency_horizon unset"
        )
    least = 1 / config.learner.updates_per_step
    if replay.ahead is not None and replay.ahead < least:
        raise ValueError(
            f"replay.ahead is {plain(replay.ahead)}, below {plain(least)} (1 / learner.updates_per_step): the learner would "
            f"wait for ever for the transitions of its next update; raise it or leave it unset"
        )


def _check_precision(config: Config) -> None:
    learner = config.learner
    if learner.precision == "tf32" and learner.device == "cpu":
        raise ValueError(
            "learner.precision is tf32 with learner.device cpu: only CUDA has it; set learner.device=cuda, or "
            "learner.precision=float32 or bfloat16"
        )


def _check_addresses(config: Config) -> None:
    addresses, num_shards = config.network.replay_addresses, config.replay.num_shards
    if addresses and len(addresses) != num_shards:
        raise ValueError(
            f"network.replay_addresses has length {len(addresses)} but replay.num_shards is {num_shards}: shards would be "
            f"missing or idle; give one address for each shard, or none to let a local run choose"
        )
    if len(set(addresses)) != len(addresses):
        raise ValueError(
            "network.replay_addresses names an address twice: two shards would share one server; give each its own"
        )


# Settings that only ALE games have, each with the value at which it does nothing. Presets and defaults may have other values.
_ALE_ONLY: Mapping[str, object] = {
    "frame_skip": 1,
    "repeat_action_probability": 0.0,
    "noop_max": 0,
    "terminal_on_life_loss": False,
    "full_action_space": False,
}


def _warn_environment(config: Config) -> list[str]:
    if config.env.is_atari:
        return []
    defaults = type(config.env)()
    values = {key: getattr(config.env, key) for key in _ALE_ONLY}
    asked = [
        f"env.{key} is {str(value).lower()}"
        for key, value in values.items()
        if value not in (_ALE_ONLY[key], getattr(defaults, key))
    ]
    if not asked:
        return []
    return [
        f"{' and '.join(asked)} with env.id {config.env.id}, which is no ALE game: that changes nothing; leave it out, or wrap "
        f"the environment where it is registered (gymnasium.wrappers.RepeatAction, gymnasium.wrappers.StickyAction)"
    ]


def _warn_support(config: Config) -> list[str]:
    agent, bound = config.agent, largest_return(config)
    if agent.algorithm != "c51" or config.env.clips_rewards or agent.v_max is None:
        return []
    if config.env.is_atari:
        return [
            f"rewards of {config.env.id} are not clipped, and agent.v_max is {plain(agent.v_max)}: C51 cannot tell returns "
            f"above it from v_max itself; set env.clip_rewards=true, or an algorithm without a fixed support such as qr-dqn"
        ]
    if agent.v_max < bound:
        return [
            f"agent.v_max is {plain(agent.v_max)}, and rewards are not clipped: with 1 a step returns reach {bound:.1f}, and "
            f"C51 cannot tell those above v_max from v_max itself; raise agent.v_max if {config.env.id} pays that much"
        ]
    return []


def _warn_munchausen(config: Config) -> list[str]:
    if config.agent.algorithm == "m-dqn" and config.agent.n_step > 1:
        return [
            f"agent.n_step is {config.agent.n_step} with agent.algorithm m-dqn: the log-policy is added to the reward of the "
            f"first of the n steps only, for the others' actions are not judged again; it is published with agent.n_step=1"
        ]
    return []


def _warn_self_prediction(config: Config) -> list[str]:
    if config.agent.algorithm == "iqn" and config.agent.predicts_itself:
        return [
            f"agent.spr_weight is {plain(config.agent.spr_weight)} with agent.algorithm iqn, whose dense layer comes after the "
            f"quantile fractions: self-prediction compares whole latents, and its predictor is as large as their square"
        ]
    return []


def _warn_weights(config: Config) -> list[str]:
    if config.replay.importance_weights and not config.replay.prioritized and config.replay.recency_horizon is None:
        return ["replay.importance_weights is true but replay.prioritized is false: sampled uniformly, all weights are 1"]
    return []


def _warn_shards(config: Config) -> list[str]:
    """Environments are spread over the shards, and each writes to one shard at a time: see actors.segment_stream."""
    actors, num_shards = config.actors, config.replay.num_shards
    if actors.num_actors is None or num_shards <= (num_envs := actors.num_actors * actors.envs_per_actor):
        return []
    return [
        f"replay.num_shards is {num_shards}, above the {num_envs} environments (actors.num_actors {actors.num_actors} x "
        f"actors.envs_per_actor {actors.envs_per_actor}), each of which writes to one shard: {num_shards - num_envs} would "
        f"stay empty; lower replay.num_shards, or have more environments"
    ]


def _warn_resets(config: Config) -> list[str]:
    learner = config.learner
    updates = (config.run.env_steps - config.min_replay_size) * learner.updates_per_step
    if learner.reset_period is not None and learner.reset_period >= updates:
        return [
            f"learner.reset_period is {learner.reset_period}, but the run has {updates:.0f} updates: it will never reset; "
            f"lower it, or leave it unset"
        ]
    return _warn_last_reset(config, updates)


def _warn_last_reset(config: Config, updates: float) -> list[str]:
    learner = config.learner
    if learner.reset_period is None:
        return []
    end = updates
    if learner.no_resets_after_env_steps is not None:
        end = min(updates, (learner.no_resets_after_env_steps - config.min_replay_size) * learner.updates_per_step)
    last = (math.ceil(end / learner.reset_period) - 1) * learner.reset_period  # there is no reset at the end itself
    if last > 0 and updates - last < learner.reset_period / 4:
        return [
            f"the last reset follows update {last} of {updates:.0f}: there is little left to recover in; lower "
            f"learner.no_resets_after_env_steps, or change learner.reset_period"
        ]
    return []


def largest_return(config: Config) -> float:
    """The discounted return of reward 1 at every step of the longest episode."""
    discount = config.agent.discount
    return float((1 - discount**config.env.max_episode_steps) / (1 - discount))
