"""The keys of the configuration, by section, each with its bounds and its meaning.

Field docstrings are the reference. `sbrl config schema` prints them, and the message for a value out of range ends with them.
So each one names the consequence of a value beyond the bounds, unless it is obvious.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidatorFunctionWrapHandler, field_validator

from sbrl.config.agents import all_algorithms, find_algorithm
from sbrl.config.base import Fixed, Section
from sbrl.errors import nearest

ATARI_PREFIX = "ALE/"  # the names of ALE's games begin with it
# host:port, with a port of at most 65535; an IPv6 address is in brackets
_PORT = r"(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])"
Address = Annotated[str, Field(pattern=rf"^([^:\s]+|\[[0-9A-Fa-f:.]+\]):{_PORT}$")]


class Run(Section):
    """The run's length, its seed, and how often it is saved."""

    env_steps: int = Field(1_250_000, ge=1)
    """Agent steps to collect over all actors. On Atari one step is `env.frame_skip` frames. Zero steps would teach nothing."""
    seed: Fixed[int] = Field(0, ge=0, lt=2**31)
    """Seed of networks, environments and exploration (ALE takes at most 31 bits). `--serial` is bit-reproducible from it."""
    checkpoint_interval_seconds: float = Field(120.0, gt=0)
    """Seconds between two checkpoints of the learner. At zero it would only save."""
    keep_checkpoints: int = Field(3, ge=1)
    """Number of learner checkpoints to keep; older ones are deleted. With none, a killed run could not continue."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level written to logs/<role>.log."""
    wandb_mode: Literal["disabled", "offline", "online"] = "disabled"
    """Log to Weights & Biases as well as TensorBoard, with the optional package wandb. offline writes to the run directory, and
    `wandb sync` uploads it later. online uploads at once and needs `wandb login` or WANDB_API_KEY. Not with --serial."""
    wandb_project: str = Field("sbrl", min_length=1)
    """The run's project on Weights & Biases; WANDB_ENTITY names a team."""


class Env(Section):
    """The environment, by its Gymnasium id, and the preprocessing of ALE games (Machado et al. 2018; Dopamine's values).
    frame_size and frame_stack also apply to other environments that show pictures."""

    id: Fixed[str] = Field("ALE/Pong-v5", min_length=1)
    """Gymnasium id: an ALE game (ALE/Pong-v5), MinAtar (MinAtar/Breakout-v1) or any other with discrete actions. For your own
    environment write package.module:Name-v0, as Gymnasium does; importing the module must register it."""
    kwargs: Fixed[dict[str, JsonValue]] = Field({})
    """Arguments of `gymnasium.make` and the environment's constructor, by name: plain values, lists and mappings. Not for ALE
    games: their settings are the keys below."""
    frame_skip: Fixed[int] = Field(4, ge=1, le=100)
    """ALE only: number of frames that each action is repeated for. The agent sees the maximum over the last two frames. At zero
    no time would pass. In other environments an agent step is one environment step."""
    frame_size: Fixed[int] = Field(84, ge=36)
    """ALE games and pictures: height and width in pixels of the grayscale frame (36 is the least the Nature CNN can take)."""
    frame_stack: Fixed[int] = Field(4, ge=1, le=16)
    """ALE games and pictures: number of frames the agent sees at once. Grids and vectors are not stacked."""
    repeat_action_probability: Fixed[float] = Field(0.25, ge=0, lt=1)
    """ALE only: the probability that a frame repeats the previous action (sticky actions). At 1 the agent's actions would
    never be taken."""
    noop_max: Fixed[int] = Field(0, ge=0)
    """ALE only: the largest random number of no-op actions after a reset (Dopamine with sticky actions: none)."""
    terminal_on_life_loss: Fixed[bool] = False
    """ALE only: end an episode for the learner when a life is lost (the Atari 100k protocol)."""
    full_action_space: Fixed[bool] = False
    """ALE only: use all 18 actions instead of the game's minimal set."""
    max_episode_steps: Fixed[int] = Field(27_000, ge=1, le=10_000_000)
    """Agent steps after which an episode is truncated. A lower limit of the environment itself still applies."""
    clip_rewards: Fixed[bool | None] = None
    """Clip the learner's rewards to [-1, 1]. Unset: yes for ALE games, no for others. Logged returns are never clipped."""
    reward_noise: Fixed[float] = Field(0.0, ge=0, le=1e6)
    """Standard deviation of Gaussian noise on the learner's rewards, added after clipping. Logged returns are without it.
    Studies use it: a larger batch averages noise in the data out."""
    on_bad_value: Literal["stop", "drop_episode"] = "stop"
    """What to do when the environment returns a bad value: a reward or observation that is not finite, not a number, too large
    for a 32-bit float or of the wrong shape. stop ends the run. drop_episode drops the rest of the episode and its return,
    counts the episode and continues."""

    @field_validator("id")
    @classmethod
    def _names_a_module_in_full(cls, value: str) -> str:
        module, colon, name = value.rpartition(":")
        if colon and not (name and all(module.split("."))):  # no module, or a relative one
            raise ValueError(
                f"env.id={value!r} must be an environment's name, or package.module:Name-v0: the full name of the module that "
                f"registers it, a colon and its name"
            )
        return value

    @property
    def name(self) -> str:
        """The id without the module that registers it: ale_py:ALE/Pong-v5 gives ALE/Pong-v5."""
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
    """The algorithm: network, target and exploration. Defaults are Dopamine's unless a key says otherwise."""

    algorithm: Fixed[str] = Field("qr-dqn", json_schema_extra=lambda schema: schema.update(enum=list(all_algorithms())))
    """The algorithm's name. It selects the head and the loss; see sbrl.config.algorithms. Other packages can offer more."""
    double: bool = False
    """The online network chooses the action and the target network evaluates it (van Hasselt et al. 2016)."""
    dueling: Fixed[bool] = False
    """Two streams: the state's value and the actions' advantages (Wang et al. 2016)."""
    noisy: Fixed[bool] = False
    """Noisy dense layers explore instead of random actions (Fortunato et al. 2018). Needs agent.exploration=noisy-nets."""
    noisy_sigma: float = Field(0.5, gt=0)
    """Initial scale of the noise in noisy layers. At zero they would not explore."""
    n_step: int = Field(3, ge=1, le=64)
    """Steps of reward summed before bootstrapping. Each segment carries so many steps more: large values cost memory."""
    n_step_initial: int | None = Field(None, ge=1, le=64)
    """n at the start and after each reset; it then moves to n_step over anneal_updates (BBF: 10). Unset: always n_step."""
    n_max: int | None = Field(None, ge=1, le=64)
    """Steps that each segment carries in addition. A larger value lets n_step grow without collecting again. Unset: as many as
    are needed."""
    discount: float = Field(0.99, gt=0, lt=1)
    """Discount factor per agent step (gamma). At 1 the values of endless play would grow without bound."""
    discount_initial: float | None = Field(None, gt=0, lt=1)
    """The discount at the start and after each reset, annealed like n_step_initial (BBF: 0.97). Unset: always discount."""
    anneal_updates: int = Field(10_000, ge=1)
    """Number of updates in which n and the discount move exponentially from their initial to their final values."""
    torso: Fixed[Literal["auto", "nature-cnn", "impala", "minatar-conv", "mlp"]] = "auto"
    """Feature network. auto chooses by the observation: nature-cnn for frames, minatar-conv for grids, mlp for vectors."""
    width_scale: Fixed[float] = Field(1.0, gt=0, le=16)
    """Factor on the number of convolution channels (BBF: 4, on impala). At zero the network would see nothing."""
    layer_norm: Fixed[bool] = False
    """Layer normalisation before each ReLU."""
    initial_weights: Literal["variance-scaling", "glorot"] = "variance-scaling"
    """The scale of initial weights. variance-scaling uses a layer's inputs (Dopamine's distributional agents). glorot uses its
    inputs and outputs (Dopamine's DQN, full Rainbow and BBF), and networks on vectors start out much smoother."""
    hidden_size: Fixed[int] = Field(512, ge=1)
    """Units of the dense hidden layer, and with mlp also of the layer before it. Without units nothing is learned."""
    td_loss: Literal["mse", "huber"] = "mse"
    """dqn and m-dqn: the loss on the temporal difference error. huber is quadratic up to agent.kappa."""
    num_atoms: Fixed[int] = Field(51, ge=2)
    """c51: atoms of the return distribution, evenly spaced from v_min to v_max. A single atom could not tell returns apart."""
    v_min: Fixed[float | None] = None
    """c51: the lowest return that can be represented. Unset: -v_max."""
    v_max: Fixed[float | None] = None
    """c51: the highest return that can be represented. Unset: 10 if rewards are clipped."""
    num_quantiles: Fixed[int] = Field(200, ge=1)
    """qr-dqn: quantiles of the return distribution; an action's value is their mean. Without quantiles there is no value."""
    kappa: float = Field(1.0, gt=0)
    """Half-width of the quadratic part of the Huber losses. At zero no part would be quadratic and the loss would be zero."""
    num_tau_samples: int = Field(64, ge=1)
    """iqn: quantile fractions drawn for the online network in an update. Without them there is no loss."""
    num_tau_prime_samples: int = Field(64, ge=1)
    """iqn: quantile fractions drawn for the target. Without them there is no target."""
    num_policy_samples: int = Field(32, ge=1)
    """iqn: quantile fractions drawn to choose an action. Without them there is no value."""
    tau_embedding_size: Fixed[int] = Field(64, ge=1)
    """iqn: cosines in the embedding of a quantile fraction. Without them the network would not see the fraction."""
    munchausen_alpha: float = Field(0.9, ge=0, le=1)
    """m-dqn: weight of the log-policy that is added to the reward. Zero gives soft DQN."""
    munchausen_temperature: float = Field(0.03, gt=0)
    """m-dqn: temperature of the softmax policy. At zero its logarithm is not finite."""
    munchausen_clip: float = Field(-1.0, lt=0)
    """m-dqn: lower bound on the scaled log-policy that is added to the reward. At zero nothing would be added."""
    options: Fixed[dict[str, JsonValue] | None] = None
    """Settings, by name, of an agent from another package; its documentation lists them. Unset: its defaults."""
    exploration: Literal["linear-epsilon", "ape-x", "noisy-nets"] = "linear-epsilon"
    """How actors explore: an epsilon that falls with the run's steps, a fixed ladder of epsilons over all environments (Horgan
    et al. 2018), or noisy layers alone. Until replay.min_size steps are collected, epsilon_start holds for all of them."""
    epsilon_start: float = Field(1.0, ge=0, le=1)
    """Probability of a random action until replay.min_size steps are collected, and where linear-epsilon begins."""
    epsilon_end: float = Field(0.01, ge=0, le=1)
    """linear-epsilon: probability of a random action after the decay."""
    epsilon_decay_steps: int | None = Field(None, ge=0)
    """linear-epsilon: number of steps in which epsilon falls linearly, counted over all actors after replay.min_size. Unset:
    250,000, or a fifth of run.env_steps if that is less."""
    ape_x_epsilon: float = Field(0.4, gt=0, le=1)
    """ape-x: epsilon of the first environment. Environment i of N has epsilon ** (1 + i / (N - 1) * exponent). At zero none
    would explore."""
    ape_x_exponent: float = Field(7.0, ge=0)
    """ape-x: how far down the ladder reaches (alpha). At zero all environments have the same epsilon."""
    act_with_target: bool = False
    """Actors and evaluator act with the target network (SR-SPR, BBF) instead of the online network."""
    spr_weight: float = Field(0.0, ge=0)
    """Weight of the self-prediction loss (SPR, Schwarzer et al. 2021: 5). Zero turns it off."""
    spr_jumps: int = Field(5, ge=1, le=64)
    """Number of steps ahead that self-prediction predicts. Segments carry so many steps more."""

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
        """Steps stored beyond each transition: n_max, or as many as n, with its largest value, and self-prediction need."""
        return max(self.n_step, self.n_step_initial or 0, self.jumps) if self.n_max is None else self.n_max

    @property
    def predicts_itself(self) -> bool:
        """Whether self-prediction is on. If so, it adds parameters and scales the encoder's output."""
        return self.spr_weight > 0

    @property
    def jumps(self) -> int:
        """Number of steps ahead that self-prediction predicts; 0 if it is off."""
        return self.spr_jumps if self.predicts_itself else 0


_THREADS: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, strict=True)])


class Learner(Section):
    """The update: its size, its rate and its optimizer."""

    batch_size: int = Field(8, ge=1, le=4096)
    """Transitions per gradient update. None would train nothing; SBRL's replay is tuned for few transitions."""
    updates_per_step: float = Field(0.25, ge=1 / 64, le=64)
    """Gradient updates per agent step (the replay ratio, or update-to-data ratio). Below 1/64 or above 64 one side of the run
    would mostly wait for the other."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Adam's step size (Dopamine's QR-DQN, with batch 32: 5e-5). At zero nothing is learned; above one training diverges."""
    adam_epsilon: float = Field(3.125e-4, gt=0)
    """Adam's epsilon (Dopamine's QR-DQN: 0.01 / 32). At zero a parameter without gradient would become NaN."""
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    """Decay of Adam's average of squared gradients, per update. To remember as many samples with batch B' as with batch B, use
    beta2 ** (B' / B): 0.999 at 32 becomes 0.99975 at 8. At zero it would remember only one update; at one it would never
    forget."""
    weight_decay: float = Field(0.0, ge=0, lt=1)
    """AdamW's decoupled weight decay on weights, not on biases and norms (BBF: 0.1). Zero is plain Adam."""
    max_gradient_norm: float | None = Field(None, gt=0)
    """Gradients with a larger Euclidean norm are scaled down to it (SPR: 10). Unset: no limit."""
    target_update_period: int = Field(2_000, ge=1)
    """Updates between two changes of the target network (Dopamine: 8,000 steps x 0.25)."""
    target_update_rate: float = Field(1.0, gt=0, le=1)
    """How far each change moves the target network towards the online network. 1 copies it; 0.005 with period 1 is the
    exponential moving average of SR-SPR and BBF. At zero it would never move."""
    random_shift: int = Field(0, ge=0, le=16)
    """Images are shifted by up to this many pixels at random before each update (DrQ: 4). Zero turns this off."""
    intensity_jitter: float = Field(0.0, ge=0, le=1)
    """Scale of the random factor on each image's brightness (DrQ, SPR: 0.05). Zero turns this off."""
    reset_period: int | None = Field(None, ge=1)
    """Updates between two resets. A reset initialises the head and the dense layer again and moves the encoder towards a random
    one (SR-SPR, BBF: 40,000). Unset: no resets."""
    reset_encoder_keep: float = Field(0.8, ge=0, le=1)
    """Share of the encoder's weights that a reset keeps; a random network gives the rest (SR-SPR: 0.8, BBF: 0.5)."""
    no_resets_after_env_steps: int | None = Field(None, ge=1)
    """Agent steps after which resets end, so that the agent can recover from the last one (SR-SPR, BBF: 100,000)."""
    diagnostics_period: int | None = Field(5_000, ge=1)
    """Updates between two measurements of the gradient's noise scale, policy churn, dormant units, effective rank, parameter
    norm and TD errors on probes. One takes about as long as 40 updates, so a short period slows training; it changes nothing
    else. Unset: no measurements."""
    publish_period: int = Field(100, ge=1)
    """Updates between two publications of weights. Actors and evaluator act with older weights in between."""
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d{1,2})?)$")
    """Where updates run: cpu, cuda or cuda:N. No other backend is supported."""
    num_threads: Literal["auto"] | Annotated[int, Field(ge=1)] = 1
    """CPU threads of one update. One leaves the other cores to the actors; with none it could not run. auto: the learner tries
    several numbers at its start and takes the smallest that is about as fast as the fastest."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of the networks' passes. Weights, optimizer and losses are always float32. float32 is torch's default (on CUDA
    cuDNN's convolutions may use TF32). tf32 also uses TF32 for matrix products, on CUDA only. bfloat16 is automatic mixed
    precision; it is slow on a CPU without instructions for it."""
    compile: Literal["off", "default", "max-autotune"] = "off"
    """torch.compile for the update. It takes half a minute or more at each start; max-autotune also tries kernels for minutes.
    On CUDA the update is one graph with every choice, off included."""

    @field_validator("num_threads", mode="wrap")
    @classmethod
    def _auto_or_a_number(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return handler(value) if value == "auto" else _THREADS.validate_python(value)  # one message, not one per kind

    @field_validator("compile", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false


class Replay(Section):
    """The sharded Reverb replay."""

    num_shards: Fixed[int] = Field(2, ge=1, le=16)
    """Number of Reverb servers that share the replay. None could store anything; each is a process of 500 MB or more."""
    capacity: int = Field(1_000_000, ge=1, le=2**31 - 1)
    """Number of transitions that batches are drawn from, and that the logs of all shards keep together. The oldest go first.
    If they do not fit in the learner's memory, see replay.sampling. No Reverb table can count past 2,147,483,647."""
    min_size: Fixed[int | None] = Field(None, ge=1)
    """Transitions that the learner receives before the first update. Unset: 20,000, or a tenth of run.env_steps if that is
    less."""
    prioritized: Fixed[bool] = True
    """Sample in proportion to priority (Schaul et al. 2016) instead of uniformly."""
    recency_horizon: int | None = Field(None, ge=2, le=2**31 - 1)
    """Sample by age: a transition that is k transitions old has weight (1 - 1 / recency_horizon)^k, a truncated geometric
    distribution. Needs prioritized=false and sampling=cached, as Reverb has no such sampler. Unset: age does not count."""
    priority_exponent: float = Field(0.5, gt=0, le=1)
    """Priority is (loss + 1e-10) to this power (Dopamine: 0.5). For zero set replay.prioritized=false."""
    importance_weights: bool = False
    """Weight the gradient by importance: probability ** -importance_exponent over the batch's maximum. Dopamine's Rainbow does
    this; its QR-DQN computes the weights but does not apply them to the gradient."""
    importance_exponent: float = Field(0.5, gt=0, le=1)
    """Exponent of the importance weights (beta; Dopamine: 0.5). At zero they would all be 1."""
    sampling: Fixed[Literal["auto", "cached", "remote"]] = "auto"
    """Where batches are drawn. cached: in the learner's own memory, which receives every transition once. remote: in Reverb,
    for replays that do not fit there. auto: cached if replay.capacity fits in the memory that the learner may use."""
    ahead: float | None = Field(None, gt=0)
    """Transitions that the learner may receive ahead of its updates. Below 1 / learner.updates_per_step it would wait for ever
    for its next batch. Unset: 64, or as many as two updates need if that is more."""
    checkpoint_interval_seconds: float = Field(600.0, gt=0)
    """Seconds between two checkpoints of a shard. At zero shards would only save."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of checkpoints that each shard keeps; older ones are deleted. Without one, a killed shard loses all its data."""


class Actors(Section):
    """The actor fleet."""

    num_actors: int | None = Field(None, ge=1, le=1024)
    """Actor processes of a local run. Unset: one for every two cores, at least one."""
    envs_per_actor: int = Field(8, ge=1, le=256)
    """Environments that each actor steps with one batched policy inference. With none it would collect nothing."""
    weights_interval_seconds: float = Field(2.0, gt=0)
    """Seconds between two requests for newer weights. At zero the actor would flood the coordinator with requests."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the actors' networks; the evaluator's are always float32. bfloat16 makes a batch of actions faster on a CPU
    with instructions for it, and slower on others. If two values are nearly equal it may choose the other action."""


class Evaluator(Section):
    """The frozen evaluation protocol: full episodes, unclipped returns."""

    interval_env_steps: int = Field(125_000, ge=1)
    """Agent steps of training between two evaluations."""
    episodes: int = Field(10, ge=1)
    """Full episodes per evaluation. Without one there is no mean return."""
    epsilon: float = Field(0.001, ge=0, le=1)
    """Probability of a random action while evaluating (Dopamine: 0.001)."""
    num_envs: int = Field(5, ge=1, le=64)
    """Environments stepped in parallel. Each plays a fixed share of the episodes, so that short episodes are not favoured."""


class Network(Section):
    """The roles' addresses and ports. A local run fills in free loopback ports; on Kubernetes the chart sets fixed ports."""

    bind_host: str = "127.0.0.1"
    """Address that servers listen on: one of the machine's, 0.0.0.0 for all IPv4 addresses, or :: for all IPv4 and IPv6
    addresses (for pods it is the chart's `bindHost`). Replay shards always listen on all addresses: Reverb offers no choice."""
    coordinator_address: Address = "127.0.0.1:0"
    """The coordinator's host:port ([host]:port for an IPv6 address). With port 0 a local run chooses the port."""
    replay_addresses: tuple[Address, ...] = ()
    """Each shard's host:port, in order. If empty, a local run chooses them."""
    health_port: int = Field(0, ge=0, le=65535)
    """Port of each role's gRPC health service. 0 chooses a free port and logs it."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of each role's Prometheus endpoint. 0 chooses a free port and logs it."""
