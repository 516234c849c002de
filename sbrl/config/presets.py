"""Named settings (presets). Each holds only the differences from the defaults.

The defaults are Dopamine's QR-DQN with batch 8 and twice the step size.

The values of the Atari agents are from Dopamine's configuration files (its JAX agents). Dopamine counts some periods in agent
steps. They are counted in updates here: a target copied every 8,000 steps at 0.25 updates per step is copied every 2,000
updates. Two things differ on purpose. Noisy agents take no random actions on top of their noise (Dopamine keeps epsilon at
0.01), and convolutions have no padding (`sbrl.networks.encoders`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Settings = Mapping[str, Mapping[str, Any]]  # section -> key -> value


class Preset(NamedTuple):
    """Settings by name."""

    description: str
    source: str  # where the values come from
    settings: Settings


DEFAULT_PRESET = "small-batch"
SMALL_BATCH = 8


def combine(*parts: Settings) -> Settings:
    """The settings of all parts, later ones winning key by key."""
    sections = dict.fromkeys(section for part in parts for section in part)
    return {section: {key: value for part in parts for key, value in part.get(section, {}).items()} for section in sections}


# The agents without an environment: the algorithm, its extensions and its sampling.
_DQN: Settings = {"agent": {"algorithm": "dqn", "n_step": 1}, "replay": {"prioritized": False}}
_DOUBLE_DQN = combine(_DQN, {"agent": {"double": True}})
_DUELING_DQN = combine(_DOUBLE_DQN, {"agent": {"dueling": True}})
_M_DQN: Settings = {"agent": {"algorithm": "m-dqn", "n_step": 1, "td_loss": "huber"}, "replay": {"prioritized": False}}
_C51: Settings = {"agent": {"algorithm": "c51", "n_step": 1}, "replay": {"prioritized": False}}
_QR_DQN: Settings = {"agent": {"algorithm": "qr-dqn", "n_step": 3}, "replay": {"prioritized": True}}
_IQN: Settings = {"agent": {"algorithm": "iqn", "n_step": 3}, "replay": {"prioritized": False}}
_RAINBOW: Settings = {
    "agent": {"algorithm": "c51", "n_step": 3},
    "replay": {"prioritized": True, "importance_weights": True},
}
_FULL_RAINBOW = combine(
    _RAINBOW, {"agent": {"noisy": True, "noisy_sigma": 0.1, "exploration": "noisy-nets", "dueling": True, "double": True}}
)

_DESCRIPTIONS = {
    "dqn": "DQN with Adam and the squared error",
    "double-dqn": "DQN whose online network chooses the action that the target network values",
    "dueling-dqn": "double DQN with streams for the state's value and the actions' advantages",
    "c51": "C51: the return distribution on 51 atoms",
    "qr-dqn": "QR-DQN: 200 quantiles of the return, n = 3, prioritized, gradients not weighted",
    "iqn": "IQN: sampled quantiles of the return, n = 3",
    "m-dqn": "Munchausen-DQN: a soft target, and the scaled log-policy added to the reward",
    "rainbow": "compact Rainbow: C51, n = 3, prioritized with importance weights",
    "full-rainbow": "Rainbow with noisy layers, dueling streams and the double target as well",
}


def _adam(learning_rate: float, epsilon: float) -> Settings:
    return {"learner": {"learning_rate": learning_rate, "adam_epsilon": epsilon}}


# Dopamine's agents on Atari (dopamine/jax/agents/*/configs); m-dqn: Vieillard et al. 2020, appendix B.
_ATARI: Mapping[str, Settings] = {
    "dqn": combine(_DQN, _adam(6.25e-5, 1.5e-4)),
    "double-dqn": combine(_DOUBLE_DQN, _adam(6.25e-5, 1.5e-4)),
    "dueling-dqn": combine(_DUELING_DQN, _adam(6.25e-5, 1.5e-4)),
    "c51": combine(_C51, _adam(2.5e-4, 3.125e-4)),
    "qr-dqn": combine(_QR_DQN, _adam(5e-5, 3.125e-4)),
    "iqn": combine(_IQN, _adam(5e-5, 3.125e-4)),
    "m-dqn": combine(_M_DQN, _adam(5e-5, 3.125e-4)),
    "rainbow": combine(_RAINBOW, _adam(6.25e-5, 1.5e-4)),
    "full-rainbow": combine(_FULL_RAINBOW, _adam(6.25e-5, 1.5e-4)),
}
# Adam divides by the gradient's root mean square. With a small batch this is mostly noise, and the noise is twice as large with
# 8 transitions as with 32. So an update moves half as far along the mean gradient, and twice the step size makes up for it. On
# Pong the default preset then gets past par within 5M frames; at 5e-5 it does not (docs/learning.md).
_SMALL_BATCH_STEP_SIZE: Settings = {"learner": {"learning_rate": 1e-4}}
_DOPAMINE_UPDATES: Settings = {"learner": {"batch_size": 32, "updates_per_step": 0.25, "target_update_period": 2_000}}

# Atari 100k: 100,000 agent steps of one game, no sticky actions, an episode ends with a life (Kaiser et al. 2020).
_ATARI_100K: Settings = {
    "run": {"env_steps": 100_000},
    "env": {"repeat_action_probability": 0.0, "terminal_on_life_loss": True},
    "learner": {"batch_size": 32, "learning_rate": 1e-4, "adam_epsilon": 1.5e-4, "publish_period": 10},
    "replay": {"num_shards": 1, "capacity": 200_000},
    "actors": {"num_actors": 1, "envs_per_actor": 1, "weights_interval_seconds": 0.5},
    "evaluator": {"interval_env_steps": 25_000, "episodes": 100},
}
_AUGMENTATION: Settings = {"learner": {"random_shift": 4, "intensity_jitter": 0.05}}
_DER = combine(
    _ATARI_100K,
    _FULL_RAINBOW,
    {
        "agent": {"n_step": 10},
        "learner": {"updates_per_step": 1, "target_update_period": 2_000},
        "replay": {"min_size": 1_600},
    },
)
_DRQ_EPS = combine(
    _ATARI_100K,
    _DUELING_DQN,
    _AUGMENTATION,
    {
        "agent": {"n_step": 10, "epsilon_decay_steps": 5_000},
        "learner": {"updates_per_step": 1, "target_update_period": 1},
        "replay": {"min_size": 1_600},
    },
)
_SPR = combine(
    _DER,
    _AUGMENTATION,
    {
        "agent": {"spr_weight": 5.0, "spr_jumps": 5, "noisy_sigma": 0.5},
        "env": {"noop_max": 30},
        "learner": {"updates_per_step": 2, "target_update_period": 1},
        "replay": {"min_size": 2_000},
    },
)
# No noise, and an epsilon that falls to 0: exploration comes from the target network's greedy action.
_WITH_RESETS = combine(
    _SPR,
    {
        "agent": {
            "noisy": False,
            "exploration": "linear-epsilon",
            "epsilon_end": 0.0,
            "epsilon_decay_steps": 2_001,
            "act_with_target": True,
        },
        "learner": {"target_update_rate": 0.005, "reset_period": 40_000, "no_resets_after_env_steps": 100_000},
    },
)
_SR_SPR = combine(_WITH_RESETS, {"learner": {"updates_per_step": 8, "reset_encoder_keep": 0.8}})
_BBF = combine(
    _WITH_RESETS,
    {
        "agent": {
            "torso": "impala",
            "width_scale": 4.0,
            "hidden_size": 2_048,
            "n_step": 3,
            "n_step_initial": 10,
            "discount": 0.997,
            "discount_initial": 0.97,
            "anneal_updates": 10_000,
        },
        "learner": {"updates_per_step": 2, "weight_decay": 0.1, "reset_encoder_keep": 0.5},
    },
)

# Dopamine's agents on MinAtar (dopamine/labs/environments/minatar). dqn, qr-dqn and rainbow are published; the others share
# their common values. The dense layer of 128 is from Young and Tian; Dopamine's network has none.
_MINATAR: Settings = {
    "env": {"id": "MinAtar/Breakout-v1"},
    "agent": {"hidden_size": 128, "v_min": -100.0, "v_max": 100.0},
    "learner": {
        "batch_size": 32,
        "updates_per_step": 0.25,
        "learning_rate": 2.5e-4,
        "adam_epsilon": 3.125e-4,
        "target_update_period": 250,
    },
    "replay": {"min_size": 1_000, "capacity": 100_000},
}
# Small versions of the 100k agents, for MinAtar on a CPU: enough atoms for C51 to tell apart returns that differ by 1, and a
# larger step size.
_MINATAR_HIGH_RATIO: Settings = {
    "run": {"env_steps": 100_000},
    "env": {"id": "MinAtar/Breakout-v1"},
    "agent": {"hidden_size": 128, "v_min": -100.0, "v_max": 100.0, "num_atoms": 201, "n_step": 3},
    "learner": {
        "batch_size": 32,
        "updates_per_step": 2,
        "learning_rate": 1e-3,
        "adam_epsilon": 1.5e-4,
        "target_update_period": 500,
        "publish_period": 20,
    },
    "replay": {"min_size": 1_000, "capacity": 100_000, "num_shards": 1},
}
_MINATAR_AGENTS: Mapping[str, Settings] = {
    "dqn": combine(_MINATAR, _DQN),
    "double-dqn": combine(_MINATAR, _DOUBLE_DQN),
    "c51": combine(_MINATAR, _C51),
    "qr-dqn": combine(_MINATAR, _QR_DQN),
    "iqn": combine(_MINATAR, _IQN),
    "m-dqn": combine(_MINATAR, _M_DQN),
    "rainbow": combine(_MINATAR, _RAINBOW),
    "full-rainbow": combine(_MINATAR, _FULL_RAINBOW),
    "der": combine(_FULL_RAINBOW, _MINATAR_HIGH_RATIO),
    "drq-eps": combine(_DUELING_DQN, _MINATAR_HIGH_RATIO, {"learner": {"random_shift": 1}}),
    "spr": combine(_FULL_RAINBOW, _MINATAR_HIGH_RATIO, {"agent": {"spr_weight": 2.0, "spr_jumps": 3}}),
    "bbf": combine(
        _RAINBOW,
        _MINATAR_HIGH_RATIO,
        {
            "agent": {
                "double": True,
                "dueling": True,
                "spr_weight": 2.0,
                "spr_jumps": 3,
                "n_step_initial": 10,
                "discount_initial": 0.97,
                "anneal_updates": 5_000,
                "act_with_target": True,
            },
            "learner": {
                "weight_decay": 0.1,
                "target_update_period": 1,
                "target_update_rate": 0.005,
                "reset_period": 50_000,
                "reset_encoder_keep": 0.5,
                "no_resets_after_env_steps": 80_000,
            },
        },
    ),
}

# Classic control: one set of values that learns CartPole in minutes with every agent (see docs/learning.md). The agent acts
# with the moving average, so that heads without bounds end on a stable policy: the online network's policy keeps swinging.
_CLASSIC: Settings = {
    "run": {"env_steps": 40_000},
    "env": {"id": "CartPole-v1"},
    "agent": {
        "hidden_size": 128,
        "num_quantiles": 20,
        "num_tau_samples": 16,
        "num_tau_prime_samples": 16,
        "epsilon_decay_steps": 4_000,
        "epsilon_end": 0.02,
        "v_min": -100.0,
        "v_max": 100.0,
        "num_atoms": 101,
        "n_step": 5,
        "act_with_target": True,
    },
    "learner": {
        "batch_size": 32,
        "updates_per_step": 1,
        "learning_rate": 5e-4,
        "adam_epsilon": 1e-5,
        "target_update_period": 1,
        "target_update_rate": 0.005,
        "publish_period": 50,
    },
    "replay": {"min_size": 1_000, "capacity": 50_000},
    "actors": {"weights_interval_seconds": 0.5},
    "evaluator": {"interval_env_steps": 2_000, "episodes": 20},
}
_CLASSIC_AGENTS: Mapping[str, Settings] = {
    "dqn": combine(_DQN, _CLASSIC),
    "double-dqn": combine(_DOUBLE_DQN, _CLASSIC),
    "dueling-dqn": combine(_DUELING_DQN, _CLASSIC),
    "c51": combine(_C51, _CLASSIC),
    "qr-dqn": combine(_QR_DQN, _CLASSIC),
    "iqn": combine(_IQN, _CLASSIC),
    "m-dqn": combine(_CLASSIC, _M_DQN),  # n = 1: its bonus covers one step
    "rainbow": combine(_RAINBOW, _CLASSIC),
    "full-rainbow": combine(_FULL_RAINBOW, _CLASSIC),
}


def _small_batch(settings: Settings) -> Settings:
    return combine(settings, {"learner": {"batch_size": SMALL_BATCH}})


def _make_presets() -> dict[str, Preset]:
    """All presets by name, in the order they are listed."""
    paper, dopamine = "Obando-Ceron, Bellemare and Castro 2023", "Dopamine"
    atari = {name: combine(settings, _DOPAMINE_UPDATES) for name, settings in _ATARI.items()}
    presets = {
        DEFAULT_PRESET: Preset(
            "QR-DQN with batch 8, n = 3, 0.25 updates per step, step size 1e-4",
            f"{paper}; the step size SBRL's",
            combine(_small_batch(atari["qr-dqn"]), _SMALL_BATCH_STEP_SIZE),
        ),
        "dopamine-qr-dqn": Preset("the baseline: QR-DQN with batch 32, step size 5e-5", dopamine, atari["qr-dqn"]),
    }
    for name, settings in atari.items():
        source = "Vieillard et al. 2020" if name == "m-dqn" else dopamine
        presets[name] = Preset(_DESCRIPTIONS[name], source, settings)
        presets[f"small-batch-{name}"] = Preset(f"{name} with batch {SMALL_BATCH}", paper, _small_batch(settings))
    presets |= {
        "der": Preset("data-efficient Rainbow, 100k steps", "van Hasselt et al. 2019, Dopamine", _DER),
        "drq-eps": Preset("double dueling DQN on augmented images, 100k steps", "Agarwal et al. 2021, Dopamine", _DRQ_EPS),
        "spr": Preset("DER with self-prediction and augmentation, 100k steps", "Schwarzer et al. 2021, Dopamine", _SPR),
        "sr-spr": Preset("SPR with resets at 8 updates per step, 100k steps", "D'Oro et al. 2023", _SR_SPR),
        "bbf": Preset("wide IMPALA network, resets, annealed n and discount, 100k steps", "Schwarzer et al. 2023", _BBF),
    }
    for name, settings in _MINATAR_AGENTS.items():
        source = dopamine if name in ("dqn", "qr-dqn", "rainbow") else f"{dopamine}'s common values"
        presets[f"minatar-{name}"] = Preset(
            f"{name} on MinAtar",
            source if name in _DESCRIPTIONS else "SBRL",
            settings,
        )
    for name, settings in _CLASSIC_AGENTS.items():
        presets[f"classic-{name}"] = Preset(f"{name} on classic control", "SBRL", settings)
    return presets


PRESETS: Mapping[str, Preset] = _make_presets()
