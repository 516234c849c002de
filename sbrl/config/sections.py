"""The keys of the configuration, by section, each with its bounds and its meaning.

Field docstrings are the reference: `sbrl config schema` prints them, and the message for a value out of range ends with them,
so each says what a value beyond the bounds would lead to where that is not plain.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticKnownError

from sbrl.config.agents import all_algorithms, find_algorithm
from sbrl.errors import nearest

ATARI_PREFIX = "ALE/"  # of the names of ALE's games
# host:port, with a port of at most 65535; an IPv6 address is in brackets
_PORT = r"(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
Address = Annotated[str, Field(pattern=rf"^([^:\s]+|\[[0-9A-Fa-f:.]+\]):{_PORT}$")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:  # pydantic would read true as 1
            raise PydanticKnownError("int_type" if int in kinds else "float_type")
        return value


class Run(Section):
    """How long, from which seed, and how often the run is saved."""

    env_steps: int = Field(1_250_000, ge=1)
    """Agent steps to collect over all actors; on Atari one step is `env.frame_skip` frames; none would teach nothing."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seeds networks, environments and exploration (31 bits, the most ALE takes); `--serial` is bit-reproducible from it."""
    checkpoint_interval_seconds: float = Field(120.0, gt=0)
    """Seconds between two checkpoints of the learner; at zero it would do nothing but save."""
    keep_checkpoints: int = Field(3, ge=1)
    """Learner checkpoints kept, older ones are deleted; with none a killed run could not go on."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level written to logs/<role>.log."""
    wandb_mode: Literal["disabled", "offline", "online"] = "disabled"
    """Log to Weights & Biases beside TensorBoard, by the optional package wandb: offline writes to the run directory, for
    `wandb sync` to upload later; online uploads at once, and needs `wandb login` or WANDB_API_KEY. Not with --serial."""
    wandb_project: str = Field("sbrl", min_length=1)
    """Project on Weights & Biases that the run belongs to; WANDB_ENTITY names a team."""


class Env(Section):
    """The environment, by its Gymnasium id, and for ALE games the preprocessing (Machado et al. 2018; Dopamine's values); where
    another environment shows pictures, frame_size and frame_stack are theirs, too."""

    id: str = Field("ALE/Pong-v5", min_length=1)
    """Gymnasium id: an ALE game (ALE/Pong-v5), MinAtar (MinAtar/Breakout-v1) or any other with discrete actions; one of your
    own is written as Gymnasium does, package.module:Name-v0, where importing the module registers it."""
    kwargs: dict[str, JsonValue] = {}
    """Arguments of `gymnasium.make` and the environment's constructor, by name: plain values, lists and mappings. Not for ALE
    games, whose settings are the keys below."""
    frame_skip: int = Field(4, ge=1, le=100)
    """ALE only: frames an action is repeated for; what is seen is the maximum over the last two. At zero no time would pass.
    Elsewhere an agent step is one of the environment's own."""
    frame_size: int = Field(84, ge=36)
    """ALE games and pictures: height and width in pixels of the grayscale frame (36 is the least the Nature CNN can take)."""
    frame_stack: int = Field(4, ge=1, le=16)
    """ALE games and pictures: frames an agent sees at once; grids and vectors are not stacked."""
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
    reward_noise: float = Field(0.0, ge=0, le=1e6)
    """Standard deviation of Gaussian noise on the rewards that the learner sees, after clipping; logged returns are without it.
    A factor of studies: noise in the data is what a larger batch averages out."""
    on_bad_value: Literal["stop", "drop_episode"] = "stop"
    """When the environment returns what cannot be learned from (a reward or observation that is not finite, no number, beyond
    32-bit floats or of another shape): stop ends the run; drop_episode drops the episode's rest and its return, counts it and
    goes on."""

    @field_validator("id")
    @classmethod
    def _names_a_module_in_full(cls, value: str) -> str:
        module, colon, name = value.rpartition(":")
        if colon and not (name and all(module.split("."))):  # none, or a relative one
            raise ValueError(
                f"env.id={value!r} must be an environment's name, or package.module:Name-v0: the full name of the module that "
                f"registers it, a colon and its name"
            )
        return value

    @property
    def name(self) -> str:
        """The id without the module that registers it: ale_py:ALE/Pong-v5 is ALE/Pong-v5."""
        return self.id.rpartition(":")[2]

    @property
    def frames_per_step(self) -> int:
        """Emulator frames in one agent step: frame_skip for ALE games, 1 elsewhere."""
        return self.frame_skip if self.is_atari else 1

    @property
    def is_atari(self) -> bool:
        return self.name.startswith(ATARI_PREFIX)

    @property
    def clips_rewards(self) -> bool:
        """Whether the learner sees clipped rewards."""
        return self.is_atari if self.clip_rewards is None else self.clip_rewards


class Agent(Section):
    """The algorithm: network, target and exploration. Unless said otherwise values are Dopamine's."""

    algorithm: str = Field("qr-dqn", json_schema_extra=lambda schema: schema.update(enum=list(all_algorithms())))
    """The head and the loss, by the name that sbrl.config.algorithms gives them, or another package."""
    double: bool = False
    """The online network chooses the action that the target network values (van Hasselt et al. 2016)."""
    dueling: bool = False
    """Two streams, the state's value and the actions' advantages (Wang et al. 2016)."""
    noisy: bool = False
    """Noisy dense layers explore in place of random actions (Fortunato et al. 2018): with agent.exploration=noisy-nets."""
    noisy_sigma: float = Field(0.5, gt=0)
    """Initial scale of noisy layers' noise; at zero they would not explore."""
    n_step: int = Field(3, ge=1, le=64)
    """Steps of reward summed before bootstrapping; each is stored with every item, so large values cost memory."""
    n_step_initial: int | None = Field(None, ge=1, le=64)
    """n at the start and after each reset, from where it goes to n_step in anneal_updates (BBF: 10); unset: always n_step."""
    n_max: int | None = Field(None, ge=1, le=64)
    """Steps stored with each item, so that n_step can change without collecting again; unset: as many as are needed."""
    discount: float = Field(0.99, gt=0, lt=1)
    """Discount factor per agent step (gamma); at 1 values of endless play would grow without bound."""
    discount_initial: float | None = Field(None, gt=0, lt=1)
    """The discount at the start and after each reset, as n_step_initial (BBF: 0.97); unset: discount throughout."""
    anneal_updates: int = Field(10_000, ge=1)
    """Updates in which n and the discount go from their initial values to their final ones, exponentially."""
    torso: Literal["auto", "nature-cnn", "impala", "minatar-conv", "mlp"] = "auto"
    """Feature network; auto chooses by what is observed: nature-cnn for frames, minatar-conv for grids, mlp for vectors."""
    width_scale: float = Field(1.0, gt=0, le=16)
    """Factor on the channels of convolutions (BBF: 4, on impala); at zero nothing would be seen."""
    layer_norm: bool = False
    """Layer normalisation before each ReLU."""
    initial_weights: Literal["variance-scaling", "glorot"] = "variance-scaling"
    """How wide initial weights spread: by a layer's inputs (Dopamine's distributional agents), or by its inputs and outputs
    (Glorot; Dopamine's DQN, full Rainbow and BBF; networks of vectors begin much smoother)."""
    hidden_size: int = Field(512, ge=1)
    """Units of the dense hidden layer, and of the one before it (mlp); without any, nothing is learned."""
    td_loss: Literal["mse", "huber"] = "mse"
    """dqn and m-dqn: the loss on the temporal difference error; huber is quadratic up to agent.kappa."""
    num_atoms: int = Field(51, ge=2)
    """c51: atoms of the return distribution, spread evenly from v_min to v_max; one could not be told from another."""
    v_min: float | None = None
    """c51: the lowest return that can be represented; unset: -v_max."""
    v_max: float | None = None
    """c51: the highest return that can be represented; unset: 10 where rewards are clipped."""
    num_quantiles: int = Field(200, ge=1)
    """qr-dqn: quantiles of the return distribution an action's value is the mean of; without any there is no value."""
    kappa: float = Field(1.0, gt=0)
    """Half-width of the Huber losses' quadratic part; at zero no part would be quadratic, and the loss zero."""
    num_tau_samples: int = Field(64, ge=1)
    """iqn: quantile fractions drawn for the online network in an update; without any there is no loss."""
    num_tau_prime_samples: int = Field(64, ge=1)
    """iqn: quantile fractions drawn for the target; without any there is no target."""
    num_policy_samples: int = Field(32, ge=1)
    """iqn: quantile fractions drawn to choose an action; without any there is no value."""
    tau_embedding_size: int = Field(64, ge=1)
    """iqn: cosines a quantile fraction is embedded in; without any it would not be seen."""
    munchausen_alpha: float = Field(0.9, ge=0, le=1)
    """m-dqn: weight of the log-policy added to the reward; zero leaves soft DQN."""
    munchausen_temperature: float = Field(0.03, gt=0)
    """m-dqn: temperature of the softmax policy; at zero its logarithm is not finite."""
    munchausen_clip: float = Field(-1.0, lt=0)
    """m-dqn: the least that the scaled log-policy may add; at zero nothing would be added."""
    options: dict[str, JsonValue] | None = None
    """Settings of an agent that another package offers, by name, as its documentation says; unset: its defaults."""
    exploration: Literal["linear-epsilon", "ape-x", "noisy-nets"] = "linear-epsilon"
    """How actors explore: epsilon falling with the run's steps, a fixed ladder of epsilons over all environments (Horgan et al.
    2018), or noisy layers alone. All act at random until replay.min_size steps are collected."""
    epsilon_start: float = Field(1.0, ge=0, le=1)
    """linear-epsilon: probability of a random action until replay.min_size steps are collected."""
    epsilon_end: float = Field(0.01, ge=0, le=1)
    """linear-epsilon: probability of a random action after the decay."""
    epsilon_decay_steps: int | None = Field(None, ge=0)
    """linear-epsilon: steps, counted over all actors after replay.min_size, in which epsilon falls linearly; unset: 250,000, or
    a fifth of run.env_steps if that is less."""
    ape_x_epsilon: float = Field(0.4, gt=0, le=1)
    """ape-x: epsilon of the first environment; environment i of N has epsilon ** (1 + i / (N - 1) * exponent). At zero none
    would explore."""
    ape_x_exponent: float = Field(7.0, ge=0)
    """ape-x: how far the ladder reaches down (alpha); at zero all have the same epsilon."""
    act_with_target: bool = False
    """Actors and evaluator act with the target network (SR-SPR, BBF) in place of the online one."""
    spr_weight: float = Field(0.0, ge=0)
    """Weight of the self-prediction loss (SPR, Schwarzer et al. 2021: 5); zero leaves it out."""
    spr_jumps: int = Field(5, ge=1, le=64)
    """Steps ahead that self-prediction predicts; items are made long enough to hold them."""

    @field_validator("algorithm")
    @classmethod
    def _algorithm_is_known(cls, name: str) -> str:
        if find_algorithm(name) is None:
            names = all_algorithms()
            raise ValueError(
                f"agent.algorithm={name!r} is not known{nearest(name, names)}; algorithms: {', '.join(names)} "
                f"(Rainbow is c51 with other settings: see `sbrl presets`)"
            )
        return name

    @property
    def stored_steps(self) -> int:
        """Steps of reward and discount each replay item carries: n_max, or what n and self-prediction need."""
        return self.needed_steps if self.n_max is None else self.n_max

    @property
    def predicts_itself(self) -> bool:
        """Whether self-prediction is on: it has parameters of its own, and scales the encoder's output."""
        return self.spr_weight > 0

    @property
    def needed_steps(self) -> int:
        """The steps that targets (with the largest n) and self-prediction read of an item."""
        jumps = self.spr_jumps if self.predicts_itself else 0
        return max(self.n_step, self.n_step_initial or 0, jumps)


_THREADS: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, strict=True)])


class Learner(Section):
    """The update: how large, how often, and with which optimizer."""

    batch_size: int = Field(8, ge=1, le=4096)
    """Transitions per gradient update: none would train nothing, and SBRL's replay is tuned for few."""
    updates_per_step: float = Field(0.25, ge=1 / 64, le=64)
    """Gradient updates per agent step (the replay ratio, or update-to-data ratio): beyond 1/64 and 64 one side of the run would
    mostly wait for the other."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Adam's step size (Dopamine's QR-DQN, with batch 32: 5e-5): at zero nothing is learned, above one training diverges."""
    adam_epsilon: float = Field(3.125e-4, gt=0)
    """Adam's epsilon (Dopamine's QR-DQN: 0.01 / 32); at zero a parameter without gradient would become NaN."""
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    """Decay of Adam's average of squared gradients, an update. To remember as many samples with batch B' as with B it is
    beta2 ** (B' / B): 0.999 at 32 is 0.99975 at 8. At zero it would remember one update only, at one it would never forget."""
    weight_decay: float = Field(0.0, ge=0, lt=1)
    """AdamW's decoupled weight decay, on weights but not on biases and norms (BBF: 0.1); zero is plain Adam."""
    max_gradient_norm: float | None = Field(None, gt=0)
    """Gradients of a larger Euclidean norm are scaled down to it (SPR: 10); unset: as they are."""
    target_update_period: int = Field(2_000, ge=1)
    """Updates between two changes of the target network (Dopamine: 8,000 steps x 0.25)."""
    target_update_rate: float = Field(1.0, gt=0, le=1)
    """How far the target network then moves towards the online one: 1 copies it, 0.005 with period 1 is the exponential moving
    average of SR-SPR and BBF; at zero it would never move."""
    random_shift: int = Field(0, ge=0, le=16)
    """Pixels by which images are shifted at random before each update (DrQ: 4); zero leaves them as they are."""
    intensity_jitter: float = Field(0.0, ge=0, le=1)
    """Scale of the random factor on each image's brightness (DrQ, SPR: 0.05); zero leaves it as it is."""
    reset_period: int | None = Field(None, ge=1)
    """Updates between two resets: head and dense layer are initialised again, the encoder is moved towards a random one
    (SR-SPR, BBF: 40,000); unset: none."""
    reset_encoder_keep: float = Field(0.8, ge=0, le=1)
    """Part of the encoder's weights that a reset keeps; the rest is a random network's (SR-SPR: 0.8, BBF: 0.5)."""
    no_resets_after_env_steps: int | None = Field(None, ge=1)
    """Agent steps after which there are no more resets (SR-SPR, BBF: 100,000), so that the last one can be recovered from."""
    diagnostics_period: int | None = Field(5_000, ge=1)
    """Updates between two measurements of the gradient's noise scale, policy churn, dormant units, effective rank, parameter
    norm, and TD errors on probes. One takes about as long as 40 updates, so a short period slows training; it changes nothing
    else. Unset: none are made."""
    publish_period: int = Field(100, ge=1)
    """Updates between two publications of weights to actors and evaluator, who act on older ones in between."""
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d{1,2})?)$")
    """Where updates run: cpu, cuda or cuda:N; no other backend is supported."""
    num_threads: Literal["auto"] | Annotated[int, Field(ge=1)] = 1
    """CPU threads of one update; one leaves the other cores to the actors, none could not run; auto: the fewest of those that
    are about the fastest, which the learner tries out at its start."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of the networks' passes; weights, optimizer and losses are float32 with all three. float32 is as torch has it (on CUDA
    cuDNN's convolutions may use TF32); tf32 lets matrix products use it too, on CUDA only; bfloat16 is automatic mixed
    precision, which is slow on a CPU without instructions for it."""
    compile: Literal["off", "default", "max-autotune"] = "off"
    """torch.compile of the update, which takes half a minute and more at each start: default, or max-autotune, which tries out
    kernels for minutes. On CUDA the update is one graph with either, and with off."""

    @field_validator("num_threads", mode="wrap")
    @classmethod
    def _auto_or_a_number(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return handler(value) if value == "auto" else _THREADS.validate_python(value)  # one message, not one for each kind

    @field_validator("compile", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # as YAML reads it


class Replay(Section):
    """The sharded Reverb replay."""

    num_shards: int = Field(2, ge=1, le=16)
    """Reverb servers the replay is spread over: none could store anything, and each is a process of 500 MB or more."""
    capacity: int = Field(1_000_000, ge=1, le=2**31 - 1)
    """Transitions that batches are drawn from, and that the logs of all shards keep; the oldest go first. Beyond what the
    learner may use, see replay.sampling; beyond 2,147,483,647 no table of Reverb can count."""
    min_size: int | None = Field(None, ge=1)
    """Transitions that the learner receives before the first update; unset: 20,000, or a tenth of run.env_steps if that is
    less."""
    prioritized: bool = True
    """Sample in proportion to priority (Schaul et al. 2016); uniformly otherwise."""
    recency_horizon: int | None = Field(None, ge=2, le=2**31 - 1)
    """Sample by age: what is k transitions old with weight (1 - 1 / recency_horizon)^k, a truncated geometric law; unset: not.
    Takes prioritized=false and sampling=cached, for Reverb has no such sampler."""
    priority_exponent: float = Field(0.5, gt=0, le=1)
    """Priority is (loss + 1e-10) to this power (Dopamine: 0.5); for zero set replay.prioritized=false."""
    importance_weights: bool = False
    """Weight the gradient by importance, probability ** -importance_exponent over the batch's maximum. Dopamine's Rainbow does;
    its QR-DQN computes the weights but leaves the gradient as it is."""
    importance_exponent: float = Field(0.5, gt=0, le=1)
    """The exponent of importance weights (beta; Dopamine: 0.5); at zero they would all be 1."""
    sampling: Literal["auto", "cached", "remote"] = "auto"
    """Where batches are drawn: cached, in the learner's own memory, which receives every transition once; remote, in Reverb,
    for replays that do not fit there; auto: cached where replay.capacity fits into what the learner may use."""
    ahead: float | None = Field(None, gt=0)
    """Transitions that the learner may receive beyond those that its updates have earned, at least 1 /
    learner.updates_per_step, or it would wait for ever for its next batch; unset: 64, or what two updates need if that is
    more."""
    checkpoint_interval_seconds: float = Field(600.0, gt=0)
    """Seconds between two checkpoints of a shard; at zero shards would do nothing but save."""
    keep_checkpoints: int = Field(2, ge=1)
    """Checkpoints that each shard keeps, older ones are deleted; with none a killed shard would lose all it has."""


class Actors(Section):
    """The actor fleet."""

    num_actors: int | None = Field(None, ge=1, le=1024)
    """Actor processes of a local run; unset: one for every two cores, at least one."""
    envs_per_actor: int = Field(8, ge=1, le=256)
    """Environments each actor steps with one batched policy inference; with none it would collect nothing."""
    weights_interval_seconds: float = Field(2.0, gt=0)
    """Seconds between two looks for newer weights; at zero the actor would flood the coordinator with requests."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """That the actors' networks compute in; the evaluator's are float32. bfloat16 makes a batch of actions faster on a CPU with
    instructions for it, and slower on others; where two values are nearly the same it may choose the other action."""


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
    """Address servers listen on, IPv4 or IPv6: one of the machine's, 0.0.0.0 for all of IPv4, or :: for all of both (a pod's
    is the chart's `bindHost`). Replay shards listen on all of both whatever this says, for Reverb offers no choice."""
    coordinator_address: Address = "127.0.0.1:0"
    """The coordinator's host:port ([host]:port with an IPv6 address); port 0 lets a local run choose."""
    replay_addresses: tuple[Address, ...] = ()
    """Each shard's host:port, in order; empty lets a local run choose."""
    health_port: int = Field(0, ge=0, le=65535)
    """Port of each role's gRPC health service; 0 chooses a free one, which the log names."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of each role's Prometheus endpoint; 0 chooses a free one, which the log names."""
