"""The learner's side of replay: readers, intake, counts, memory and batches, wired from the config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self, cast

import torch

from learner.algorithm.compilation import make_compiler
from learner.batches import Batches, MemoryBatches
from learner.checkpoint import SavedLearner
from learner.intake import Intake
from learner.memory.replay import ReplayMemory
from learner.ratio import Ratio, RatioSettings
from sbrl.config import Config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError
from sbrl.replay.items import ItemShape
from sbrl.replay.receipts import Receipts
from sbrl.replay.segment_reader import SegmentReader
from sbrl.replay.segments import Segment, SegmentShape
from sbrl.seeds import memory_seed

if TYPE_CHECKING:
    from learner.remote_batches import ReverbBatches


class NoMemory:
    """Stands in for the memory if replay is sampled from Reverb: it keeps no segments."""

    size = capacity = resident_bytes = 0
    is_full = False

    def append(self, segment: Segment) -> int:
        return 0

    def prepend(self, segment: Segment) -> int:
        return 0


def restored_accounts(settings: RatioSettings, state: SavedLearner) -> tuple[Ratio, Receipts, float]:
    """The ratio, the receipts and the highest priority from a checkpoint.

    Raises:
        RunError: they are missing or damaged.
    """
    try:
        ratio = Ratio.restored(settings, state.received["ratio"])
        receipts = Receipts.from_state(state.received["receipts"])
        max_priority = float(state.counters["max_priority"])
    except (KeyError, ValueError, OverflowError) as error:
        raise RunError(
            f"the checkpoint of update {state.update.updates} does not say what was received "
            f"({type(error).__name__}: {error}): it is damaged; delete it to go on from the one before, or start a new run"
        ) from None
    return ratio, receipts, max_priority


class Replay(NamedTuple):
    """All parts of it. `start` begins to read."""

    sampling: str  # cached or remote
    ratio: Ratio
    receipts: Receipts
    memory: ReplayMemory | NoMemory
    intake: Intake
    readers: Sequence[SegmentReader]
    batches: Batches
    term: int  # the learner's term

    @classmethod
    def of(
        cls, config: Config, spec: EnvSpec, device: torch.device, sampling: str, state: SavedLearner | None, term: int
    ) -> Self:
        """Makes an empty replay, with a checkpoint's counts if there is a checkpoint.

        Args:
            sampling: cached or remote.
            term: the learner's term; no earlier learner of the run had it.

        Raises:
            RunError: the checkpoint's counts cannot be read.
        """
        replay, num_shards, addresses = config.replay, config.replay.num_shards, config.network.replay_addresses
        shape = SegmentShape.of(spec, config.agent.stored_steps)
        settings, max_priority = RatioSettings.of(config), 1.0
        if state is None:
            ratio, receipts = Ratio(settings), Receipts()
        else:
            ratio, receipts, max_priority = restored_accounts(settings, state)
        memory: ReplayMemory | NoMemory = NoMemory()
        batches: Batches
        if sampling == "cached":
            memory = ReplayMemory(
                shape,
                replay.capacity,
                device,
                seed=memory_seed(config.run.seed, term),
                prioritized=replay.prioritized,
                max_priority=max_priority,
                recency_horizon=replay.recency_horizon,
            )
            batches = MemoryBatches(memory, config.agent, config.learner.batch_size, make_compiler(config.learner))
        else:
            shape = shape.without_frames()
            from learner.remote_batches import ReverbBatches  # imports TensorFlow, which cached replay does not need

            items = ItemShape.of(spec, config.agent.stored_steps)
            batches = ReverbBatches(addresses, items, config.agent, config.learner.batch_size, replay.prioritized, max_priority)
        intake = Intake(shape, receipts, ratio, memory, num_shards)
        readers = [SegmentReader(address, shard, shape, intake.put_fresh) for shard, address in enumerate(addresses)]
        return cls(sampling, ratio, receipts, memory, intake, readers, batches, term)

    def start(self) -> None:
        """Starts the threads that read the queues, and the logs once.

        The run's first learner does not read the logs: the queues bring the same segments, no faster than the ratio wants them.
        """
        for reader in self.readers:
            if self.term > 1:
                reader.fill(self.term, self.intake.put_logged)
            reader.start()
        if self.sampling == "remote":
            cast("ReverbBatches", self.batches).start()

    def stop(self) -> None:
        """Asks all threads to end. May be called more than once."""
        self.intake.close()
        for reader in self.readers:
            reader.stop()
        if self.sampling == "remote":
            cast("ReverbBatches", self.batches).stop()
