"""The actor's outer loop: load new weights, follow the coordinator's instructions, act, report."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from actors.collector import Collector
from actors.epsilons import epsilons
from actors.reward_noise import make_reward_noise
from actors.segment_stream import SegmentStream
from actors.weights import WeightsFollower
from sbrl.config import Config
from sbrl.coordination.episode_log import EpisodeSender
from sbrl.coordination.fleet import STEPS_COUNTER, RunState
from sbrl.coordination.membership import FleetMember
from sbrl.envs.spec import VectorEnv
from sbrl.errors import RunError
from sbrl.networks.policy import EpsilonGreedyPolicy
from sbrl.runtime.lifecycle import START_AGAIN
from sbrl.seeds import reward_noise_seed
from sbrl.storage.black_box import BlackBox
from sbrl.telemetry.metrics import ActorMetrics, Totals
from sbrl.v1.episodes_pb2 import Episode

logger = logging.getLogger(__name__)

REPORT_STEPS = 16  # inner steps between two refreshes of the metrics
WAIT_SECONDS = 1.0  # wait for new instructions before checking again whether to stop


class ActorLoop:
    """Runs until the run is collected, `stop` is set or the actor gets another index; then it drains.

    The caller makes and closes everything that it uses.
    """

    def __init__(
        self,
        config: Config,
        envs: VectorEnv,
        policy: EpsilonGreedyPolicy,
        streams: Sequence[SegmentStream],
        follower: WeightsFollower,
        sender: EpisodeSender,
        member: FleetMember,
        metrics: ActorMetrics,
        stop: threading.Event,
        black_box: BlackBox,
    ) -> None:
        self._black_box = black_box
        self._config, self._policy, self._streams = config, policy, streams
        self._follower, self._sender, self._member = follower, sender, member
        self._metrics, self._totals, self._stop = metrics, Totals(), stop
        noise_seed = reward_noise_seed(config.run.seed, member.index, member.incarnation)
        self._collector = Collector(envs, policy, streams, self._on_episode, make_reward_noise(config.env, noise_seed))
        self._weights_version = 0
        self._frames_per_step = config.env.frames_per_step
        self._actor, self._incarnation = member.index, member.incarnation

    def run(self) -> None:
        """Acts while the run goes on, then writes the rest of the running episodes.

        Raises:
            SystemExit: with START_AGAIN, if the actor has rejoined at another index.
        """
        is_another = self._act()
        if is_another:
            self._stop.set()  # bounds each wait of the drain, as SIGTERM does
        self._collector.drain()
        for stream in self._streams:
            stream.drain()
        if is_another:
            raise SystemExit(START_AGAIN)

    def _act(self) -> bool:
        """Acts until it must stop. Returns whether the reason is another index."""
        steps = 0
        while not self._stop.is_set():
            instructions = self._member.instructions
            if instructions.state is not RunState.RUNNING:
                logger.info("the run is collected: stopping")
                return False
            index = self._member.index
            if index != self._actor:  # another actor may now have the old index, and its epsilons
                logger.warning("this is actor %d now, no longer %d: starting again as that", index, self._actor)
                return True
            if self._collector.env_steps >= instructions.step_limit:
                start = time.monotonic()
                self._member.wait_instructions(WAIT_SECONDS)
                self._metrics.blocked_seconds.labels("coordinator").inc(time.monotonic() - start)
                continue
            self._take_weights()
            epsilon = epsilons(self._config, self.global_steps(), self._actor)
            # Exact at every step, because the coordinator's step allowance depends on it. Counted before the step, so that a
            # kill during the step leaves no transitions of uncounted steps.
            steps_after = self._collector.env_steps + self._config.actors.envs_per_actor
            self._totals.raise_to(self._metrics.env_steps, steps_after)
            self._black_box.write(*self._member.of_this_lease({STEPS_COUNTER: steps_after}))
            self._collector.step(epsilon, self._weights_version)
            steps += 1
            if steps % REPORT_STEPS == 0:
                self._metrics.epsilon.set(float(epsilon.mean()))
                self.report()
        return False

    def report(self) -> None:
        """Brings the metrics up to date with the streams."""
        metrics, raise_to, streams = self._metrics, self._totals.raise_to, self._streams
        dropped = sum(stream.dropped for stream in streams)
        at_close = sum(stream.dropped_at_close for stream in streams)
        raise_to(metrics.frames, self._collector.env_steps * self._frames_per_step)
        raise_to(metrics.transitions_confirmed, sum(stream.inserted for stream in streams))
        raise_to(metrics.transitions_dropped.labels("shard_lost"), dropped - at_close)
        raise_to(metrics.transitions_dropped.labels("stopped"), at_close)
        raise_to(metrics.streams_moved, sum(stream.moves for stream in streams))
        raise_to(metrics.blocked_seconds.labels("replay"), sum(stream.blocked_seconds for stream in streams))
        raise_to(metrics.episodes_dropped, self._sender.dropped)
        raise_to(metrics.episodes_cut, self._collector.episodes_cut)
        metrics.transitions_in_flight.set(sum(stream.in_flight for stream in streams))
        metrics.weights_age_seconds.set(self._follower.age_seconds)
        metrics.policy_lag_versions.set(self._follower.lag_versions)

    def global_steps(self) -> int:
        """Steps of the whole run: the coordinator's last count plus this actor's steps since then."""
        told = self._member.instructions
        reported = told.step_limit - told.step_allowance
        return told.env_steps + max(0, self._collector.env_steps - reported)

    def _take_weights(self) -> None:
        new = self._follower.take()
        if new is None:
            return
        try:
            self._policy.load(new.tensors)
        except RunError as error:
            raise RunError(f"weights version {new.version}: {error}") from None
        self._weights_version = new.version
        self._metrics.weights_version.set(new.version)
        self._metrics.weights_fetched.inc()

    def _on_episode(self, episode: Episode) -> None:
        self._metrics.episodes.inc()
        self._metrics.episode_return.set(episode.episode_return)
        episode.actor, episode.incarnation, episode.env_steps = self._actor, self._incarnation, self.global_steps()
        self._sender.add(episode)
