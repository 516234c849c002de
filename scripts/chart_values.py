"""Updates the parts of the chart and its documentation that repeat the code or each other.

- the keys of `defaults` in each role's part of deploy/values.schema.json;
- the `run` part of deploy/values.yaml and of deploy/values.schema.json, from the config's own schema (`sbrl config schema`);
- deploy/files/fixed_keys.yaml, the keys that an upgrade may not change, from the config;
- the table of values in docs/deploy.md, from deploy/values.yaml and its comments.

    python scripts/chart_values.py           # writes all of them
    python scripts/chart_values.py --check   # exit code 1 and a line for each that is stale
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sbrl.config import Config, json_schema

ROOT = Path(__file__).resolve().parents[1]
VALUES, SCHEMA, DOCS = ROOT / "deploy/values.yaml", ROOT / "deploy/values.schema.json", ROOT / "docs/deploy.md"
FIXED_KEYS = ROOT / "deploy/files/fixed_keys.yaml"
BEGIN, END = "BEGIN {} (written by scripts/chart_values.py)", "END {}"
FIXED_KEYS_HEAD = """\
# The keys of a run's config that an upgrade may not change, each with its default, which holds for a run.yaml without the key.
# Written by scripts/chart_values.py.
"""
WIDTH = 124
# Roles whose part of the values has all keys of `defaults`.
ROLES = ("coordinator", "replay", "learner", "actors", "evaluator", "controller", "prometheus", "check")
LEFT_OUT = ("network",)  # sections of the config that the chart sets


class Value(NamedTuple):
    """One line of the table."""

    path: str
    default: str
    meaning: str


def run_values(schema: dict[str, Any]) -> str:
    """The `run` part of values.yaml: every config key with its default, and its description above it."""
    lines = ["run:"]

    def entry(key: str, field: dict[str, Any], indent: str) -> None:
        mark = "# -- " if "type" in field or "anyOf" in field or "const" in field or "enum" in field else "# "
        text = " ".join(field["description"].split())
        lines.extend(
            textwrap.wrap(
                text,
                WIDTH - len(indent),
                initial_indent=f"{indent}{mark}",
                subsequent_indent=f"{indent}# ",
                break_on_hyphens=False,
            )
        )

    for key, field in schema["properties"].items():
        if key in LEFT_OUT:
            continue
        if "$ref" not in field:
            entry(key, field, "  ")
            lines.append(f"  {key}: {scalar(field['default'])}")
            continue
        section = schema["$defs"][field["$ref"].rpartition("/")[2]]
        lines.extend(textwrap.wrap(section["description"], WIDTH - 2, initial_indent="  # ", subsequent_indent="  # "))
        lines.append(f"  {key}:")
        for name, leaf in section["properties"].items():
            entry(name, leaf, "    ")
            lines.append(f"    {name}: {scalar(leaf['default'])}")
    return "\n".join(lines) + "\n"


def scalar(value: object) -> str:
    """A value as one line of YAML."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=1000)).removesuffix("\n").removesuffix("\n...")


def with_run_schema(chart: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The chart's schema with the config's schema as its `run` part. Only the config's definitions are capitalized."""
    own = {name: definition for name, definition in chart["$defs"].items() if name[0].islower()}
    run = {key: value for key, value in schema.items() if key != "$defs"}
    return {**chart, "properties": {**chart["properties"], "run": run}, "$defs": {**own, **schema["$defs"]}}


def with_role_schemas(chart: dict[str, Any]) -> dict[str, Any]:
    """The chart's schema with the keys of `defaults` in the part of every role, which overrides them there."""
    parts = dict(chart["properties"])
    for role in ROLES:
        properties = parts[role]["properties"] | parts["defaults"]["properties"]
        parts[role] = {**parts[role], "properties": properties}
    return {**chart, "properties": parts}


def fixed_keys() -> str:
    """Every key that a run keeps, with its default, by section, as YAML."""
    sections = Config.model_construct().sections  # as written: no key is filled in from another
    kept = {name: section.model_dump(mode="json", include=set(section.fixed_keys())) for name, section in sections.items()}
    return str(yaml.safe_dump({name: keys for name, keys in kept.items() if keys}, sort_keys=False))


def documented(text: str) -> Iterator[Value]:
    """Every value of values.yaml that a comment with `# --` explains, with its default."""
    lines = text.splitlines()

    def comment_above(line: int) -> str:
        words: list[str] = []
        while line > 0 and lines[line - 1].lstrip().startswith("#"):
            line -= 1
            words.insert(0, lines[line].lstrip().removeprefix("#").strip())
            if words[0].startswith("-- "):
                return " ".join(words).removeprefix("-- ")
        return ""

    def walk(node: yaml.MappingNode, path: str) -> Iterator[Value]:
        for key, value in node.value:
            name, meaning = f"{path}{key.value}", comment_above(key.start_mark.line)
            nested = isinstance(value, yaml.MappingNode) and value.value
            if meaning:
                yield Value(name, scalar(yaml.safe_load(yaml.serialize(value))) if not nested else "see below", meaning)
            if nested and key.value != "resources":
                yield from walk(value, f"{name}.")
            elif nested and not meaning:
                yield Value(name, scalar(yaml.safe_load(yaml.serialize(value))), "As in `defaults`.")
            elif not meaning:
                yield Value(name, scalar(yaml.safe_load(yaml.serialize(value))), "")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, "")


def table(values: Iterator[Value]) -> str:
    """The values as a Markdown table."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in values:
        cells = (f"`{value.path}`", f"`{value.default}`", value.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def replace_between(text: str, name: str, content: str, comment: str) -> str:
    """`text` with `content` between the two marker lines called `name`."""
    begin, end = (comment.format(mark.format(name)) + "\n" for mark in (BEGIN, END))
    head, found, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"no lines {begin!r} and {end!r}")
    return f"{head}{begin}{content}{end}{tail}"


def fresh() -> dict[Path, str]:
    """The up-to-date content of each file."""
    schema = json.loads(json_schema())
    values = replace_between(VALUES.read_text(encoding="utf-8"), "run", run_values(schema), "# {}")
    chart = with_role_schemas(with_run_schema(json.loads(SCHEMA.read_text(encoding="utf-8")), schema))
    docs = replace_between(DOCS.read_text(encoding="utf-8"), "values", "\n" + table(documented(values)) + "\n", "<!-- {} -->")
    return {
        VALUES: values,
        SCHEMA: json.dumps(chart, indent=2, ensure_ascii=False) + "\n",
        FIXED_KEYS: FIXED_KEYS_HEAD + fixed_keys(),
        DOCS: docs,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, only say what is stale")
    check = parser.parse_args().check
    stale = {path: text for path, text in fresh().items() if path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run `python scripts/chart_values.py`", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
