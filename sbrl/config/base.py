"""The base of all sections of the config: frozen, strict, and some of their keys fixed for a run."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

T = TypeVar("T")
_FIXED: Final = "fixed for a run"
Fixed = Annotated[T, _FIXED]
"""A key that a run keeps when it is resumed or upgraded: its network, its stored transitions or its shards depend on it."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def fixed_keys(cls) -> tuple[str, ...]:
        """The keys marked as Fixed."""
        return tuple(key for key, field in cls.model_fields.items() if _FIXED in field.metadata)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:  # pydantic would read true as 1
            raise PydanticKnownError("int_type" if int in kinds else "float_type")
        return value
