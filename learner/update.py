"""The update step: one batch in, changed parameters and new priorities out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from learner.losses import importance_weights, priorities, quantile_huber_loss, quantile_targets, select_action
from learner.records import Batch, HostCopy, UpdateResult, UpdateState
from sbrl.config import Config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.networks.build import build_network
from sbrl.networks.heads import QuantileNetwork
from sbrl.networks.serialization import copy_tensors


class UpdateStep:
    """QR-DQN's update: Adam on the quantile Huber loss, with a target network copied every target_update_period updates."""

    def __init__(self, online: QuantileNetwork, config: Config) -> None:
        """
        Args:
            online: The network to train, on the device to train on.
            config: Read are learner, agent.kappa and replay's priority settings.
        """
        self._online = online
        self._target = copy.deepcopy(online).requires_grad_(False)
        self._config = config
        self._device = next(online.parameters()).device
        # Fused: one pass over parameters, gradients and moments in place of ten; on a CPU a third of the time.
        self._optimizer = torch.optim.Adam(
            online.parameters(), lr=config.learner.learning_rate, eps=config.learner.adam_epsilon, fused=True
        )
        for parameter in online.parameters():
            # Adam makes this at its first step; made here, it can be restored before that.
            self._optimizer.state[parameter] = {
                "step": torch.zeros((), device=self._device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        self._updates = 0

    @property
    def updates(self) -> int:
        """Updates made, those before a restore included."""
        return self._updates

    def update(self, batch: Batch) -> UpdateResult:
        """Trains on `batch`, from any device; on CUDA returns before the device is done."""
        settings = self._config
        batch = batch.to(self._device)
        with torch.no_grad():
            targets = quantile_targets(batch.r_t, batch.discount_t, self._target(batch.s_t))
        quantiles = select_action(self._online(batch.s_tm1), batch.a_tm1)
        loss, gradient = quantile_huber_loss(quantiles.detach(), targets, settings.agent.kappa)
        new_priorities = HostCopy(priorities(loss, settings.replay.priority_exponent))
        if settings.replay.importance_weights:
            weights = importance_weights(batch.probability)
            loss, gradient = loss * weights, gradient * weights[:, None]
        self._optimizer.zero_grad(set_to_none=True)
        # The loss's gradient is known in closed form: autograd starts at the network's output.
        torch.autograd.backward(quantiles, gradient / len(loss))
        self._optimizer.step()
        self._updates += 1
        if self._updates % settings.learner.target_update_period == 0:
            copy_tensors(self._target.state_dict(), self._online.state_dict(), "online weights")
        return UpdateResult(loss=loss.mean(), mean_q=quantiles.detach().mean(), priorities=new_priorities)

    def gradient_norm(self) -> Tensor:
        """float32[]: Euclidean norm of the last update's gradient. Reads all gradients, so not part of every update.

        Raises:
            RunError: no update was made yet.
        """
        gradients = [parameter.grad for parameter in self._online.parameters() if parameter.grad is not None]
        if not gradients:
            raise RunError("the gradient norm is known only after an update")
        return torch.nn.utils.get_total_norm(gradients)

    def state(self) -> UpdateState:
        """What to save. The tensors are live: encode them before the next update."""
        return UpdateState(
            online=self._online.state_dict(), target=self._target.state_dict(), optimizer=self._moments(), updates=self._updates
        )

    def restore(self, state: UpdateState) -> None:
        """Goes on from `state`.

        Raises:
            RunError: the state is of another network.
        """
        copy_tensors(self._online.state_dict(), state.online, "the checkpoint's online weights")
        copy_tensors(self._target.state_dict(), state.target, "the checkpoint's target weights")
        copy_tensors(self._moments(), state.optimizer, "the checkpoint's optimizer moments")
        self._updates = state.updates

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{moment}/{name}": tensor
            for name, parameter in self._online.named_parameters()
            for moment, tensor in self._optimizer.state[parameter].items()
        }


def make_update_step(config: Config, spec: EnvSpec) -> UpdateStep:
    """An update step with fresh parameters from run.seed on learner.device.

    Raises:
        RunError: CUDA was asked for and is absent.
        UsageError: agent.torso cannot take the environment's observations.
    """
    network = build_network(config.agent, spec, seed=config.run.seed)
    return UpdateStep(network.to(find_device(config.learner.device)), config)


def configure_torch(num_threads: int) -> None:
    """Settings of the process, and of the calling thread: call it once, in the thread that updates."""
    torch.set_num_threads(num_threads)
    # Adam's moments decay into denormal numbers, which a CPU handles many times slower than others.
    torch.set_flush_denormal(True)


def find_device(name: str) -> torch.device:
    """The device called `name` (cpu, cuda, cuda:N).

    Raises:
        RunError: it is absent.
    """
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise RunError(
                f"learner.device={name}: this machine or this build of torch has {count} CUDA devices; set learner.device=cpu"
            )
    return device
