"""Impossible combinations are refused when the config is read; unlikely ones get a warning, with the reason."""

import pytest

from sbrl import config
from sbrl.errors import UsageError


@pytest.mark.parametrize(
    ("overrides", "fields", "reason"),
    [
        (["agent.noisy=true"], ["agent.noisy", "agent.exploration"], "noisy layers explore by themselves"),
        (["agent.exploration=noisy-nets"], ["agent.noisy", "agent.exploration"], "nothing would explore"),
        (["agent.epsilon_end=0.5", "agent.epsilon_start=0.1"], ["agent.epsilon_end", "agent.epsilon_start"], "grow"),
        (["agent.algorithm=m-dqn", "agent.double=true"], ["agent.double", "m-dqn"], "softmax policy"),
        (["agent.algorithm=c51", "env.clip_rewards=false"], ["agent.v_max", "ALE/Pong-v5"], "cannot be represented"),
        (["agent.algorithm=c51", "env.id=CartPole-v1"], ["agent.v_max", "CartPole-v1"], "cannot be represented"),
        (["agent.algorithm=c51", "agent.v_min=10"], ["agent.v_min", "agent.v_max"], "no support"),
        (["agent.n_step=4", "agent.n_max=3"], ["agent.n_max", "agent.n_step"], "too short"),
        (["agent.n_step_initial=10", "agent.n_max=5"], ["agent.n_max", "agent.n_step_initial"], "too short"),
        (["agent.spr_weight=5", "agent.n_max=3"], ["agent.n_max", "agent.spr_jumps"], "too short"),
        (["agent.spr_weight=5", "agent.torso=mlp"], ["agent.spr_weight", "agent.torso"], "convolutional"),
        (["learner.random_shift=4", "agent.torso=mlp"], ["learner.random_shift", "agent.torso"], "only images"),
        (["learner.intensity_jitter=0.05", "agent.torso=mlp"], ["learner.intensity_jitter"], "only images"),
        (["agent.n_step_initial=10", "learner.reset_period=10000"], ["learner.reset_period"], "before they ever reached"),
        (["agent.discount_initial=0.97", "learner.reset_period=10000"], ["learner.reset_period"], "before they ever reached"),
        (["agent.algorithm=rainbow"], ["agent.algorithm"], "sbrl presets"),
    ],
)
def test_refused(overrides: list[str], fields: list[str], reason: str):
    with pytest.raises(UsageError) as caught:
        config.load(overrides=overrides)
    message = str(caught.value)
    assert all(field in message for field in fields)
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["agent.algorithm=c51", "env.clip_rewards=false", "agent.v_max=10"], "cannot tell returns above it"),
        (["agent.algorithm=c51", "env.id=CartPole-v1", "agent.v_max=20"], "returns reach 100.0"),
        (["replay.prioritized=false", "replay.importance_weights=true"], "all weights are 1"),
        (["learner.reset_period=40000", "run.env_steps=100000"], "it will never reset"),
        (["agent.algorithm=iqn", "agent.spr_weight=5"], "compares whole latents"),
        (["learner.reset_period=20000", "run.env_steps=110001"], "little left to recover"),
        (["agent.algorithm=m-dqn", "agent.n_step=3"], "first of the n steps"),
        (["env.id=CarRacing-v3", "env.frame_skip=2"], "env.frame_skip is 2 with env.id CarRacing-v3, which is no ALE game"),
        (["env.id=CartPole-v1", "env.noop_max=5"], "env.noop_max is 5"),
        (["env.id=CartPole-v1", "env.repeat_action_probability=0.5"], "env.repeat_action_probability is 0.5"),
        (
            ["env.id=CartPole-v1", "env.terminal_on_life_loss=true", "env.full_action_space=true"],
            "env.terminal_on_life_loss is true and env.full_action_space is true with env.id",
        ),
        (
            ["replay.num_shards=9", "actors.num_actors=2", "actors.envs_per_actor=3"],
            "replay.num_shards is 9, above the 6 environments (actors.num_actors 2 x actors.envs_per_actor 3)",
        ),
    ],
)
def test_warned_of(overrides: list[str], reason: str):
    (warning,) = config.load(overrides=overrides).warnings
    assert reason in warning


def test_ales_settings_that_change_nothing_elsewhere_are_let_be():
    same = ["env.frame_skip=1", "env.repeat_action_probability=0", "env.noop_max=0"]
    assert config.load(overrides=["env.id=CartPole-v1", *same]).warnings == ()


@pytest.mark.parametrize("shards", ["replay.num_shards=6", "replay.num_shards=1"])
def test_as_many_environments_as_shards_are_enough(shards: str):
    assert config.load(overrides=[shards, "actors.num_actors=2", "actors.envs_per_actor=3"]).warnings == ()
    assert (
        config.load(overrides=["replay.num_shards=16", "actors.envs_per_actor=3"]).warnings == ()
    )  # the number of actors is not known


def test_the_support_of_clipped_rewards_is_filled_in():
    agent = config.load(overrides=["agent.algorithm=c51"]).agent
    assert (agent.v_min, agent.v_max) == (-10.0, 10.0)
    agent = config.load(overrides=["agent.algorithm=c51", "agent.v_max=5"]).agent
    assert (agent.v_min, agent.v_max) == (-5.0, 5.0)


def test_items_are_long_enough_for_what_is_read_of_them():
    assert config.load(overrides=["agent.n_step=3", "agent.spr_weight=5"]).agent.stored_steps == 5
    assert config.load(overrides=["agent.n_step=3", "agent.n_step_initial=10"]).agent.stored_steps == 10
    assert config.load(overrides=["agent.n_step=3", "agent.n_max=7"]).agent.stored_steps == 7
