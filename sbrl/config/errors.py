"""Turns pydantic's validation errors into messages for people: field, value, rule, consequence, similar names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sbrl.errors import did_you_mean, near, nearest, plain, shown

# Pydantic's error types in this project's words. The error's context (bound, choices, pattern) fills in the placeholders.
_RULES = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping: names with values",
    "invalid-json-value": "must be plain: text, a number, true, false, null, or a list or mapping of such",
    "model_type": "must be a section: keys with values",
}


def explain(error: ValidationError, tree: type[BaseModel], listing: str = "`sbrl config schema`") -> str:
    """One line for each error.

    Args:
        tree: the model that was validated. The messages use its keys and descriptions.
        listing: the command or document that lists all keys.
    """
    known = dict(_fields(tree))
    return "\n".join(_explain_one(item, known, listing) for item in error.errors())


def _explain_one(item: Mapping[str, Any], known: Mapping[str, FieldInfo], listing: str) -> str:
    path = [str(part) for part in item["loc"]][:3]  # env.kwargs may nest without end: the argument's name is enough
    field = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"unknown key {shown(field)}{_nearest_key(path, known, listing)}"
    if item["type"] == "value_error":  # from a check across fields; its message names them
        return str(item["msg"]).removeprefix("Value error, ")
    template = _RULES.get(item["type"])
    context = {name: plain(bound) if isinstance(bound, int | float) else bound for name, bound in item.get("ctx", {}).items()}
    rule = template.format(**context) if template else item["msg"]
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        rule += nearest(item["input"], re.findall(r"'([^']*)'", context["expected"]))
    info = known.get(".".join(path[:2]))  # an element of a list is described by the list's field
    meaning = f" ({' '.join(info.description.split())})" if info and info.description else ""
    return f"{field}={shown(item['input'])} {rule}{meaning}"


def _nearest_key(path: list[str], known: Mapping[str, FieldInfo], listing: str) -> str:
    """The same key in other sections, else the nearest key of this section, else the nearest of all keys."""
    section, _, name = ".".join(path).rpartition(".")
    names = {key: key.rpartition(".")[2] for key in known}
    for candidates in (
        [key for key in known if "." in key and names[key] == name],
        _keys_near(name, {key: names[key] for key in known if key.rpartition(".")[0] == section}),
        _keys_near(name, {key: names[key] for key in known if "." in key}),
    ):
        if candidates:
            return did_you_mean(candidates)
    return f"; {listing} lists them all"


def _keys_near(name: str, keys: Mapping[str, str]) -> list[str]:
    """Args: keys: full key -> its name within its section."""
    names = near(name, keys.values())
    return [key for key, called in keys.items() if called in names]


def _fields(tree: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key of the tree with its field. A section comes before its keys."""
    for name, field in tree.model_fields.items():
        yield name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for key, leaf in field.annotation.model_fields.items():
                yield f"{name}.{key}", leaf
