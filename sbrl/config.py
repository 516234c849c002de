"""One frozen, validated configuration tree, read by every role.

Sources, later wins: a preset, a YAML file, dotted `key=value` overrides. `load` reads all three; `dump` writes the YAML that
`load` reads back to an equal tree. Field docstrings are the reference: `sbrl config schema` prints them, and the message for a
value out of range ends with them, so each says what a value beyond the bounds would lead to where that is not plain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sbrl.config_errors import explain, nearest
from sbrl.errors import UsageError
from sbrl.presets import DEFAULT_PRESET, PRESETS

SCHEMA_VERSION: Final = 1

# host:port, with a port of at most 65535
_PORT = r"(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
Address = Annotated[str, Field(pattern=rf"^[^:\s]+:{_PORT}$")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Run(Section):
    """How long, from which seed, and how often the run is saved."""

    env_steps: int = Field(1_250_000, ge=1)
    """Agent steps to collect over all actors; on Atari one step is `env.frame_skip` frames; none would teach nothing."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seeds networks, environments and exploration (31 bits, the most ALE takes); `--serial` is bit-reproducible from it."""
    checkpoint_interval_seconds: float = Field(120.0, gt=0)
    """Seconds between two learner checkpoints; at zero the learner would do nothing but save."""
    keep_checkpoints: int = Field(3, ge=1)
    """Learner checkpoints kept, older ones are deleted; with none a killed run could not go on."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level written to logs/<role>.log."""


class Env(Section):
    """The environment, by its Gymnasium id, and for ALE games the preprocessing (Machado et al. 2018; Dopamine's values)."""

    id: str = Field("ALE/Pong-v5", min_length=1)
    """Gymnasium id: an ALE game (ALE/Pong-v5), MinAtar (MinAtar/Breakout-v1) or any other with discrete actions."""
    frame_skip: int = Field(4, ge=1, le=100)
    """ALE only: frames an action is repeated for; what is seen is the maximum over the last two. At zero no time would pass."""
    frame_size: int = Field(84, ge=36)
    """ALE only: height and width in pixels of the grayscale frame (36 is the least the Nature CNN can take)."""
    frame_stack: int = Field(4, ge=1, le=16)
    """ALE only: frames an agent sees at once, each stored with every item; other environments are not stacked."""
    repeat_action_probability: float = Field(0.25, ge=0, lt=1)
    """ALE only: sticky actions; the probability that the previous action is repeated on a frame. At 1 the agent's actions
    would never be taken."""
    noop_max: int = Field(0, ge=0)
    """ALE only: up to so many no-op actions after a reset (Dopamine with sticky actions: none)."""
    terminal_on_life_loss: bool = False
    """ALE only: end an episode for the learner when a life is lost (the Atari 100k protocol)."""
    full_action_space: bool = False
    """ALE only: all 18 actions in place of the game's minimal set."""
    max_episode_steps: int = Field(27_000, ge=1, le=10_000_000)
    """Agent steps after which an episode is truncated (a limit of the environment's own below this one still holds)."""
    clip_rewards: bool | None = None
    """Clip rewards for the learner to [-1, 1]; unset: yes for ALE games, no elsewhere. Logged returns are never clipped."""


class Agent(Section):
    """The algorithm: network, target and exploration."""

    algorithm: Literal["qr-dqn"] = "qr-dqn"
    """QR-DQN (Dabney et al. 2018)."""
    n_step: int = Field(3, ge=1, le=64)
    """Steps of reward summed before bootstrapping; each is stored with every item, so large values cost memory."""
    n_max: int | None = Field(None, ge=1, le=64)
    """Steps stored with each item, so that n_step can change without collecting again; unset: n_step."""
    discount: float = Field(0.99, gt=0, lt=1)
    """Discount factor per agent step (gamma); at 1 values of endless play would grow without bound."""
    torso: Literal["auto", "nature-cnn", "minatar-conv", "mlp"] = "auto"
    """Feature network; auto chooses by what is observed: nature-cnn for frames, minatar-conv for grids, mlp for vectors."""
    hidden_size: int = Field(512, ge=1)
    """Units of the dense layer (nature-cnn, minatar-conv), or of both hidden layers (mlp); without any, nothing is learned."""
    num_quantiles: int = Field(200, ge=1)
    """Quantiles of the return distribution an action's value is the mean of; without any there is no value."""
    kappa: float = Field(1.0, gt=0)
    """Half-width of the quantile Huber loss's quadratic part; at zero no part would be quadratic, and the loss zero."""
    epsilon_start: float = Field(1.0, ge=0, le=1)
    """Probability of a random action until replay.min_size steps are collected."""
    epsilon_end: float = Field(0.01, ge=0, le=1)
    """Probability of a random action after the decay."""
    epsilon_decay_steps: int | None = Field(None, ge=0)
    """Steps, counted over all actors after replay.min_size, in which epsilon falls linearly; unset: 250,000, or a fifth of
    run.env_steps if that is less."""

    @model_validator(mode="after")
    def _n_max_covers_n_step(self) -> Agent:
        if self.n_max is not None and self.n_max < self.n_step:
            raise ValueError(
                f"agent.n_max is {self.n_max}, below agent.n_step {self.n_step}: stored items would be too short "
                f"for the target; set agent.n_max={self.n_step} or more, or leave it unset"
            )
        return self

    @property
    def stored_steps(self) -> int:
        """Steps of reward and discount each replay item carries (n_max, or n_step when unset)."""
        return self.n_step if self.n_max is None else self.n_max


class Learner(Section):
    """The update: how large, how often, and with which optimizer."""

    batch_size: int = Field(8, ge=1, le=4096)
    """Transitions per gradient update: none would train nothing, and SBRL's replay is tuned for few."""
    updates_per_step: float = Field(0.25, ge=1 / 64, le=64)
    """Gradient updates per agent step (the replay ratio, or update-to-data ratio): beyond 1/64 and 64 one side of the run would
    mostly wait for the other."""
    learning_rate: float = Field(5e-5, gt=0, le=1)
    """Adam's step size: at zero nothing is learned, above one training diverges."""
    adam_epsilon: float = Field(3.125e-4, gt=0)
    """Adam's epsilon (Dopamine's QR-DQN: 0.01 / 32); at zero a parameter without gradient would become NaN."""
    target_update_period: int = Field(2_000, ge=1)
    """Updates between two copies of the online network into the target network (Dopamine: 8,000 steps x 0.25)."""
    publish_period: int = Field(100, ge=1)
    """Updates between two publications of weights to actors and evaluator, who act on older ones in between."""
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d{1,2})?)$")
    """Where updates run: cpu, cuda or cuda:N; no other backend is supported."""
    num_threads: int = Field(1, ge=1)
    """CPU threads of one update; one leaves the other cores to the actors, none could not run."""


class Replay(Section):
    """The sharded Reverb replay."""

    num_shards: int = Field(2, ge=1, le=16)
    """Reverb servers the replay is spread over: none could store anything, and each is a process of 400 MB or more."""
    capacity: int = Field(1_000_000, ge=1)
    """Transitions kept over all shards; the oldest are evicted first."""
    min_size: int | None = Field(None, ge=1)
    """Transitions over all shards before the first update; unset: 20,000, or a tenth of run.env_steps if that is less."""
    prioritized: bool = True
    """Sample in proportion to priority (Schaul et al. 2016); uniformly otherwise."""
    priority_exponent: float = Field(0.5, gt=0, le=1)
    """Priority is (loss + 1e-10) to this power (Dopamine: 0.5); for zero set replay.prioritized=false."""
    importance_weights: bool = False
    """Weight the gradient by 1 / sqrt(sampling probability), divided by the batch's maximum. Dopamine's QR-DQN does not."""
    error_buffer: float | None = Field(None, gt=0)
    """Samples the learner may be behind its ratio on one shard before inserts wait, at least 2 * max(1, samples per insert) and
    one batch, or both sides would wait for each other for ever; unset: room for 8 batches or 16 inserts, whichever is more."""
    checkpoint_interval_seconds: float = Field(600.0, gt=0)
    """Seconds between two checkpoints of a shard; at zero it would do nothing but save."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints a shard keeps, older ones are deleted; with none a killed shard would start empty."""


class Actors(Section):
    """The actor fleet."""

    num_actors: int | None = Field(None, ge=1, le=1024)
    """Actor processes of a local run; unset: one for every two cores, at least one."""
    envs_per_actor: int = Field(8, ge=1, le=256)
    """Environments each actor steps with one batched policy inference; with none it would collect nothing."""
    max_in_flight_items: int = Field(16, ge=1, le=1000)
    """Items an environment's writer may have unconfirmed before the actor waits: what bounds its memory. With none allowed
    nothing would be sent."""
    weights_interval_seconds: float = Field(2.0, gt=0)
    """Seconds between two looks for newer weights; at zero the actor would flood the coordinator with requests."""


class Evaluator(Section):
    """The frozen evaluation protocol: full episodes, unclipped returns."""

    interval_env_steps: int = Field(125_000, ge=1)
    """Agent steps of training between two evaluations."""
    episodes: int = Field(10, ge=1)
    """Full episodes per evaluation; without one there is no mean return."""
    epsilon: float = Field(0.001, ge=0, le=1)
    """Probability of a random action while evaluating (Dopamine: 0.001)."""
    num_envs: int = Field(5, ge=1, le=64)
    """Environments stepped side by side; each plays a fixed share of the episodes, so that short ones are not favoured."""


class Network(Section):
    """Where the roles meet. A local run fills in free loopback ports; on Kubernetes the chart sets fixed ones."""

    bind_host: str = "127.0.0.1"
    """Address servers listen on (0.0.0.0 in a pod)."""
    coordinator_address: Address = "127.0.0.1:0"
    """The coordinator's host:port; port 0 lets a local run choose."""
    replay_addresses: tuple[Address, ...] = ()
    """Each shard's host:port, in order; empty lets a local run choose."""
    health_port: int = Field(0, ge=0, le=65535)
    """Port of each role's gRPC health service; 0 chooses a free one, which the log names."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of each role's Prometheus endpoint; 0 chooses a free one, which the log names."""


class Config(Section):
    """The whole tree, complete: what is unset and depends on run.env_steps is filled in, so a saved config holds numbers."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this tree that a run directory was written with; another one is refused rather than guessed at."""
    run: Run = Run()
    env: Env = Env()
    agent: Agent = Agent()
    learner: Learner = Learner()
    replay: Replay = Replay()
    actors: Actors = Actors()
    evaluator: Evaluator = Evaluator()
    network: Network = Network()

    @property
    def samples_per_insert(self) -> float:
        """Samples trained per transition inserted, after warm-up: batch size x updates per step."""
        return self.learner.batch_size * self.learner.updates_per_step

    @property
    def min_replay_size(self) -> int:
        """replay.min_size, which validation has filled in."""
        assert self.replay.min_size is not None
        return self.replay.min_size

    @model_validator(mode="after")
    def _fill_in_and_cross_check(self) -> Config:
        # Validators run in the order of the class, so the checks see the complete tree. A frozen model has no other door:
        # pydantic wants the same object back.
        env_steps = self.run.env_steps
        if self.replay.min_size is None:
            min_size = max(self.replay.num_shards, min(20_000, env_steps // 10))
            object.__setattr__(self, "replay", self.replay.model_copy(update={"min_size": min_size}))
        if self.agent.epsilon_decay_steps is None:
            decay_steps = min(250_000, env_steps // 5)
            object.__setattr__(self, "agent", self.agent.model_copy(update={"epsilon_decay_steps": decay_steps}))
        self._check_replay()
        self._check_addresses()
        return self

    def _check_replay(self) -> None:
        replay, min_size = self.replay, self.min_replay_size
        if min_size < replay.num_shards:
            raise ValueError(
                f"replay.min_size is {min_size}, below replay.num_shards {replay.num_shards}: every shard needs one "
                f"transition before it can be sampled; raise replay.min_size or lower replay.num_shards"
            )
        if self.run.env_steps <= min_size:
            raise ValueError(
                f"run.env_steps is {self.run.env_steps}, not above replay.min_size {min_size}: the run would end before "
                f"its first update; raise run.env_steps or lower replay.min_size"
            )
        if replay.capacity < min_size:
            raise ValueError(
                f"replay.capacity is {replay.capacity}, below replay.min_size {min_size}: the first update would wait "
                f"for ever; raise replay.capacity or lower replay.min_size"
            )
        least = max(2.0, 2 * self.samples_per_insert, self.learner.batch_size)
        if replay.error_buffer is not None and replay.error_buffer < least:
            raise ValueError(
                f"replay.error_buffer is {replay.error_buffer:g}, below {least:g} (the larger of one batch and "
                f"2 * max(1, samples per insert)): inserts and samples would wait for each other for ever; "
                f"raise it or leave it unset"
            )

    def _check_addresses(self) -> None:
        addresses, num_shards = self.network.replay_addresses, self.replay.num_shards
        if addresses and len(addresses) != num_shards:
            raise ValueError(
                f"network.replay_addresses has length {len(addresses)} but replay.num_shards is {num_shards}: shards would be "
                f"missing or idle; give one address for each shard, or none to let a local run choose"
            )
        if len(set(addresses)) != len(addresses):
            raise ValueError(
                "network.replay_addresses names an address twice: two shards would share one server; give each its own"
            )


def build(*sources: Mapping[str, Any]) -> Config:
    """Merges nested mappings, later ones winning, and validates the result.

    Raises:
        UsageError: one line for each thing wrong, with the field, the rule and the consequence, or the nearest known key.
    """
    tree: dict[str, Any] = {}
    for source in sources:
        _merge(tree, source)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(explain(error, Config)) from None


def load(path: Path | None = None, preset: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Reads a config from a preset, then a YAML file, then `key=value` overrides; later wins.

    Without a preset a YAML file stands on the default values alone, so that a saved run.yaml is read back unchanged; with
    neither, the default preset is taken.

    Raises:
        UsageError: an unknown preset or key, a value out of range, or a file that is no YAML mapping.
    """
    sources: list[Mapping[str, Any]] = []
    if preset is not None or path is None:
        sources.append(_preset(preset or DEFAULT_PRESET))
    if path is not None:
        sources.append(read_yaml(path))
    sources.extend(parse_override(text) for text in overrides)
    return build(*sources)


def read_yaml(path: Path) -> dict[str, Any]:
    """The config part of a YAML file: its `metadata` (versions, git commit) is left out.

    Raises:
        UsageError: the file cannot be read, is no YAML mapping, or was written with another schema version.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UsageError(f"cannot read config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(
            f"config {path} must be a mapping of sections, such as 'run: {{env_steps: 20000}}', not a {type(tree).__name__}"
        )
    tree.pop("metadata", None)
    version = tree.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} was written with config schema {version!r}; this version of sbrl reads schema {SCHEMA_VERSION}: "
            f"start a new run directory, or use the sbrl version that wrote it"
        )
    return tree


def parse_override(text: str) -> dict[str, Any]:
    """`section.key=value` as a nested mapping; the value is read as YAML, so 1e-4, true, null and [a, b] have their types.

    Raises:
        UsageError: no `=`, an empty part of the key, or a value that is no YAML.
    """
    key, separator, value = text.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UsageError(f"override {text!r} is not of the form section.key=value, such as run.seed=1")
    try:
        tree: Any = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise UsageError(f"override {text!r}: the value {value!r} is not valid YAML; quote it") from None
    for part in reversed(parts):
        tree = {part: tree}
    return dict(tree)


def dump(config: Config, metadata: Mapping[str, Any] | None = None) -> str:
    """YAML that `load` reads back to an equal config; `metadata` comes first and is ignored by `load`."""
    tree = config.model_dump(mode="json")
    if metadata:
        tree = {"metadata": dict(metadata), **tree}
    return str(yaml.safe_dump(tree, sort_keys=False))


def json_schema() -> str:
    """The tree's JSON schema (draft 2020-12) with every field's default, bounds and description."""
    return json.dumps(Config.model_json_schema(), indent=2)


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as the number people mean by it; YAML 1.1 wants a dot and a signed exponent, and makes it a string."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def _preset(name: str) -> Mapping[str, Any]:
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}{nearest(name, PRESETS)}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]


def _merge(into: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)  # copies, so that the presets are never written to
        else:
            into[key] = value
