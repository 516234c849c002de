"""`sbrl presets`: lists the presets, and shows what each one means."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sbrl import config as configs
from sbrl.config import Config, Env
from sbrl.config.agents import all_presets, find_preset
from sbrl.errors import UsageError
from sbrl.runtime.arguments import Parser
from sbrl.runtime.program import check_installed

if TYPE_CHECKING:
    from sbrl.envs.spec import EnvSpec  # it loads NumPy

UNKNOWN = "?"
DESCRIPTION_WIDTH = 120  # a terminal with this many columns has room for descriptions


class PresetRow(NamedTuple):
    """A preset in figures."""

    name: str
    environment: str
    batch_size: int
    updates_per_step: float
    samples_per_insert: float
    n_step_initial: int  # n_step, unless n is annealed
    n_step: int
    torso: str | None  # None: the environment cannot be made here, so its observations are unknown
    parameters: int | None  # of the network; None as for torso
    description: str


def add_presets_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds `presets` to the program's commands."""
    presets = commands.add_parser(
        "presets",
        help="list the presets, or show one in full",
        description="Lists the presets with what sets them apart. The environment is where a preset starts from: any other "
        "is set by env.id. Parameters are those of the network for that environment.",
    )
    presets.add_argument("--json", action="store_true", help="print the list as JSON")
    presets.set_defaults(command=_list)
    show = presets.add_subparsers(title="actions", metavar="ACTION").add_parser(
        "show", help="print a preset's whole config as YAML, for --config"
    )
    show.add_argument("name", metavar="NAME")
    show.set_defaults(command=_show)


def preset_rows() -> tuple[list[PresetRow], list[str]]:
    """All presets in their order, and a sentence for each reason why an environment cannot be made here."""
    from sbrl.networks.build import count_parameters  # loads torch
    from sbrl.networks.checks import torso_name

    rows, problems = [], []
    specs: dict[str, EnvSpec] = {}
    for name, preset in all_presets().items():
        config = configs.load(preset=name)
        torso, parameters = None, None
        try:
            key = config.env.model_dump_json()
            spec = specs[key] = specs.get(key) or _spec(config.env)
        except UsageError as error:  # mostly an optional package that is not installed
            problems.append(str(error))
        else:
            torso, parameters = torso_name(config.agent, spec), count_parameters(config.agent, spec)
        rows.append(_row(name, preset.description, config, torso, parameters))
    return rows, list(dict.fromkeys(problems))


def preset_yaml(name: str) -> str:
    """The preset's whole config as YAML for `--config`, with description and source as comments.

    Raises:
        UsageError: an unknown name.
    """
    preset = find_preset(name)
    return f"# {name}: {preset.description}\n# Source: {preset.source}\n{configs.dump(configs.load(preset=name))}"


def plain_table(rows: list[PresetRow]) -> str:
    """The list as aligned columns, nothing cut off."""
    cells = [[title for title, _ in _COLUMNS], *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            text.rjust(width) if justify == "right" else text.ljust(width)
            for text, width, (_, justify) in zip(line, widths, _COLUMNS, strict=True)
        ).rstrip()
        for line in cells
    )
    return "\n".join(lines)


def rich_table(rows: list[PresetRow], width: int) -> Table:
    """The list by environment, for a terminal of `width` columns. A narrow one has no room for descriptions."""
    has_descriptions = width >= DESCRIPTION_WIDTH
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if has_descriptions else 1, 0, 0))
    shown = [index for index, (title, _) in enumerate(_COLUMNS) if title != "environment"]
    if not has_descriptions:
        shown.pop()
    for title, justify in (_COLUMNS[index] for index in shown):
        table.add_column(title.replace("/", "/\n"), justify="right" if justify == "right" else "left", overflow="fold")
    for environment, group in groupby(rows, key=lambda row: row.environment):
        table.add_row(Text(environment, style="italic"))
        for row in group:
            table.add_row(*(_cells(row)[index] for index in shown))
    return table


_COLUMNS = (
    *(("preset", "left"), ("environment", "left"), ("batch", "right"), ("updates/step", "right"), ("samples/insert", "right")),
    *(("n", "right"), ("torso", "left"), ("parameters", "right"), ("description", "left")),
)


def _list(arguments: argparse.Namespace) -> int:
    check_installed("presets")
    rows, problems = preset_rows()
    if arguments.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    elif sys.stdout.isatty():
        console = Console()
        console.print(rich_table(rows, console.width))
    else:
        print(plain_table(rows))
    for problem in problems:
        print(f"sbrl: warning: {problem}", file=sys.stderr)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    print(preset_yaml(arguments.name), end="")
    return 0


def _spec(env: Env) -> EnvSpec:
    from sbrl.envs.make import make_spec  # loads gymnasium and ALE

    return make_spec(env)


def _row(name: str, description: str, config: Config, torso: str | None, parameters: int | None) -> PresetRow:
    agent = config.agent
    return PresetRow(
        name=name,
        environment=config.env.id,
        batch_size=config.learner.batch_size,
        updates_per_step=config.learner.updates_per_step,
        samples_per_insert=config.samples_per_insert,
        n_step_initial=agent.n_step_initial or agent.n_step,
        n_step=agent.n_step,
        torso=torso,
        parameters=parameters,
        description=description,
    )


def _cells(row: PresetRow) -> list[str]:
    annealed = row.n_step_initial != row.n_step
    return [
        *(row.name, row.environment, str(row.batch_size), f"{row.updates_per_step:g}", f"{row.samples_per_insert:g}"),
        f"{row.n_step_initial}->{row.n_step}" if annealed else str(row.n_step),
        row.torso or UNKNOWN,
        UNKNOWN if row.parameters is None else f"{row.parameters:,}",
        row.description,
    ]
