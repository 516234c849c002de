from sbrl.v1 import fleet_pb2 as _fleet_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AppendEpisodesRequest(_message.Message):
    __slots__ = ("episodes",)
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    episodes: _containers.RepeatedCompositeFieldContainer[_fleet_pb2.Episode]
    def __init__(self, episodes: _Optional[_Iterable[_Union[_fleet_pb2.Episode, _Mapping]]] = ...) -> None: ...

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
    evaluation: _fleet_pb2.Evaluation
    def __init__(self, evaluation: _Optional[_Union[_fleet_pb2.Evaluation, _Mapping]] = ...) -> None: ...

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
    episodes: _containers.RepeatedCompositeFieldContainer[_fleet_pb2.Episode]
    last_row: int
    def __init__(self, episodes: _Optional[_Iterable[_Union[_fleet_pb2.Episode, _Mapping]]] = ..., last_row: _Optional[int] = ...) -> None: ...

class ReadEvaluationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadEvaluationsResponse(_message.Message):
    __slots__ = ("evaluations",)
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[_fleet_pb2.Evaluation]
    def __init__(self, evaluations: _Optional[_Iterable[_Union[_fleet_pb2.Evaluation, _Mapping]]] = ...) -> None: ...
