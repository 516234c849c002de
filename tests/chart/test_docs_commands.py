"""Runs every helm command in the documentation, the values and the notes with helm."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

from tests.chart.helm import CHART, NAMESPACE, ROOT, helm
from tests.chart.test_docs import notes
from tests.chart.test_render import HPA

DEPLOY = ROOT / "docs/deploy.md"
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), CHART / "values.yaml", *(ROOT / "helm").glob("*.yaml")]
VERBS = ("install", "upgrade", "template", "test", "rollback", "uninstall", "get", "package")
VALUES_OPTIONS = {"--set", "--set-json", "--set-string", "--set-file", "--values", "-f"}


def commands():
    """(line, where): helm's commands on separate lines and in backquotes, and values that appear without a command."""
    pages = [(page.name, page.read_text(encoding="utf-8")) for page in PAGES]
    pages += [("NOTES", notes(values)) for values in ("", HPA, "actors: {scaledBy: hand}")]
    found: dict[str, str] = {}
    for where, text in pages:
        whole = re.sub(r"\n {10,}", " ", text)
        found |= dict.fromkeys(re.findall(r"^ {2,4}(helm (?:-n \S+ )?[a-z]+ .*)$", whole, re.MULTILINE), where)
        found |= dict.fromkeys(re.findall(r"^ {4}(--set\S* .*=.*)$", whole, re.MULTILINE), where)
        # Text in backquotes may continue on the next line.
        plain = re.sub(r"\n[ #|]*(?=[^\n`]*`)", " ", text)
        found |= dict.fromkeys(re.findall(r"`(helm [a-z]+ [^`]*|--set\S* [^`]*=[^`]*)`", plain), where)
    return list(found.items())


@cache
def options(verb: str) -> str:
    return helm(verb, "--help").stdout


def words_of(line: str) -> list[str]:
    """The words that helm would get."""
    line = re.sub(r"\$\([^)]*\)", "1234567890123456", line)  # in place of a shell's command substitution
    line = re.split(r" [>|] |\s#\s", line)[0]
    return shlex.split(re.sub(r"=N\b", "=3", line).replace("=NAME", "=name"))


def problems_with(line: str, preset: Path) -> str:
    """Helm's error for a command; "" if there is none."""
    words = words_of(line)
    verb = next((word for word in words if word in VERBS), "upgrade")
    for option in (word.partition("=")[0] for word in words if word.startswith("-")):
        if not re.search(rf"(^|\s){re.escape(option)}\b", options(verb)):
            return f"helm {verb} has no {option}"
    values = []
    for option, value in itertools.pairwise(words):
        if option in VALUES_OPTIONS and value != "values.yaml":  # values.yaml: of an existing release
            values += [option, {"sr-spr.yaml": str(preset)}.get(value, str(ROOT / value) if option == "-f" else value)]
    done = helm("template", "sbrl", str(CHART), "-n", NAMESPACE, *values) if values else None
    return done.stderr if done is not None and done.returncode else ""


def preset_values(path: Path) -> Path:
    """The values file that the page's own command writes."""
    (line,) = re.findall(r"^ {4}(\(echo run:.*) > sr-spr.yaml$", DEPLOY.read_text(encoding="utf-8"), re.MULTILINE)
    environment = {"PATH": f"{ROOT / '.venv/bin'}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=100, check=True, env=environment)
    path.write_text(done.stdout, encoding="utf-8")
    return path


def test_helm_takes_every_command(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found, preset = commands(), preset_values(tmp_path / "sr-spr.yaml")
    parts = (
        "helm install",
        "helm upgrade",
        "helm rollback",
        "helm test",
        "helm uninstall",
        "helm -n rl upgrade",
        "helm template",
    )
    for part in (*parts, "--set-json run", "--set prometheus", "-f sr-spr.yaml", "-f helm/gpu-node.yaml"):
        assert any(part in line for line, _ in found), part
    wrong = {f"{where}: {line}": said for line, where in found if (said := problems_with(line, preset))}
    assert not wrong


def test_a_command_that_helm_does_not_take_is_found(tmp_path):
    """The schema requires a number, but --set turns a number with an exponent or a point into text."""
    assert "learning_rate" in problems_with("helm upgrade sbrl deploy/ --set run.learner.learning_rate=5e-5", tmp_path)
    assert "has no --reuse" in problems_with("helm install sbrl deploy/ --reuse", tmp_path)
