"""Turns pydantic's validation errors into messages for people: field, value, rule, consequence, and near misses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sbrl.errors import shown

# Pydantic's error types in this project's words; filled in from the error's context (the bound, the choices, the pattern).
_RULES = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
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


def explain(error: ValidationError, tree: type[BaseModel]) -> str:
    """One line for each thing wrong; `tree` is the model that was validated, whose keys and descriptions are used."""
    known = dict(_fields(tree))
    return "\n".join(_explain_one(item, known) for item in error.errors())


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known names most like `name`, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def _explain_one(item: Mapping[str, Any], known: Mapping[str, FieldInfo]) -> str:
    path = [str(part) for part in item["loc"]][:3]  # an argument in env.kwargs may nest without end: its name will do
    field = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"unknown key {shown(field)}{_nearest_key(path, known)}"
    if item["type"] == "value_error":  # from a check across fields, which names them itself
        return str(item["msg"]).removeprefix("Value error, ")
    template = _RULES.get(item["type"])
    rule = template.format(**item.get("ctx", {})) if template else item["msg"]
    info = known.get(".".join(path[:2]))  # an element of a list is described by the list's field
    meaning = f" ({' '.join(info.description.split())})" if info and info.description else ""
    return f"{field}={shown(item['input'])} {rule}{meaning}"


def _nearest_key(path: list[str], known: Mapping[str, FieldInfo]) -> str:
    """The same key of another section, else the nearest keys of this section, else the nearest section."""
    namesakes = [key for key in known if "." in key and key.split(".")[-1] == path[-1]]
    if namesakes:
        return f"; did you mean {namesakes[0]!r}?"
    siblings = [key for key in known if key.split(".")[:-1] == path[:-1]]
    return nearest(".".join(path), siblings)


def _fields(tree: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the tree, dotted, with its field: sections come before their keys."""
    for name, field in tree.model_fields.items():
        yield name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for key, leaf in field.annotation.model_fields.items():
                yield f"{name}.{key}", leaf
