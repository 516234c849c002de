"""The presets have their sources' published values, and all are usable as they are."""

import pytest

from sbrl import config
from sbrl.config.presets import DEFAULT_PRESET, PRESETS

ATARI = ("dqn", "double-dqn", "dueling-dqn", "c51", "qr-dqn", "iqn", "m-dqn", "rainbow", "full-rainbow")
ATARI_100K = ("der", "drq-eps", "spr", "sr-spr", "bbf")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_without_a_warning(name: str):
    assert config.load(preset=name).warnings == ()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_is_and_where_from(name: str):
    assert PRESETS[name].description
    assert PRESETS[name].source


def test_the_default_is_the_papers_and_its_baseline_dopamines():
    small, baseline = config.load(), config.load(preset="dopamine-qr-dqn")
    assert DEFAULT_PRESET == "small-batch"
    assert (small.learner.batch_size, small.agent.n_step, small.samples_per_insert) == (8, 3, 2.0)
    assert (baseline.learner.batch_size, baseline.agent.n_step, baseline.samples_per_insert) == (32, 3, 8.0)
    assert (small.learner.learning_rate, baseline.learner.learning_rate) == (1e-4, 5e-5)
    same = small.model_copy(update={"learner": baseline.learner})
    assert same == baseline  # they differ only in batch and step size


def test_the_default_preset_is_the_config_without_one():
    assert config.load() == config.build({})


@pytest.mark.parametrize("name", ATARI)
def test_the_small_batch_version_differs_in_nothing_but_the_batch(name: str):
    large, small = (config.load(preset=preset).model_dump() for preset in (name, f"small-batch-{name}"))
    assert (large["learner"].pop("batch_size"), small["learner"].pop("batch_size")) == (32, 8)
    assert large == small


# Learning rate, Adam's epsilon, n, prioritized, weights applied: dopamine/jax/agents/*/configs/*.gin.
@pytest.mark.parametrize(
    ("name", "learning_rate", "adam_epsilon", "n_step", "prioritized", "weights"),
    [
        ("dqn", 6.25e-5, 1.5e-4, 1, False, False),
        ("c51", 2.5e-4, 3.125e-4, 1, False, False),
        ("qr-dqn", 5e-5, 3.125e-4, 3, True, False),
        ("iqn", 5e-5, 3.125e-4, 3, False, False),
        ("rainbow", 6.25e-5, 1.5e-4, 3, True, True),
        ("full-rainbow", 6.25e-5, 1.5e-4, 3, True, True),
    ],
)
def test_dopamines_values(name: str, learning_rate: float, adam_epsilon: float, n_step: int, prioritized: bool, weights: bool):
    preset = config.load(preset=name)
    learner, replay, agent = preset.learner, preset.replay, preset.agent
    assert (learner.learning_rate, learner.adam_epsilon, agent.n_step) == (learning_rate, adam_epsilon, n_step)
    assert (replay.prioritized, replay.importance_weights) == (prioritized, weights)
    assert (learner.batch_size, learner.updates_per_step, learner.target_update_period) == (32, 0.25, 2_000)
    assert (replay.capacity, replay.min_size, agent.discount) == (1_000_000, 20_000, 0.99)
    assert (agent.epsilon_end, agent.epsilon_decay_steps, preset.evaluator.epsilon) == (0.01, 250_000, 0.001)
    assert (preset.env.repeat_action_probability, preset.env.terminal_on_life_loss) == (0.25, False)
    if agent.algorithm == "c51":
        assert (agent.num_atoms, agent.v_min, agent.v_max) == (51, -10.0, 10.0)


# Updates per step, samples per insert, minimum replay, target period and rate: the gin files of Dopamine's and BBF's authors.
@pytest.mark.parametrize(
    ("name", "updates_per_step", "samples_per_insert", "min_size", "period", "rate"),
    [
        ("der", 1, 32, 1_600, 2_000, 1.0),
        ("drq-eps", 1, 32, 1_600, 1, 1.0),
        ("spr", 2, 64, 2_000, 1, 1.0),
        ("sr-spr", 8, 256, 2_000, 1, 0.005),
        ("bbf", 2, 64, 2_000, 1, 0.005),
    ],
)
def test_the_100k_agents(
    name: str, updates_per_step: float, samples_per_insert: float, min_size: int, period: int, rate: float
):
    preset = config.load(preset=name)
    learner, agent = preset.learner, preset.agent
    assert (learner.batch_size, learner.updates_per_step, preset.samples_per_insert) == (
        32,
        updates_per_step,
        samples_per_insert,
    )
    assert (preset.replay.min_size, learner.target_update_period, learner.target_update_rate) == (min_size, period, rate)
    assert (learner.learning_rate, learner.adam_epsilon) == (1e-4, 1.5e-4)
    assert preset.run.env_steps == 100_000
    assert (preset.env.repeat_action_probability, preset.env.terminal_on_life_loss) == (0.0, True)
    assert (agent.dueling, agent.double) == (True, True)
    assert max(agent.n_step, agent.n_step_initial or 0) == 10
    assert (agent.spr_weight, agent.spr_jumps) == ((5.0, 5) if "spr" in name or name == "bbf" else (0.0, 5))
    assert (learner.random_shift, learner.intensity_jitter) == ((0, 0.0) if name == "der" else (4, 0.05))


def test_bbf_and_sr_spr_reset_as_published():
    bbf, sr_spr = config.load(preset="bbf"), config.load(preset="sr-spr")
    for preset, keep in ((bbf, 0.5), (sr_spr, 0.8)):
        learner = preset.learner
        assert (learner.reset_period, learner.reset_encoder_keep, learner.no_resets_after_env_steps) == (40_000, keep, 100_000)
        assert preset.agent.act_with_target
    assert (bbf.agent.torso, bbf.agent.width_scale, bbf.agent.hidden_size, bbf.learner.weight_decay) == (
        "impala",
        4,
        2_048,
        0.1,
    )
    assert (bbf.agent.n_step_initial, bbf.agent.n_step, bbf.agent.discount_initial, bbf.agent.discount) == (10, 3, 0.97, 0.997)


@pytest.mark.parametrize("name", [*ATARI_100K, *(f"minatar-{name}" for name in ("dqn", "qr-dqn", "rainbow", "bbf"))])
def test_the_sources_presets_are_there(name: str):
    assert name in PRESETS
