"""Reads YAML that anybody may have written: returns its content or raises one kind of error."""

from __future__ import annotations

import re
from typing import Any

import yaml


def read_yaml_text(text: str) -> Any:
    """The content of a YAML document in Python's own types.

    Raises:
        yaml.YAMLError: it is not YAML, a value does not match its form or tag (2024-02-30), it is nested too deeply for
            Python's stack, or it has aliases.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:  # from PyYAML's constructors
        raise yaml.YAMLError(f"a value is not what its form promises: {error}") from None


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, as people mean it. YAML 1.1 requires a dot and a signed exponent, and reads it as a string.

    Aliases are refused: a kilobyte of them can expand to a tree that is too large to show or check.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"aliases (*{event.anchor}) are not read in a config: write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))
