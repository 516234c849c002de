"""The documents: links have targets, the index names every page, and README stays short."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from sbrl.cli.commands import make_parser
from sbrl.cli.programs import PROGRAMS
from scripts import tree_docs
from studies import __main__ as studies

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_names_every_page() -> None:
    named = set(LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= named


def test_the_tree_is_fresh() -> None:
    assert tree_docs.PATH.read_text(encoding="utf-8") == tree_docs.document(), (
        "docs/tree.md is not what the files say of themselves: run `make tree-docs`"
    )


def test_every_file_says_in_a_sentence_what_it_holds() -> None:
    said = {str(path.relative_to(ROOT)): tree_docs.first_sentence(path) for path in tree_docs.modules()}
    assert len(said) > 250
    longest = tree_docs.LONGEST
    wrong = {name: text for name, text in said.items() if not text.endswith((".", "?")) or len(text) > longest}
    assert wrong == {}, f"the first sentence of a module's docstring has at most {longest} characters"


def test_the_tree_names_what_there_is() -> None:
    assert [name for name in tree_docs.REMARKS if not (ROOT / name).exists()] == []


def test_the_recipes_name_what_there_is() -> None:
    recipes = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Recipes\n")[2]
    named = set(re.findall(r"`([a-z][\w.-]*/[\w./-]*)`", recipes))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_page_of_commands_names_every_command_and_action() -> None:
    table = (ROOT / "docs/commands.md").read_text(encoding="utf-8").partition("\n\nExit codes")[0]
    named, before = set(), [""]
    for words in re.findall(r"`([a-z][a-z -]*)", table):
        before = words.split() if words.startswith("sbrl ") else [*before[:-1], words]  # `sbrl study plan`, `run`
        named.add(" ".join(before))
    programs = make_parser({name: program.help for name, program in PROGRAMS.items()})
    assert (commands(programs) - {"sbrl study"} | commands(studies.make_parser())) - named == set()


def test_the_help_names_every_action_that_makes_or_follows_a_study() -> None:
    actions = {name.split()[-1] for name in commands(studies.make_parser())} - {"schema", "pod"}
    assert actions <= set(re.findall(r"\w+", PROGRAMS["study"].help))


def commands(parser: argparse.ArgumentParser) -> set[str]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name for action in below for child in action.choices.values() for name in commands(child)} or {parser.prog}


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
