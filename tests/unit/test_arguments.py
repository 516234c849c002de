"""Numbers of a command line: what is in range is read, all else is refused in one line that names the range."""

from __future__ import annotations

import argparse

import pytest

from sbrl.arguments import number, port, seed, whole_number


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
