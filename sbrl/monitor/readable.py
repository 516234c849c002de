"""Numbers as people read them."""

from __future__ import annotations


def number(value: float | None) -> str:
    """A return, or a dash if there is none yet."""
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) < 1e9 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as people write them: 42s, 3m 05s, 2h 07m."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"
