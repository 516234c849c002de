from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AppendEpisodesRequest(_message.Message):
    __slots__ = ("episodes",)
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    episodes: _containers.RepeatedCompositeFieldContainer[Episode]
    def __init__(self, episodes: _Optional[_Iterable[_Union[Episode, _Mapping]]] = ...) -> None: ...

class AppendEpisodesResponse(_message.Message):
    __slots__ = ("refused", "reason")
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    refused: int
    reason: str
    def __init__(self, refused: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class AppendEvaluationRequest(_message.Message):
    __slots__ = ("evaluation",)
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    evaluation: Evaluation
    def __init__(self, evaluation: _Optional[_Union[Evaluation, _Mapping]] = ...) -> None: ...

class AppendEvaluationResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadEpisodesRequest(_message.Message):
    __slots__ = ("after_row", "limit")
    AFTER_ROW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after_row: int
    limit: int
    def __init__(self, after_row: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ReadEpisodesResponse(_message.Message):
    __slots__ = ("episodes", "last_row")
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    LAST_ROW_FIELD_NUMBER: _ClassVar[int]
    episodes: _containers.RepeatedCompositeFieldContainer[Episode]
    last_row: int
    def __init__(self, episodes: _Optional[_Iterable[_Union[Episode, _Mapping]]] = ..., last_row: _Optional[int] = ...) -> None: ...

class ReadEvaluationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadEvaluationsResponse(_message.Message):
    __slots__ = ("evaluations",)
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    def __init__(self, evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ...) -> None: ...

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
