"""Command lines: bad arguments are refused in one line that names the range, or what was probably meant."""

from __future__ import annotations

import argparse

import pytest

from sbrl.cli.__main__ import run
from sbrl.errors import near, plain
from sbrl.runtime.arguments import number, port, seed, whole_number
from sbrl.runtime.lifecycle import role_arguments


def test_what_is_in_range_is_read() -> None:
    assert (port("0"), port("65535"), seed("2147483647"), whole_number(3, 5)("4")) == (0, 65535, 2**31 - 1, 4)
    assert (number(above=0)("1e-3"), number(least=0)("0"), number()("-2.5")) == (0.001, 0.0, -2.5)


@pytest.mark.parametrize("text", ["-1", "65536", "70000", "1.5", "", "x", "²", "9" * 5000])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no whole number from 0 to 65535"):
        port(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "", "x"])
def test_what_is_no_positive_number_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no number above 0"):
        number(above=0)(text)


def test_bounds_are_named_with_all_their_digits() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"above 12345678$"):
        number(above=12345678)("1")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((2**31, "2147483648"), (2.0**31, "2147483648"), (10**12, "1000000000000"), (2**63, "9223372036854775808")),
        *((-20.0, "-20"), (0.1 + 0.2, "0.3"), (1234567.5, "1234567.5"), (1e-10, "1e-10"), (1e300, "1e+300")),
        *((float("inf"), "inf"), (float("nan"), "nan")),
    ],
)
def test_numbers_are_written_as_people_do(value: float, text: str) -> None:
    assert plain(value) == text


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("trian", ["train", "eval", "brain"], ["train"]),
        ("TRAIN", ["train", "trains"], ["train"]),
        ("trai", ["train", "trait", "play"], ["train", "trait"]),
        ("xyzzy", ["train"], []),
        ("train", [], []),
    ],
)
def test_several_names_are_near_only_where_they_are_equally_near(name: str, known: list[str], found: list[str]) -> None:
    assert sorted(near(name, known)) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian --run-dir runs/x env.id=Pong", "sbrl: error: unknown command 'trian'; did you mean 'train'?"),
        ("stauts -n rl", "sbrl: error: unknown command 'stauts'; did you mean 'status'?"),
        ("xyzzy", "sbrl: error: unknown command 'xyzzy'; there are train, config, presets, eval, play, "),
        ("presets shwo dqn", "sbrl presets: error: unknown action 'shwo'; did you mean 'show'?"),
        ("config shcema", "sbrl config: error: unknown action 'shcema'; did you mean 'schema'?"),
        ("train --preste dqn", "sbrl: error: unrecognized arguments: --preste; did you mean '--preset'?"),
        ("train --run-dri=runs/x", "sbrl: error: unrecognized arguments: --run-dri=runs/x; did you mean '--run-dir'?"),
        ("train nonsense --preset dqn more", "sbrl: error: unrecognized arguments: more;"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert line.endswith("--help` says what there is")


def test_a_role_names_the_nearest_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        role_arguments("learner", "").parse_args(["--config", "run.yaml", "--helth-port", "1"])
    assert "unrecognized arguments: --helth-port 1; did you mean '--health-port'?" in capsys.readouterr().err
