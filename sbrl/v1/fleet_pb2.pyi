from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_COLLECTED: _ClassVar[RunState]
    RUN_STATE_FINISHED: _ClassVar[RunState]
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_COLLECTED: RunState
RUN_STATE_FINISHED: RunState

class JoinRequest(_message.Message):
    __slots__ = ("role", "name", "index", "metrics_address", "health_address", "process_id", "earlier_incarnation")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    EARLIER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    index: int
    metrics_address: str
    health_address: str
    process_id: int
    earlier_incarnation: int
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., index: _Optional[int] = ..., metrics_address: _Optional[str] = ..., health_address: _Optional[str] = ..., process_id: _Optional[int] = ..., earlier_incarnation: _Optional[int] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("index", "incarnation", "lease_seconds", "instructions", "checkpoint", "checkpoint_sha256")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SHA256_FIELD_NUMBER: _ClassVar[int]
    index: int
    incarnation: int
    lease_seconds: float
    instructions: BeatResponse
    checkpoint: str
    checkpoint_sha256: str
    def __init__(self, index: _Optional[int] = ..., incarnation: _Optional[int] = ..., lease_seconds: _Optional[float] = ..., instructions: _Optional[_Union[BeatResponse, _Mapping]] = ..., checkpoint: _Optional[str] = ..., checkpoint_sha256: _Optional[str] = ...) -> None: ...

class BeatRequest(_message.Message):
    __slots__ = ("incarnation", "counters", "gauges", "step_limit", "epoch", "died", "role", "name")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class GaugesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    STEP_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIED_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    counters: _containers.ScalarMap[str, float]
    gauges: _containers.ScalarMap[str, float]
    step_limit: int
    epoch: int
    died: bool
    role: str
    name: str
    def __init__(self, incarnation: _Optional[int] = ..., counters: _Optional[_Mapping[str, float]] = ..., gauges: _Optional[_Mapping[str, float]] = ..., step_limit: _Optional[int] = ..., epoch: _Optional[int] = ..., died: bool = ..., role: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class BeatResponse(_message.Message):
    __slots__ = ("state", "env_steps", "step_allowance", "initial_priority", "timeline", "generation", "kept_generations", "samples_owed", "limiter_correction", "checkpoint_wanted")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KEPT_GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_OWED_FIELD_NUMBER: _ClassVar[int]
    LIMITER_CORRECTION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_WANTED_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    env_steps: int
    step_allowance: int
    initial_priority: float
    timeline: int
    generation: int
    kept_generations: _containers.RepeatedScalarFieldContainer[int]
    samples_owed: float
    limiter_correction: float
    checkpoint_wanted: bool
    def __init__(self, state: _Optional[_Union[RunState, str]] = ..., env_steps: _Optional[int] = ..., step_allowance: _Optional[int] = ..., initial_priority: _Optional[float] = ..., timeline: _Optional[int] = ..., generation: _Optional[int] = ..., kept_generations: _Optional[_Iterable[int]] = ..., samples_owed: _Optional[float] = ..., limiter_correction: _Optional[float] = ..., checkpoint_wanted: bool = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Member(_message.Message):
    __slots__ = ("role", "name", "index", "incarnation", "joined_time", "seconds_since_beat", "alive", "metrics_address", "health_address", "process_id", "counters", "gauges")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class GaugesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    JOINED_TIME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_SINCE_BEAT_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    GAUGES_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    index: int
    incarnation: int
    joined_time: float
    seconds_since_beat: float
    alive: bool
    metrics_address: str
    health_address: str
    process_id: int
    counters: _containers.ScalarMap[str, float]
    gauges: _containers.ScalarMap[str, float]
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., index: _Optional[int] = ..., incarnation: _Optional[int] = ..., joined_time: _Optional[float] = ..., seconds_since_beat: _Optional[float] = ..., alive: bool = ..., metrics_address: _Optional[str] = ..., health_address: _Optional[str] = ..., process_id: _Optional[int] = ..., counters: _Optional[_Mapping[str, float]] = ..., gauges: _Optional[_Mapping[str, float]] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("members", "totals", "state", "learner_epoch", "weights_version", "weights_age_seconds", "recent_episodes", "last_evaluation", "num_episodes", "learner_holder", "timeline", "generation_ordered", "generations")
    class TotalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LEARNER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RECENT_EPISODES_FIELD_NUMBER: _ClassVar[int]
    LAST_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    NUM_EPISODES_FIELD_NUMBER: _ClassVar[int]
    LEARNER_HOLDER_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_ORDERED_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    totals: _containers.ScalarMap[str, float]
    state: RunState
    learner_epoch: int
    weights_version: int
    weights_age_seconds: float
    recent_episodes: _containers.RepeatedCompositeFieldContainer[Episode]
    last_evaluation: Evaluation
    num_episodes: int
    learner_holder: str
    timeline: int
    generation_ordered: int
    generations: _containers.RepeatedCompositeFieldContainer[Generation]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., totals: _Optional[_Mapping[str, float]] = ..., state: _Optional[_Union[RunState, str]] = ..., learner_epoch: _Optional[int] = ..., weights_version: _Optional[int] = ..., weights_age_seconds: _Optional[float] = ..., recent_episodes: _Optional[_Iterable[_Union[Episode, _Mapping]]] = ..., last_evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., num_episodes: _Optional[int] = ..., learner_holder: _Optional[str] = ..., timeline: _Optional[int] = ..., generation_ordered: _Optional[int] = ..., generations: _Optional[_Iterable[_Union[Generation, _Mapping]]] = ...) -> None: ...

class Generation(_message.Message):
    __slots__ = ("generation", "time", "env_steps", "updates")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    generation: int
    time: float
    env_steps: int
    updates: int
    def __init__(self, generation: _Optional[int] = ..., time: _Optional[float] = ..., env_steps: _Optional[int] = ..., updates: _Optional[int] = ...) -> None: ...

class OrderGenerationRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OrderGenerationResponse(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class ReportCheckpointRequest(_message.Message):
    __slots__ = ("incarnation", "generation", "checkpoint", "size_bytes", "sha256", "counters")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    generation: int
    checkpoint: str
    size_bytes: int
    sha256: str
    counters: _containers.ScalarMap[str, float]
    def __init__(self, incarnation: _Optional[int] = ..., generation: _Optional[int] = ..., checkpoint: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., counters: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ReportCheckpointResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RefuseCheckpointRequest(_message.Message):
    __slots__ = ("incarnation", "timeline", "reason")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    timeline: int
    reason: str
    def __init__(self, incarnation: _Optional[int] = ..., timeline: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RefuseCheckpointResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinishRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinishResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Episode(_message.Message):
    __slots__ = ("actor", "incarnation", "env", "number", "episode_return", "length", "truncated", "env_steps", "weights_version", "time")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    EPISODE_RETURN_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    actor: int
    incarnation: int
    env: int
    number: int
    episode_return: float
    length: int
    truncated: bool
    env_steps: int
    weights_version: int
    time: float
    def __init__(self, actor: _Optional[int] = ..., incarnation: _Optional[int] = ..., env: _Optional[int] = ..., number: _Optional[int] = ..., episode_return: _Optional[float] = ..., length: _Optional[int] = ..., truncated: bool = ..., env_steps: _Optional[int] = ..., weights_version: _Optional[int] = ..., time: _Optional[float] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("weights_version", "updates", "env_steps", "return_mean", "return_std", "return_min", "return_max", "episodes", "length_mean", "epsilon", "seed", "time")
    WEIGHTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    RETURN_MEAN_FIELD_NUMBER: _ClassVar[int]
    RETURN_STD_FIELD_NUMBER: _ClassVar[int]
    RETURN_MIN_FIELD_NUMBER: _ClassVar[int]
    RETURN_MAX_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_MEAN_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    weights_version: int
    updates: int
    env_steps: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    episodes: int
    length_mean: float
    epsilon: float
    seed: int
    time: float
    def __init__(self, weights_version: _Optional[int] = ..., updates: _Optional[int] = ..., env_steps: _Optional[int] = ..., return_mean: _Optional[float] = ..., return_std: _Optional[float] = ..., return_min: _Optional[float] = ..., return_max: _Optional[float] = ..., episodes: _Optional[int] = ..., length_mean: _Optional[float] = ..., epsilon: _Optional[float] = ..., seed: _Optional[int] = ..., time: _Optional[float] = ...) -> None: ...
