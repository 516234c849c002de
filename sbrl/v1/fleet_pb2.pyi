from sbrl.v1 import episodes_pb2 as _episodes_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLING_UNSPECIFIED: _ClassVar[Sampling]
    SAMPLING_CACHED: _ClassVar[Sampling]
    SAMPLING_REMOTE: _ClassVar[Sampling]

class LearnerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEARNER_STATE_UNSPECIFIED: _ClassVar[LearnerState]
    LEARNER_STATE_FILLING: _ClassVar[LearnerState]
    LEARNER_STATE_WARMING: _ClassVar[LearnerState]
    LEARNER_STATE_WAITING: _ClassVar[LearnerState]
    LEARNER_STATE_TRAINING: _ClassVar[LearnerState]

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_COLLECTED: _ClassVar[RunState]
    RUN_STATE_FINISHED: _ClassVar[RunState]
SAMPLING_UNSPECIFIED: Sampling
SAMPLING_CACHED: Sampling
SAMPLING_REMOTE: Sampling
LEARNER_STATE_UNSPECIFIED: LearnerState
LEARNER_STATE_FILLING: LearnerState
LEARNER_STATE_WARMING: LearnerState
LEARNER_STATE_WAITING: LearnerState
LEARNER_STATE_TRAINING: LearnerState
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_COLLECTED: RunState
RUN_STATE_FINISHED: RunState

class JoinRequest(_message.Message):
    __slots__ = ("role", "name", "index", "metrics_address", "health_address", "process_id", "earlier_incarnation", "process", "replaces")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    EARLIER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    index: int
    metrics_address: str
    health_address: str
    process_id: int
    earlier_incarnation: int
    process: str
    replaces: int
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., index: _Optional[int] = ..., metrics_address: _Optional[str] = ..., health_address: _Optional[str] = ..., process_id: _Optional[int] = ..., earlier_incarnation: _Optional[int] = ..., process: _Optional[str] = ..., replaces: _Optional[int] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("index", "incarnation", "lease_seconds", "instructions", "holder", "holder_incarnation", "config")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    HOLDER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    index: int
    incarnation: int
    lease_seconds: float
    instructions: HeartbeatResponse
    holder: str
    holder_incarnation: int
    config: str
    def __init__(self, index: _Optional[int] = ..., incarnation: _Optional[int] = ..., lease_seconds: _Optional[float] = ..., instructions: _Optional[_Union[HeartbeatResponse, _Mapping]] = ..., holder: _Optional[str] = ..., holder_incarnation: _Optional[int] = ..., config: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("incarnation", "counters", "gauges", "step_limit", "term", "died", "role", "name", "progress")
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
    TERM_FIELD_NUMBER: _ClassVar[int]
    DIED_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    counters: _containers.ScalarMap[str, float]
    gauges: _containers.ScalarMap[str, float]
    step_limit: int
    term: int
    died: bool
    role: str
    name: str
    progress: LearnerProgress
    def __init__(self, incarnation: _Optional[int] = ..., counters: _Optional[_Mapping[str, float]] = ..., gauges: _Optional[_Mapping[str, float]] = ..., step_limit: _Optional[int] = ..., term: _Optional[int] = ..., died: bool = ..., role: _Optional[str] = ..., name: _Optional[str] = ..., progress: _Optional[_Union[LearnerProgress, _Mapping]] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("state", "env_steps", "step_allowance", "initial_priority", "ended_actors", "sampling")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_ALLOWANCE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ENDED_ACTORS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    env_steps: int
    step_allowance: int
    initial_priority: float
    ended_actors: _containers.RepeatedCompositeFieldContainer[EndedActor]
    sampling: Sampling
    def __init__(self, state: _Optional[_Union[RunState, str]] = ..., env_steps: _Optional[int] = ..., step_allowance: _Optional[int] = ..., initial_priority: _Optional[float] = ..., ended_actors: _Optional[_Iterable[_Union[EndedActor, _Mapping]]] = ..., sampling: _Optional[_Union[Sampling, str]] = ...) -> None: ...

class EndedActor(_message.Message):
    __slots__ = ("incarnation", "transitions")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    transitions: int
    def __init__(self, incarnation: _Optional[int] = ..., transitions: _Optional[int] = ...) -> None: ...

class LearnerProgress(_message.Message):
    __slots__ = ("updates", "samples_trained", "samples_due", "max_priority", "shards", "state", "memory_transitions", "memory_capacity", "sampling", "lost_with_actors")
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_TRAINED_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_DUE_FIELD_NUMBER: _ClassVar[int]
    MAX_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LOST_WITH_ACTORS_FIELD_NUMBER: _ClassVar[int]
    updates: int
    samples_trained: int
    samples_due: float
    max_priority: float
    shards: _containers.RepeatedCompositeFieldContainer[ShardProgress]
    state: LearnerState
    memory_transitions: int
    memory_capacity: int
    sampling: Sampling
    lost_with_actors: int
    def __init__(self, updates: _Optional[int] = ..., samples_trained: _Optional[int] = ..., samples_due: _Optional[float] = ..., max_priority: _Optional[float] = ..., shards: _Optional[_Iterable[_Union[ShardProgress, _Mapping]]] = ..., state: _Optional[_Union[LearnerState, str]] = ..., memory_transitions: _Optional[int] = ..., memory_capacity: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, str]] = ..., lost_with_actors: _Optional[int] = ...) -> None: ...

class ShardProgress(_message.Message):
    __slots__ = ("received", "duplicates", "lost", "recovered", "answers")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    received: int
    duplicates: int
    lost: int
    recovered: int
    answers: bool
    def __init__(self, received: _Optional[int] = ..., duplicates: _Optional[int] = ..., lost: _Optional[int] = ..., recovered: _Optional[int] = ..., answers: bool = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Member(_message.Message):
    __slots__ = ("role", "name", "index", "incarnation", "joined_time", "seconds_since_heartbeat", "alive", "metrics_address", "health_address", "process_id", "counters", "gauges")
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
    SECONDS_SINCE_HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
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
    seconds_since_heartbeat: float
    alive: bool
    metrics_address: str
    health_address: str
    process_id: int
    counters: _containers.ScalarMap[str, float]
    gauges: _containers.ScalarMap[str, float]
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., index: _Optional[int] = ..., incarnation: _Optional[int] = ..., joined_time: _Optional[float] = ..., seconds_since_heartbeat: _Optional[float] = ..., alive: bool = ..., metrics_address: _Optional[str] = ..., health_address: _Optional[str] = ..., process_id: _Optional[int] = ..., counters: _Optional[_Mapping[str, float]] = ..., gauges: _Optional[_Mapping[str, float]] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("members", "totals", "state", "learner_term", "weights_version", "weights_age_seconds", "recent_episodes", "last_evaluation", "num_episodes", "learner_holder", "progress", "config")
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
    LEARNER_TERM_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RECENT_EPISODES_FIELD_NUMBER: _ClassVar[int]
    LAST_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    NUM_EPISODES_FIELD_NUMBER: _ClassVar[int]
    LEARNER_HOLDER_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    totals: _containers.ScalarMap[str, float]
    state: RunState
    learner_term: int
    weights_version: int
    weights_age_seconds: float
    recent_episodes: _containers.RepeatedCompositeFieldContainer[_episodes_pb2.Episode]
    last_evaluation: _episodes_pb2.Evaluation
    num_episodes: int
    learner_holder: str
    progress: LearnerProgress
    config: str
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., totals: _Optional[_Mapping[str, float]] = ..., state: _Optional[_Union[RunState, str]] = ..., learner_term: _Optional[int] = ..., weights_version: _Optional[int] = ..., weights_age_seconds: _Optional[float] = ..., recent_episodes: _Optional[_Iterable[_Union[_episodes_pb2.Episode, _Mapping]]] = ..., last_evaluation: _Optional[_Union[_episodes_pb2.Evaluation, _Mapping]] = ..., num_episodes: _Optional[int] = ..., learner_holder: _Optional[str] = ..., progress: _Optional[_Union[LearnerProgress, _Mapping]] = ..., config: _Optional[str] = ...) -> None: ...

class FinishRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FinishResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
