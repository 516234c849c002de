"""How processes log: one line per event, with its run, role and process.

The default is text, for people, in terminals and in the files of a local run. With SBRL_LOG_FORMAT=json, which the chart sets,
each line is a JSON object, for programs.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
import warnings
from typing import NamedTuple

from sbrl.errors import SbrlError, UsageError

FORMAT_VARIABLE = "SBRL_LOG_FORMAT"
TEXT, JSON = "text", "json"
ERROR_MARK, WARNING_MARK = "sbrl: error: ", "sbrl: warning: "  # such lines on standard error begin with these
_TIME = "%Y-%m-%dT%H:%M:%S"


class Context(NamedTuple):
    """The part of every line that identifies its process."""

    role: str = ""
    name: str = ""
    run_id: str = ""


def log_format() -> str:
    """`text` or `json`, from the environment.

    Raises:
        UsageError: the environment asks for another format.
    """
    chosen = os.environ.get(FORMAT_VARIABLE) or TEXT
    if chosen not in (TEXT, JSON):
        raise UsageError(f"{FORMAT_VARIABLE}={chosen} is no format of logs: set it to {TEXT} or {JSON}, or leave it out")
    return chosen


def configure_logging(context: Context, level: str) -> None:
    """Sends all logging to standard error, including Python's own warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(context) if log_format() == JSON else TextFormatter(context))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    warnings.formatwarning = _format_warning


class TextFormatter(logging.Formatter):
    """2026-01-01T12:00:00Z INFO pong-20260101-115900-3f9c replay-0 checkpoint ... in 3.0 s"""

    def __init__(self, context: Context) -> None:
        role, name, run_id = context
        who = name if name.startswith(role) else f"{role}/{name}"
        about = f"{run_id} {who}".replace("%", "%%")
        super().__init__(f"%(asctime)s %(levelname)s {about} %(message)s", datefmt=f"{_TIME}Z")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, role, name, run_id, message, logger, and exception if there is one."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        error = self.formatException(record.exc_info) if record.exc_info else None
        return json_line(self._context, record.created, record.levelname, record.getMessage(), record.name, error)


def json_line(context: Context, when: float, level: str, message: str, logger: str = "", exception: str | None = None) -> str:
    """One event as JSON. `when` is in seconds since 1970."""
    whole, milliseconds = divmod(int(when * 1000), 1000)
    event = {
        "time": f"{time.strftime(_TIME, time.gmtime(whole))}.{milliseconds:03d}Z",
        "level": level,
        **context._asdict(),
        "message": message,
        "logger": logger,
    }
    if exception is not None:
        event["exception"] = exception
    return json.dumps(event, ensure_ascii=False)


def report_failure(error: SbrlError) -> None:
    """Reports a failure that the user can fix, as one line on standard error."""
    if _wants_json():
        logging.getLogger("sbrl").error("%s", error)
    else:
        print(f"{ERROR_MARK}{error}", file=sys.stderr)


def report_bug() -> None:
    """Reports the current exception with its traceback."""
    if _wants_json():
        logging.getLogger("sbrl").critical("ended by an exception: this is a bug", exc_info=True)
    else:
        traceback.print_exc()


def one_line(text: str) -> str:
    """`text` without line breaks."""
    return " | ".join(part.strip() for part in text.splitlines() if part.strip()) if "\n" in text else text


def _wants_json() -> bool:
    """Whether to log as JSON. If so, configures logging if necessary: a process may fail before it does so itself."""
    if os.environ.get(FORMAT_VARIABLE) != JSON:
        return False
    if not logging.getLogger().handlers:
        configure_logging(Context(), "INFO")
    return True


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{category.__name__}: {message} ({filename}:{lineno})"
