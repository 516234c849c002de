"""The update step: takes one batch, changes the parameters and returns new priorities."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.algorithm.augmentation import augment_batch, make_augmentation
from learner.algorithm.compilation import Compiler, make_compiler, uncompiled
from learner.algorithm.diagnostics import Diagnostics, NoDiagnostics, make_diagnostics
from learner.algorithm.losses.interface import make_loss
from learner.algorithm.losses.priorities import importance_weights, priorities
from learner.algorithm.measures import mean_td_error
from learner.algorithm.optimizer import Optimizer, undecayed_parameters
from learner.algorithm.precision import autocast
from learner.algorithm.resets import Resets
from learner.algorithm.schedules import ResetSchedule
from learner.algorithm.spr import NoSelfPrediction, SelfPrediction, make_self_prediction
from learner.algorithm.target_network import TargetUpdate
from learner.records import Batch, Networks, UpdateResult, UpdateState
from sbrl.config import Config
from sbrl.envs.spec import EnvSpec
from sbrl.networks.build import build_network
from sbrl.networks.checks import check_network
from sbrl.networks.devices import find_device
from sbrl.networks.network import ValueNetwork
from sbrl.networks.serialization import all_finite, copy_tensors
from sbrl.seeds import reset_seed


class _Evaluation(NamedTuple):
    """The losses and new priorities of one batch."""

    loss: Tensor  # float32[]: mean over the batch, with importance weights
    spr_loss: Tensor  # float32[], likewise
    total: Tensor  # float32[]: the sum of both that an update minimises
    q_tm1: Tensor  # float32[B]
    target: Tensor  # float32[B, M]
    priorities: Tensor  # float64[B]

    def td_error(self) -> Tensor:
        """float32[]: as `UpdateResult.td_error`."""
        return mean_td_error(self.target, self.q_tm1)


class UpdateStep:
    """An update composed as the config says: loss, augmentation, self-prediction, optimizer, target update and resets."""

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, compiler: Compiler[Any] = uncompiled) -> None:
        """Makes the networks, with parameters from run.seed.

        Args:
            compiler: compiles the part from the batch to its loss.

        Raises:
            UsageError: agent.torso cannot process the environment's observations or the configured changes to them.
        """
        check_network(config, spec)
        agent, learner = config.agent, config.learner
        self._config, self._spec, self._device = config, spec, device
        online, auxiliary = self._make_modules(config.run.seed)
        self._online, self._auxiliary = online.to(device), auxiliary.to(device)
        self._target = copy.deepcopy(self._online).requires_grad_(False)
        self._networks = Networks(self._online, self._target, self._auxiliary)
        self._loss = make_loss(agent)
        self._augment = make_augmentation(learner)
        learned = (self._online, self._auxiliary)
        self._optimizer = Optimizer(
            {name: parameter for module in learned for name, parameter in module.named_parameters()},
            undecayed={name for module in learned for name in undecayed_parameters(module)},
            settings=learner,
        )
        self._target_update = TargetUpdate(self._online, self._target, learner)
        self._resets = Resets(
            ResetSchedule.of(config),
            learner.reset_encoder_keep,
            fresh=self._fresh,
            learned=learned,
            target=self._target,
            optimizer=self._optimizer,
        )
        self.diagnostics: Diagnostics | NoDiagnostics = make_diagnostics(
            config,
            self._networks,
            objective=lambda networks, batch: self._objective(networks, batch).total,
            td_error=lambda networks, batch: self._objective(networks, batch).td_error(),
        )
        self._evaluate = compiler(self._evaluate_and_flag)
        self._updates = 0
        # Flags: each is 0 until a loss (or a batch) is not finite, and NaN from then on.
        self._loss_not_finite, self._data_not_finite = torch.zeros((), device=device), torch.zeros((), device=device)
        state = self.state()  # whose tensors stay where they are
        parts = (state.online, state.target, state.auxiliary, state.optimizer)
        self._kept = [self._loss_not_finite, *(tensor for part in parts for tensor in part.values())]

    @property
    def device(self) -> torch.device:
        """Where updates run."""
        return self._device

    @property
    def updates(self) -> int:
        """Updates made, including those before a restore."""
        return self._updates

    def update(self, batch: Batch) -> UpdateResult:
        """Makes and counts one update that diagnostics see, on `batch` from any device. On CUDA, returns before it is done."""
        batch = batch.to(self._device)
        self.diagnostics.before_update(self._updates, batch)
        result = self.train(batch)
        self.diagnostics.after_update(self._updates + 1, batch)
        self.advance(1)
        return result

    def train(self, batch: Batch) -> UpdateResult:
        """The update itself. It does not synchronize with the host and counts nothing there.

        All shapes follow from the batch's. Draws random numbers (noise, augmentation, quantile fractions) from torch's global
        generator.

        Args:
            batch: on the networks' device.
        """
        evaluation = self._evaluate(batch)
        gradient = self._optimizer.minimise(evaluation.total)
        if self._target_update.period == 1:
            self._target_update.move()
        return UpdateResult(
            evaluation.loss.detach(),
            evaluation.spr_loss.detach(),
            evaluation.q_tm1,
            evaluation.target,
            evaluation.priorities,
            gradient,
        )

    def advance(self, updates: int) -> None:
        """Counts `updates`, at most `updates_to_edge`, and does what is due after them."""
        self._updates += updates
        # Only a period of 1 is part of the update. With a longer one, most passes over all parameters would change nothing.
        if self._target_update.period > 1 and self._updates % self._target_update.period == 0:
            self._target_update.move()
        self._resets.after_update(self._updates)

    def updates_to_edge(self) -> int:
        """Number of `train` calls before `advance` is due; 0 if diagnostics must see the next update: call `update`."""
        unseen, period = self.diagnostics.unseen_updates(self._updates), self._target_update.period
        to_target = period - self._updates % period if period > 1 else unseen
        return min(unseen, to_target, self._resets.schedule.updates_to_next(self._updates))

    def is_finite(self) -> bool:
        """Whether all losses were finite and all of `state` is. Waits for the device, so do not call it in every update."""
        return bool(all_finite(self._kept).item())

    @property
    def not_finite(self) -> Tensor:
        """float32[]: NaN once a loss or a batch was not finite, 0 before."""
        return self._loss_not_finite + self._data_not_finite

    def data_is_finite(self) -> bool:
        """Whether all rewards and observations trained on were finite. Waits for the device."""
        return bool(all_finite([self._data_not_finite]).item())

    def acting_weights(self) -> dict[str, Tensor]:
        """The live weights to act with: the online network's, or with agent.act_with_target the target network's."""
        return (self._target if self._config.agent.act_with_target else self._online).state_dict()

    def state(self) -> UpdateState:
        """The state to save. The tensors are live: encode them before the next update."""
        return UpdateState(
            online=self._online.state_dict(),
            target=self._target.state_dict(),
            auxiliary=self._auxiliary.state_dict(),
            optimizer=self._optimizer.moments(),
            updates=self._updates,
        )

    def restore(self, state: UpdateState) -> None:
        """Resumes from `state`.

        Raises:
            RunError: the state is from another network.
        """
        mine = self.state()
        copy_tensors(mine.online, state.online, "the checkpoint's online weights")
        copy_tensors(mine.target, state.target, "the checkpoint's target weights")
        copy_tensors(mine.auxiliary, state.auxiliary, "the checkpoint's self-prediction weights")
        copy_tensors(mine.optimizer, state.optimizer, "the checkpoint's optimizer moments")
        self._updates = state.updates

    def _evaluate_and_flag(self, batch: Batch) -> _Evaluation:
        """Evaluates the live networks, and sets the flag of a loss or a batch that is not finite."""
        evaluation = self._objective(self._networks, batch)
        # 0 times a value that is not finite is NaN. This needs no wait for the device.
        self._loss_not_finite.add_(evaluation.total.detach(), alpha=0)
        self._data_not_finite.add_(batch.sum_of_numbers(), alpha=0)
        return evaluation

    def _objective(self, networks: Networks, batch: Batch) -> _Evaluation:
        """Evaluates `networks` on `batch`, with new noise, augmentation and quantile fractions."""
        with autocast(self._config.learner.precision, self._device):
            return self._evaluation(networks, batch)

    def _evaluation(self, networks: Networks, batch: Batch) -> _Evaluation:
        replay, (online, target, auxiliary) = self._config.replay, networks
        online.resample_noise()
        target.resample_noise()
        batch = augment_batch(batch, self._augment)
        torso = online.torso
        latent = torso.encode(batch.s_tm1)
        result = self._loss(torso.project(latent), online, target, batch)
        loss, spr_loss = result.loss, auxiliary(latent, torso, target.torso, batch)
        if replay.importance_weights:
            weights = importance_weights(batch.probability, replay.importance_exponent, batch.least_probability)
            loss, spr_loss = loss * weights, spr_loss * weights
        loss, spr_loss = loss.mean(), spr_loss.mean()
        total = loss + self._config.agent.spr_weight * spr_loss
        new_priorities = priorities(result.loss.detach(), replay.priority_exponent)
        return _Evaluation(loss, spr_loss, total, result.q_tm1, result.target, new_priorities)

    def _make_modules(self, seed: int) -> tuple[ValueNetwork, SelfPrediction | NoSelfPrediction]:
        network = build_network(self._config.agent, self._spec, seed)
        return network, make_self_prediction(self._config.agent, network.torso, self._spec.num_actions, seed)

    def _fresh(self, number: int) -> Mapping[str, Tensor]:
        """New initial values of all parameters for the reset with this number."""
        network, auxiliary = self._make_modules(reset_seed(self._config.run.seed, number))
        return {**network.state_dict(), **auxiliary.state_dict()}


def gpu_memory_bytes(device: torch.device) -> int:
    """Memory that this process's tensors hold on `device`; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def make_update_step(config: Config, spec: EnvSpec) -> UpdateStep:
    """An update step with fresh parameters from run.seed on learner.device.

    Raises:
        UsageError: CUDA was asked for and is absent, or agent.torso cannot process the environment's observations or the
            configured changes to them.
    """
    device = find_device(config.learner.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams, graphs and events without an explicit device are made there
    return UpdateStep(config, spec, device, make_compiler(config.learner))


def configure_torch(num_threads: int) -> None:
    """Configures the process and the calling thread. Call it once, in the thread that updates."""
    torch.set_num_threads(num_threads)
    # Adam's moments decay into denormal numbers, which are many times slower on a CPU.
    torch.set_flush_denormal(True)
