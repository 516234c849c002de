"""The configuration: tree, sections, checks, messages, presets, algorithms. Imports only sbrl.errors and sbrl.yaml_text.

Other packages import from here: `from sbrl.config import Config, load`.
"""

from sbrl.config.sections import Actors, Agent, Env, Evaluator, Learner, Network, Replay, Run
from sbrl.config.tree import (
    DERIVED,
    SCHEMA_VERSION,
    SEGMENT_STEPS,
    Config,
    build,
    dump,
    json_schema,
    keep_derived,
    load,
    parse,
    parse_override,
    read_yaml,
    serial_config,
    with_derived_of,
)

__all__ = [
    "DERIVED",
    "SCHEMA_VERSION",
    "SEGMENT_STEPS",
    "Actors",
    "Agent",
    "Config",
    "Env",
    "Evaluator",
    "Learner",
    "Network",
    "Replay",
    "Run",
    "build",
    "dump",
    "json_schema",
    "keep_derived",
    "load",
    "parse",
    "parse_override",
    "read_yaml",
    "serial_config",
    "with_derived_of",
]
