"""Diagnostics on real networks: readings are correct, and training is not affected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from learner.algorithm import diagnostics
from learner.algorithm.diagnostics import Diagnostics, NoDiagnostics, Readings
from learner.algorithm.measures import GradientAverage
from learner.algorithm.update import UpdateStep, make_update_step
from learner.checkpoint import capture_random, restore_random
from learner.records import Batch, Networks, Sequence
from sbrl import config
from sbrl.config.algorithms import ALGORITHMS
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.networks.network import ValueNetwork

FRAMES = EnvSpec(3, (36, 36), np.dtype(np.uint8), 4, "frames", True)
GRID = EnvSpec(3, (4, 10, 10), np.dtype(np.float32), 1, "grid", False)
VECTOR = EnvSpec(3, (4,), np.dtype(np.float32), 1, "vector", False)
SMALL: dict[str, Any] = {
    **{"hidden_size": 16, "num_quantiles": 10, "num_atoms": 11, "v_max": 10.0, "tau_embedding_size": 8},
    **{"num_tau_samples": 4, "num_tau_prime_samples": 4, "num_policy_samples": 4},
}
NOISY = {"noisy": True, "exploration": "noisy-nets"}
BATCH, STATES, WINDOW, PERIOD = 8, 32, 3, 5


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four batches of states, three gradients: a measurement takes a handful of updates."""
    torch.set_num_threads(1)
    monkeypatch.setattr(diagnostics, "NUM_STATES", STATES)
    monkeypatch.setattr(diagnostics, "CHUNK", 16)
    monkeypatch.setattr(diagnostics, "WINDOW", WINDOW)


def make_config(agent: dict[str, Any] | None = None, period: int | None = PERIOD, **sections: Any) -> config.Config:
    learner = {"diagnostics_period": period, "batch_size": BATCH, "learning_rate": 1e-2}
    return config.build({"agent": {**SMALL, **(agent or {})}, "learner": learner}, sections)


def make_batch(spec: EnvSpec, seed: int, jumps: int = 0) -> Batch:
    generator = np.random.default_rng(seed)

    def observations(*size: int) -> torch.Tensor:
        high = 2 if spec.kind == "grid" else 256
        drawn = torch.from_numpy(generator.integers(high, size=(*size, *spec.observation_shape)).astype(spec.frame_dtype))
        return drawn / 255 if spec.kind == "vector" else drawn

    sequence = None
    if jumps:
        actions = torch.from_numpy(generator.integers(spec.num_actions, size=(BATCH, jumps)))
        sequence = Sequence(observations(BATCH, jumps), actions, torch.ones(BATCH, jumps).bool())
    return Batch(
        s_tm1=observations(BATCH),
        a_tm1=torch.from_numpy(generator.integers(spec.num_actions, size=BATCH)),
        r_t=torch.from_numpy(generator.normal(size=BATCH).astype(np.float32)),
        discount_t=torch.full((BATCH,), 0.97),
        s_t=observations(BATCH),
        probability=torch.from_numpy(generator.uniform(1e-6, 1e-5, size=BATCH)),
        sequence=sequence,
    )


def trace(step: UpdateStep, batches: list[Batch]) -> list[bytes]:
    """All outputs and final states of updates as bytes, so that NaN values are compared too."""
    seen = []
    for batch in batches:
        result = step.update(batch)
        seen += [result.loss.numpy().tobytes(), result.spr_loss.numpy().tobytes(), result.priorities.numpy().tobytes()]
        seen += [result.q_tm1.numpy().tobytes(), result.target.numpy().tobytes()]
    state = step.state()
    for tensors in (state.online, state.target, state.auxiliary, state.optimizer):
        seen += [tensor.numpy().tobytes() for tensor in tensors.values()]
    return [*seen, torch.get_rng_state().numpy().tobytes()]


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], EnvSpec]] = {
    **{algorithm: ({"algorithm": algorithm}, {}, VECTOR) for algorithm in ALGORITHMS},
    **{
        f"noisy dueling {algorithm}": ({"algorithm": algorithm, "dueling": True, **NOISY}, {}, VECTOR)
        for algorithm in ALGORITHMS
    },
    "nature-cnn": ({"double": True}, {"learner": {"random_shift": 4}, "replay": {"importance_weights": True}}, FRAMES),
    "impala": ({"torso": "impala", "layer_norm": True}, {"learner": {"intensity_jitter": 0.05, "weight_decay": 0.1}}, FRAMES),
    "minatar-conv": ({}, {"learner": {"target_update_period": 1, "target_update_rate": 0.01}}, GRID),
    "spr": (
        {"algorithm": "c51", "spr_weight": 5, "spr_jumps": 2, "dueling": True, **NOISY},
        {"learner": {"random_shift": 4, "max_gradient_norm": 10, "reset_period": 7}},
        FRAMES,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_training_is_the_same_to_the_bit(case: str) -> None:
    agent, sections, spec = CASES[case]
    batches = [make_batch(spec, seed, agent.get("spr_jumps", 0)) for seed in range(15)]
    traces = []
    for period in (None, PERIOD):
        torch.manual_seed(0)
        step = make_update_step(make_config(agent, period, **sections), spec)
        traces.append(trace(step, batches))
    assert traces[0] == traces[1]
    readings = step.diagnostics.readings
    assert readings is not None
    assert step.diagnostics.measurements == 2
    assert step.diagnostics.seconds > 0
    assert math.isfinite(readings.gradient.signal)
    assert readings.gradient.noise > 0
    assert 0 <= readings.policy_churn_ratio <= 1
    assert 0 <= readings.dormant_units_ratio < 1
    assert 1 <= readings.feature_rank <= SMALL["hidden_size"]


def test_probes_have_the_td_error_of_the_frozen_network_and_change_nothing() -> None:
    """Against the definition, at parameters that hardly move; each measurement asks for its own probes."""
    tree = make_config({"algorithm": "dqn"}).model_dump()
    tree["learner"]["learning_rate"] = 1e-12
    probes = {"uniform": make_batch(VECTOR, 100), "held_out": make_batch(VECTOR, 101)}
    asked: list[int] = []

    def look(updates: int) -> dict[str, Batch]:
        asked.append(updates)
        torch.rand(3)
        return probes

    traces = []
    for with_probes in (False, True):
        torch.manual_seed(0)
        step = make_update_step(config.build(tree), VECTOR)
        if with_probes:
            step.diagnostics.look_at(look)
        traces.append(trace(step, [make_batch(VECTOR, seed) for seed in range(15)]))
    assert traces[0] == traces[1]
    assert asked == [8, 13]
    network = build_network(step._config.agent, VECTOR, seed=0)
    readings = step.diagnostics.readings
    assert readings is not None
    for name, batch in probes.items():
        target = batch.r_t + batch.discount_t * network.q_values(batch.s_t).amax(1)
        q = network.q_values(batch.s_tm1).gather(1, batch.a_tm1[:, None]).squeeze(1)
        assert readings.td_errors[name] == pytest.approx((target - q).abs().mean().item(), rel=1e-4)
    squares = sum(parameter.double().square().sum().item() for parameter in network.parameters())
    assert readings.parameter_norm == pytest.approx(math.sqrt(squares), rel=1e-5)


@pytest.mark.parametrize("period", [None, PERIOD])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(period: int | None) -> None:
    agent = {"algorithm": "iqn", **NOISY}
    batches = [make_batch(VECTOR, seed) for seed in range(24)]
    torch.manual_seed(0)
    unbroken = make_update_step(make_config(agent, None), VECTOR)
    expected = trace(unbroken, batches)
    torch.manual_seed(0)
    first = make_update_step(make_config(agent, period), VECTOR)
    head = trace(first, batches[:11])
    resumed = make_update_step(make_config(agent, period), VECTOR)
    resumed.restore(first.state())
    resumed.diagnostics.restore(first.diagnostics.counters())
    random = capture_random()
    restore_random(random)
    tail = trace(resumed, batches[11:])
    per_update = 5
    assert head[: 11 * per_update] + tail == expected
    assert (resumed.diagnostics.readings is None) == (period is None)


def readings_of(step: UpdateStep, spec: EnvSpec, updates: int) -> list[Readings]:
    found: list[Readings] = []
    for seed in range(updates):
        step.update(make_batch(spec, seed))
        readings = step.diagnostics.readings
        if readings is not None and (not found or readings is not found[-1]):
            found.append(readings)
    return found


@pytest.mark.parametrize(
    ("period", "updates"),
    [
        (1, [7, 10, 13, 16, 19]),  # one after the other, as soon as there are states to look at
        (5, [8, 13, 18]),
        (10, [13]),
        (None, []),
    ],
)
def test_when_measurements_are_made(period: int | None, updates: list[int]) -> None:
    step = make_update_step(make_config(period=period), VECTOR)
    assert [readings.updates for readings in readings_of(step, VECTOR, 20)] == updates
    assert isinstance(step.diagnostics, NoDiagnostics if period is None else Diagnostics)


def test_noise_scale_of_a_network_is_that_of_its_samples_gradients() -> None:
    """Against the gradient of each single sample, at parameters that hardly change."""
    tree = make_config({"algorithm": "dqn"}, period=1).model_dump()
    tree["learner"]["learning_rate"] = 1e-12
    step = make_update_step(config.build(tree), VECTOR)
    batches = [make_batch(VECTOR, seed) for seed in range(7)]
    for batch in batches:
        step.update(batch)
    readings = step.diagnostics.readings
    assert readings is not None
    reference = build_network(step._config.agent, VECTOR, seed=0)
    gradients = []
    for batch in batches[4:]:  # four batches of states, then a window of three
        target = batch.r_t + batch.discount_t * reference.q_values(batch.s_t).amax(1).detach()
        q = reference.q_values(batch.s_tm1).gather(1, batch.a_tm1[:, None]).squeeze(1)
        for loss in (q - target).square():
            one = torch.autograd.grad(loss, list(reference.parameters()), retain_graph=True)
            gradients.append(torch.cat([part.flatten() for part in one]).double())
    each = torch.stack(gradients)
    small = each.view(WINDOW, BATCH, -1).mean(dim=1)
    small_squared, big_squared = small.square().sum(dim=1).mean().item(), each.mean(dim=0).square().sum().item()
    signal = (24 * big_squared - 8 * small_squared) / (24 - 8)
    noise = (small_squared - big_squared) / (1 / 8 - 1 / 24)
    assert readings.gradient.signal == pytest.approx(signal, rel=1e-4)
    assert readings.gradient.noise == pytest.approx(noise, rel=1e-4)


class Quadratic(nn.Module):
    """Parameters w; the loss |w - x|^2 / 2 on observations x."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def test_a_window_recovers_the_noise_scale_of_a_quadratic_problem() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, scale = torch.randn(20, generator=generator), torch.rand(20, generator=generator) * 3
    networks: Any = Networks(Quadratic(weight), Quadratic(weight), nn.Module())  # type: ignore[arg-type]

    def objective(networks: Any, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = (networks.online.weight - batch).square().sum(dim=1).mean() / 2
        return loss

    found = []
    for _ in range(500):
        window = diagnostics._GradientWindow(networks, objective)
        while not window.is_full:
            window.add(scale * torch.randn(BATCH, 20, generator=generator))  # type: ignore[arg-type]
        found.append(window.moments(BATCH))
    signal, noise = np.mean(found, axis=0)
    assert signal == pytest.approx(weight.square().sum().item(), rel=0.02)
    assert noise == pytest.approx(scale.square().sum().item(), rel=0.02)
    assert networks.online.weight.grad is None


def identity_network() -> ValueNetwork:
    """A DQN on vectors of 4 whose features are max(0, observation); the output layer's weights are zero."""
    network = build_network(config.Agent(algorithm="dqn", hidden_size=4), VECTOR)
    with torch.no_grad():
        for layer in (module for module in network.modules() if isinstance(module, nn.Linear)):
            layer.bias.zero_()
            layer.weight.copy_(torch.eye(4) if layer.weight.shape == (4, 4) else torch.zeros(3, 4))
    return network


def measure(network: ValueNetwork, states: torch.Tensor, change: Callable[[], None] = lambda: None) -> Readings:
    """The readings of `network` on `states`, with `change` in place of an update."""
    made = Diagnostics(
        1,
        BATCH,
        Networks(network, network, nn.Module()),
        lambda networks, batch: networks.online.q_values(batch.s_tm1).mean(),
        td_error=lambda networks, batch: networks.online.q_values(batch.s_tm1).mean(),
    )
    batches = [make_batch(VECTOR, 0)._replace(s_tm1=part) for part in states.split(BATCH)]
    for updates in range(len(batches) + WINDOW):
        batch = batches[min(updates, len(batches) - 1)]
        made.before_update(updates, batch)
        if updates == len(batches) + WINDOW - 1:
            change()
        made.after_update(updates + 1, batch)
    assert made.readings is not None
    return made.readings


# State k % 4 of each is the unit vector k.
UNIT_VECTORS = torch.eye(4).repeat(STATES // 4, 1)[:, None]


def test_churn_of_hand_made_weights() -> None:
    network = identity_network()
    weight = network.head.output.layer.weight  # type: ignore[union-attr]
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad():
        weight[0] = 1.0  # action 0 everywhere

    def prefer_another_action_in_one_of_four_states() -> None:
        with torch.no_grad():
            weight[2, 1] = 2.0

    assert measure(network, UNIT_VECTORS, prefer_another_action_in_one_of_four_states).policy_churn_ratio == 0.25
    assert measure(network, UNIT_VECTORS).policy_churn_ratio == 0


@pytest.mark.parametrize("agent", [{"algorithm": "iqn"}, {"algorithm": "qr-dqn", **NOISY}], ids=["iqn", "noisy"])
def test_chance_is_no_churn(agent: dict[str, Any]) -> None:
    """With the same weights, actions are the same, even if fractions and noise are drawn in between."""
    network = build_network(config.Agent(**SMALL, **agent), VECTOR)
    states = torch.randn(STATES, 1, 4, generator=torch.Generator().manual_seed(0))

    def draw() -> None:
        torch.rand(3)
        network.resample_noise()

    assert measure(network, states, draw).policy_churn_ratio == 0
    assert network.training


def test_dormant_units_and_rank_of_hand_made_weights() -> None:
    network = identity_network()
    readings = measure(network, UNIT_VECTORS)
    assert readings.dormant_units_ratio == 0
    assert readings.feature_rank == 4
    hidden = network.torso.projection[1]
    assert isinstance(hidden, nn.Linear)
    with torch.no_grad():
        hidden.weight[1] *= 0.005  # hardly fires: dormant
        hidden.weight[2] *= 0.5  # fires less, not dormant
        hidden.bias[3] = -2.0  # never reaches zero: dead
    readings = measure(network, UNIT_VECTORS)
    assert readings.dormant_units_ratio == 2 / 8  # of the two layers of four
    # Singular values in the proportions 1, 0.5 and 0.005: the last one is within the hundredth that is left out.
    assert readings.feature_rank == 2


def test_dormant_channels_of_a_convolution() -> None:
    step = make_update_step(make_config({"hidden_size": 32}, period=1), FRAMES)
    online = step._online
    first = online.torso.encoder[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight[:3] = 0.0
        assert first.bias is not None
        first.bias[:3] = -100.0
    (readings, *_) = readings_of(step, FRAMES, 7)
    with torch.no_grad():
        states = torch.cat([make_batch(FRAMES, seed).s_tm1 for seed in range(2, 6)]).float() / 255
        units, dormant = 0, 0
        for layer in (*online.torso.encoder, *online.torso.projection, online.torso.activation):
            states = layer(states.clone())
            if isinstance(layer, nn.ReLU):
                activity = states.transpose(0, 1).flatten(1).mean(1)
                units += len(activity)
                dormant += int((activity <= 0.025 * activity.mean()).sum())
    assert units == 32 + 64 + 64 + 32
    assert dormant >= 3
    assert readings.dormant_units_ratio == dormant / units


def test_rank_of_iqn_is_of_the_features_that_values_are_made_of() -> None:
    """Not the torso's features, which the head multiplies with those of each fraction."""
    network = build_network(config.Agent(**SMALL, algorithm="iqn"), VECTOR)
    states = torch.randn(STATES, 1, 4, generator=torch.Generator().manual_seed(0))
    assert 1 <= measure(network, states).feature_rank <= SMALL["hidden_size"]
    with torch.no_grad():
        network.head.hidden[0].weight.zero_()  # type: ignore[union-attr, index]
        network.head.hidden[0].bias.fill_(1.0)  # type: ignore[union-attr, index]
    assert measure(network, states).feature_rank == 1


def test_weights_that_are_not_finite_end_training_by_their_loss_and_not_here() -> None:
    step = make_update_step(make_config(period=1), VECTOR)
    for seed in range(4):
        step.update(make_batch(VECTOR, seed))
    for tensor in step.state().online.values():
        tensor.fill_(float("nan"))
    (readings,) = readings_of(step, VECTOR, WINDOW)
    assert math.isnan(readings.feature_rank)
    assert math.isnan(readings.dormant_units_ratio)
    assert math.isnan(readings.gradient.noise_scale)


def test_averages_are_kept_over_a_restart() -> None:
    first, second = (make_update_step(make_config(period=1), VECTOR).diagnostics for _ in range(2))
    assert isinstance(first, Diagnostics)
    assert isinstance(second, Diagnostics)
    first._average = GradientAverage(1.0, 2.0, 3.0)
    second.restore({"samples_trained": 8, **first.counters()})
    assert second._average == first._average
    second.restore({"samples_trained": 8})  # of a run without diagnostics
    assert second._average == first._average
    assert NoDiagnostics().counters() == {}
