"""Makes wrong inputs from right ones, from a seed: bytes, trees of JSON and YAML, and protobuf messages."""

from __future__ import annotations

import copy
import random
import re
import struct
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

AnyMessage = TypeVar("AnyMessage", bound=Message)
MOST_CHANGES = 6
WHOLE_NUMBERS = (0, 1, -1, 7, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 10**30)
NUMBERS = (0.0, -0.0, 1e-320, -1.0, 1e308, float("inf"), float("-inf"), float("nan"), 2.0**53, 2.0**64)
TEXTS = (
    *("", " ", "\n", "x", "\x00", "../../etc/passwd", "%s%n", "{}", "null", "1e999", "0x10", "2001-99-99", "1:2:3", "é" * 3),
    *("\u202e", "\ud7ff", "a" * 5000, "!!python/object/apply:os.abort []", "*missing", "${HOME}", "NaN", "-", "[", "{{}}"),
)
_LEAVES: tuple[Any, ...] = (*WHOLE_NUMBERS, *NUMBERS, *TEXTS, None, True, False, [], {}, [[]], {"": {}}, [1, "two", None])


def _how_many(chance: random.Random) -> int:
    """The number of changes. Often only one, which gets further into a reader than many do."""
    return 1 if chance.random() < 0.5 else chance.randint(2, MOST_CHANGES)


def mutated_bytes(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after a few changes; now and then pure noise."""
    if chance.random() < 0.02:
        return chance.randbytes(chance.choice([0, 1, 8, 100, 3000]))
    data = bytearray(chance.choice(seeds))
    for _ in range(_how_many(chance)):
        _change_bytes(chance, data, seeds)
    return bytes(data)


def _change_bytes(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = chance.randint(0, len(data))
    size = min(len(data) - at, chance.choice([1, 1, 2, 4, 8, 40, 1000]))
    match chance.randrange(8):
        case 0:
            data[at : at + 1] = bytes([data[at] ^ (1 << chance.randrange(8))]) if at < len(data) else b"\x00"
        case 1:
            del data[at : at + size]
        case 2:
            data[at:at] = chance.randbytes(chance.choice([1, 2, 8, 100]))
        case 3:
            data[at:at] = data[at : at + size]
        case 4:
            del data[at:]
        case 5:
            number = chance.choice([0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1])
            data[at : at + 8] = struct.pack("<Q", number)
        case 6:
            other = chance.choice(seeds)
            start = chance.randint(0, len(other))
            data[at : at + size] = other[start : start + size]
        case _:
            data[at : at + size] = chance.choice([b"\x00", b"\xff", b'"', b"{", b"]", b":", b"\n", b"&a", b"*a", b"- "]) * size


def knotted_text(chance: random.Random, text: str) -> str:
    """A YAML document with anchors at some values and aliases in place of others, also within the anchored value."""
    lines = text.splitlines()
    for _ in range(_how_many(chance)):
        named, naming = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[named] = re.sub(r"^([^:]*:)", r"\1 &a", lines[named])
        lines[naming] = re.sub(r"^([^:]*:).*", r"\1 *a", lines[naming])
    return "\n".join(lines)


def mutated_tree(chance: random.Random, seeds: Sequence[Any]) -> Any:
    """One of the seeds (of dictionaries, lists and leaves) after a few changes."""
    tree = copy.deepcopy(chance.choice(seeds))
    for _ in range(_how_many(chance)):
        tree = _changed_tree(chance, tree)
    return tree


def _changed_tree(chance: random.Random, tree: Any) -> Any:
    keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    if not keys or chance.random() < 0.02:
        return copy.deepcopy(chance.choice(_LEAVES))
    key = chance.choice(keys)
    match chance.randrange(10):
        case 0:
            del tree[key]
        case 1 if isinstance(tree, dict):
            tree[chance.choice([*TEXTS, *map(str, keys)])] = copy.deepcopy(tree[key])
        case 2 if isinstance(tree, list):
            tree.insert(key, copy.deepcopy(tree[key]))
        case 3:
            tree[key] = [tree[key]]
        case 4:
            tree[key] = {str(key): tree[key]}
        case _:
            tree[key] = _changed_tree(chance, tree[key])
    return tree


def mutated_message(chance: random.Random, seed: AnyMessage) -> AnyMessage:
    """The seed with a few fields set to unusual values."""
    message = type(seed)()
    message.CopyFrom(seed)
    for _ in range(_how_many(chance)):
        _change_message(chance, message)
    return message


def _change_message(chance: random.Random, message: Message) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    kind = field.message_type
    if chance.random() < 0.1:
        message.ClearField(field.name)
    elif kind is not None and kind.GetOptions().map_entry:
        entries, value = getattr(message, field.name), kind.fields_by_name["value"]
        if value.message_type is None:
            entries[chance.choice(TEXTS)] = _value(chance, value)
        else:
            _change_message(chance, entries[chance.choice([*entries, *TEXTS])])
    elif kind is not None and field.label == FieldDescriptor.LABEL_REPEATED:
        _change_message(chance, getattr(message, field.name).add())
    elif kind is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _change_message(chance, inner)
    elif field.label == FieldDescriptor.LABEL_REPEATED:
        getattr(message, field.name).append(_value(chance, field))
    else:
        setattr(message, field.name, _value(chance, field))


def _value(chance: random.Random, field: FieldDescriptor) -> Any:
    """A value that the field's type can hold."""
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return chance.choice(NUMBERS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return (
            chance.choice(TEXTS) if field.type == FieldDescriptor.TYPE_STRING else chance.randbytes(chance.choice([0, 1, 99]))
        )
    low, high = {
        FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
        FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_ENUM: (0, 2**31 - 1),
    }.get(kind, (-(2**63), 2**63 - 1))
    return min(max(chance.choice(WHOLE_NUMBERS), low), high)
