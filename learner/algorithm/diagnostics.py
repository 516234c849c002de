"""Measures what small batches do to training, at intervals, on the network in training, without changing it.

A measurement has two parts. The first runs beside `WINDOW` updates in a row: it takes the gradient of a frozen copy of the
networks on each update's batch. These are many small batches at the same parameters, and together one big batch. The noise
scale follows from their gradient norms. The second runs around the last of these updates, on `NUM_STATES` states of recent
batches. The share of greedy actions that the update changes is the churn. After the update it also measures each unit's
activity and the number of directions that the features span. The frozen copy also gives the TD error on probes: the newest
transitions, transitions from all of replay, and held-out ones.

Training stays the same to the bit: networks are copied or only read, and the random state is restored after each draw.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from learner.algorithm.measures import (
    GradientAverage,
    GradientMoments,
    churn_ratio,
    dormant_ratio,
    effective_rank,
    gradient_moments,
    norm,
    unit_activity,
)
from learner.records import Batch, Networks
from sbrl.config import Config
from sbrl.networks.network import ValueNetwork

logger = logging.getLogger(__name__)

WINDOW = 16  # small batches that make up one big batch
AVERAGE_DECAY = 0.9  # of the moving averages, per measurement: about the last ten count
NUM_STATES = 512  # for churn, dormant units and rank; as many as most networks have features
CHUNK = 64  # states in one pass, so that the activations of wide networks fit into memory
DORMANT_TAU = 0.025
RANK_DELTA = 0.01
_ACTION_SEED = 0  # for IQN's quantile fractions: if they differed before and after an update, they would change actions


Probes = Callable[[int], Mapping[str, Batch]]  # the updates made so far -> batches by name: newest, uniform, held_out


def no_probes(updates: int) -> Mapping[str, Batch]:
    """None: replay is sampled remotely."""
    return {}


class Readings(NamedTuple):
    """One measurement."""

    updates: int  # made so far
    gradient: GradientMoments  # means over recent measurements
    policy_churn_ratio: float
    dormant_units_ratio: float
    feature_rank: float
    parameter_norm: float  # of the online network
    td_errors: Mapping[str, float]  # by probe; those that there were


class Diagnostics:
    """Measures every `period` updates. Call `before_update` and `after_update` around each update that it must see."""

    def __init__(
        self,
        period: int,
        batch_size: int,
        networks: Networks,
        objective: Callable[[Networks, Batch], Tensor],
        td_error: Callable[[Networks, Batch], Tensor],
    ) -> None:
        """
        Args:
            networks: the live networks. Read only.
            objective: the scalar that an update minimises. It may draw from torch's global generators, and may draw new noise
                into the networks that it gets.
            td_error: the mean |target - value| of a batch, a scalar. What holds for `objective` holds here.
        """
        self._period, self._batch_size, self._networks, self._objective = period, batch_size, networks, objective
        self._states: deque[Tensor] = deque(maxlen=-(-NUM_STATES // batch_size))  # of the last batches, not augmented
        self._window: _GradientWindow | None = None
        self._average = GradientAverage()
        self._actions_before: Tensor | None = None
        self._td_error = td_error
        self._probes: Probes = no_probes
        self.readings: Readings | None = None
        """The newest measurement; None before the first."""
        self.measurements = 0
        self.seconds = 0.0
        """Spent on measuring, those of all measurements."""

    def look_at(self, probes: Probes) -> None:
        """Has measurements take the TD error on these batches, too. May draw from torch's global generators."""
        self._probes = probes

    def unseen_updates(self, updates: int) -> int:
        """Number of updates after the first `updates` that diagnostics need not see."""
        if self._window is not None:
            return 0
        due = -(-updates // self._period) * self._period
        assert self._states.maxlen is not None
        return max(0, due - self._states.maxlen - updates)

    def before_update(self, updates: int, batch: Batch) -> None:
        """
        Args:
            updates: made before this one.
            batch: on the networks' device, not augmented.
        """
        if self._window is None and not self._is_due(updates):
            return
        start = time.perf_counter()
        if self._window is None:
            self._window = _GradientWindow(self._networks, self._objective)
        with _random_state_kept(batch.s_tm1.device):
            self._window.add(batch)
        if self._window.is_full:
            self._actions_before = _greedy_actions(self._networks.online, self._chunks())
        self.seconds += time.perf_counter() - start

    def after_update(self, updates: int, batch: Batch) -> None:
        """
        Args:
            updates: made, with this one. Its resets have not happened yet.
        """
        if self._window is not None and self._actions_before is not None:
            start = time.perf_counter()
            self._measure(updates, self._window, self._actions_before)
            self._window = self._actions_before = None
            self.seconds += time.perf_counter() - start
        self._states.append(batch.s_tm1)  # last, so that the measured states are not those just trained on

    def counters(self) -> dict[str, float]:
        """The values for a checkpoint: the averages over many measurements."""
        return {f"gradient_average_{name}": value for name, value in self._average._asdict().items()}

    def restore(self, counters: Mapping[str, float]) -> None:
        """Resumes from a checkpoint's counters. The checkpoint may be from a run without diagnostics."""
        names = {name: f"gradient_average_{name}" for name in GradientAverage._fields}
        if all(name in counters for name in names.values()):
            self._average = GradientAverage(**{field: float(counters[name]) for field, name in names.items()})

    def _is_due(self, updates: int) -> bool:
        return updates % self._period == 0 and len(self._states) == self._states.maxlen

    def _chunks(self) -> list[Tensor]:
        return list(torch.cat(list(self._states))[-NUM_STATES:].split(CHUNK))

    def _measure(self, updates: int, window: _GradientWindow, actions_before: Tensor) -> None:
        self._average = self._average.add(window.moments(self._batch_size), AVERAGE_DECAY)
        chunks, online = self._chunks(), self._networks.online
        with _activations(online) as seen:
            actions = _greedy_actions(online, chunks)
        self.readings = Readings(
            updates=updates,
            gradient=self._average.mean,
            policy_churn_ratio=churn_ratio(actions_before, actions),
            dormant_units_ratio=dormant_ratio(seen.layers(), DORMANT_TAU),
            feature_rank=effective_rank(torch.cat(seen.features), RANK_DELTA),
            parameter_norm=norm(list(online.parameters())).item(),
            td_errors=self._td_errors(updates, window),
        )
        self.measurements += 1
        logger.info(
            "diagnostics after update %d: gradient noise scale %.3g, policy churn %.3g, dormant units %.3g, srank %.0f, "
            "parameter norm %.3g%s",
            updates,
            self.readings.gradient.noise_scale,
            *self.readings[2:-1],
            "".join(f", TD error {name} {value:.3g}" for name, value in self.readings.td_errors.items()),
        )

    def _td_errors(self, updates: int, window: _GradientWindow) -> dict[str, float]:
        device = next(window.networks.online.parameters()).device
        with torch.no_grad(), _random_state_kept(device):
            probes = self._probes(updates)
            return {name: self._td_error(window.networks, batch.to(device)).item() for name, batch in probes.items()}


class NoDiagnostics:
    """Measures nothing."""

    readings: Readings | None = None
    measurements = 0
    seconds = 0.0

    def look_at(self, probes: Probes) -> None: ...

    def unseen_updates(self, updates: int) -> int:
        return sys.maxsize

    def before_update(self, updates: int, batch: Batch) -> None: ...

    def after_update(self, updates: int, batch: Batch) -> None: ...

    def counters(self) -> dict[str, float]:
        return {}

    def restore(self, counters: Mapping[str, float]) -> None: ...


def make_diagnostics(
    config: Config,
    networks: Networks,
    objective: Callable[[Networks, Batch], Tensor],
    td_error: Callable[[Networks, Batch], Tensor],
) -> Diagnostics | NoDiagnostics:
    """The diagnostics that learner.diagnostics_period asks for."""
    learner = config.learner
    if learner.diagnostics_period is None:
        return NoDiagnostics()
    return Diagnostics(learner.diagnostics_period, learner.batch_size, networks, objective, td_error)


class _GradientWindow:
    """Gradients of several batches at the same parameters: those of the networks when the window was made.

    The gradients of the live updates would cost nothing, but each is at other parameters. Each step makes the next gradient a
    little less like the last one, so they would underestimate the signal.
    """

    def __init__(self, networks: Networks, objective: Callable[[Networks, Batch], Tensor]) -> None:
        self.networks, self._objective = copy.deepcopy(networks), objective
        learned = (self.networks.online, self.networks.auxiliary)
        self._parameters = [parameter for module in learned for parameter in module.parameters()]
        self._sum: list[Tensor] = []
        self._squared: list[Tensor] = []  # float[] each, on the device

    @property
    def is_full(self) -> bool:
        return len(self._squared) == WINDOW

    def add(self, batch: Batch) -> None:
        gradients = list(torch.autograd.grad(self._objective(self.networks, batch), self._parameters, materialize_grads=True))
        self._squared.append(_squared_norm(gradients))
        if self._sum:
            torch._foreach_add_(self._sum, gradients)
        else:
            self._sum = gradients

    def moments(self, batch_size: int) -> GradientMoments:
        """The moments over the added batches. Waits for the device."""
        num = len(self._squared)
        small_squared = torch.stack(self._squared).mean().item()
        big_squared = _squared_norm(self._sum).item() / num**2
        return gradient_moments(small_squared, big_squared, batch_size, num * batch_size)


class _Activations:
    """Outputs of a network's layers, chunk by chunk."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []  # float[CHUNK, F], the inputs of the output layer
        self.activity: dict[nn.Module, list[Tensor]] = {}  # float[units] for each chunk, by layer

    def layers(self) -> list[Tensor]:
        """The mean activity of each layer's units. All chunks have the same size."""
        return [torch.stack(chunks).mean(dim=0) for chunks in self.activity.values()]

    def on_relu(self, layer: nn.Module, _inputs: object, output: Tensor) -> None:
        self.activity.setdefault(layer, []).append(unit_activity(output))

    def on_output(self, _layer: nn.Module, inputs: tuple[Tensor]) -> None:
        # IQN has features for each quantile fraction. The output layer is linear, so values depend on their mean.
        (features,) = inputs
        self.features.append(features if features.dim() == 2 else features.mean(dim=1))


@contextlib.contextmanager
def _activations(network: ValueNetwork) -> Iterator[_Activations]:
    """Within the context, records the outputs of all ReLU layers and the inputs of the output layer."""
    seen = _Activations()
    with contextlib.ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                hooks.enter_context(module.register_forward_hook(seen.on_relu))
        hooks.enter_context(network.head.output.register_forward_pre_hook(seen.on_output))
        yield seen


def _greedy_actions(network: ValueNetwork, chunks: list[Tensor]) -> Tensor:
    """int64[N]: greedy actions, with the mean weights of noisy networks and always the same quantile fractions for IQN."""
    training = network.training
    network.eval()
    try:
        with torch.inference_mode(), _random_state_kept(chunks[0].device, _ACTION_SEED):
            return torch.cat([network.q_values(chunk).argmax(dim=-1) for chunk in chunks])
    finally:
        network.train(training)


@contextlib.contextmanager
def _random_state_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Restores torch's global generators of the CPU and of `device` at the end. Within, they start at `seed`, if given."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        if seed is not None:
            # Not torch.manual_seed, which seeds the generators of all devices.
            torch.default_generator.manual_seed(seed)
            if on_cuda:
                torch.cuda.default_generators[device.index].manual_seed(seed)
        yield


def _squared_norm(tensors: list[Tensor]) -> Tensor:
    """float[]: the sum of all squares."""
    return torch.stack(torch._foreach_norm(tensors)).square().sum()
