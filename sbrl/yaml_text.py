"""Reading YAML that anybody may have written: what it says, or one kind of error."""

from __future__ import annotations

import re
from typing import Any

import yaml


def read_yaml_text(text: str) -> Any:
    """What a YAML document says, in Python's own types.

    Raises:
        yaml.YAMLError: it is no YAML, a value is not what its form or tag promises (2024-02-30), it is nested more deeply than
            Python's stack can follow, or it has aliases.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:  # from PyYAML's constructors
        raise yaml.YAMLError(f"a value is not what its form promises: {error}") from None


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as the number people mean by it; YAML 1.1 wants a dot and a signed exponent, and makes it a string.

    Aliases are refused: a kilobyte of them can stand for a tree that no message could show and no check could walk.
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
