"""One frozen, validated config for all roles, from preset, file and overrides; as YAML and JSON schema.

There are three sources, and later ones win: a preset, a YAML file, and dotted `key=value` overrides. `load` reads all three.
`dump` writes YAML that `load` reads back to an equal tree. `sbrl.config.sections` has the keys, `sbrl.config.checks` the rules
across keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import ValidationError, model_validator

from sbrl.config.agents import find_preset
from sbrl.config.base import Section
from sbrl.config.checks import check, warn
from sbrl.config.errors import explain
from sbrl.config.presets import DEFAULT_PRESET
from sbrl.config.sections import Actors, Agent, Env, Evaluator, Learner, Network, Replay, Run
from sbrl.errors import UsageError, shown
from sbrl.yaml_text import read_yaml_text

SCHEMA_VERSION: Final = 2
# Dopamine's support for returns of clipped rewards (Bellemare et al. 2017).
CLIPPED_V_MAX: Final = 10.0
SEGMENT_STEPS: Final = 32  # steps of one environment that are sent together: see sbrl.replay.segments
MOST_PARTS: Final = 20  # limit on the parts of an override's key: env.kwargs may nest


class Config(Section):
    """The complete tree. Unset values that depend on run.env_steps are filled in, so a saved config holds numbers."""

    schema_version: Literal[2] = SCHEMA_VERSION
    """Version of this tree that a run directory was written with. Any other version is refused."""
    run: Run = Run()
    env: Env = Env()
    agent: Agent = Agent()
    learner: Learner = Learner()
    replay: Replay = Replay()
    actors: Actors = Actors()
    evaluator: Evaluator = Evaluator()
    network: Network = Network()

    @property
    def sections(self) -> dict[str, Section]:
        """All sections by name."""
        return {name: part for name, part in self if isinstance(part, Section)}

    @property
    def samples_per_insert(self) -> float:
        """Samples trained per transition inserted, after warm-up: batch size x updates per step."""
        return self.learner.batch_size * self.learner.updates_per_step

    @property
    def receive_ahead(self) -> float:
        """replay.ahead, or its default: two segments, or as many as two updates need if that is more."""
        if self.replay.ahead is not None:
            return self.replay.ahead
        return max(2.0 * SEGMENT_STEPS, 2.0 / self.learner.updates_per_step)

    @property
    def min_replay_size(self) -> int:
        """replay.min_size. Validation fills it in, so it is never None."""
        assert self.replay.min_size is not None
        return self.replay.min_size

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each setting that is allowed but rarely intended."""
        return warn(self)

    @model_validator(mode="after")
    def _fill_in_and_cross_check(self) -> Config:
        # The model is frozen, and pydantic requires this same object as the result: this is the only way to set fields.
        env_steps = self.run.env_steps
        if self.replay.min_size is None:
            min_size = max(self.replay.num_shards, min(20_000, env_steps // 10))
            object.__setattr__(self, "replay", self.replay.model_copy(update={"min_size": min_size}))
        filled_in: dict[str, Any] = {}
        if self.agent.epsilon_decay_steps is None:
            filled_in["epsilon_decay_steps"] = min(250_000, env_steps // 5)
        if self.agent.v_max is None and self.env.clips_rewards:
            filled_in["v_max"] = CLIPPED_V_MAX
        v_max = filled_in.get("v_max", self.agent.v_max)
        if self.agent.v_min is None and v_max is not None:
            filled_in["v_min"] = -v_max
        object.__setattr__(self, "agent", self.agent.model_copy(update=filled_in))
        check(self)
        return self


# If unset, these follow from run.env_steps. A run that gets more steps later keeps the values that it began with.
DERIVED: Final = (("replay", "min_size"), ("agent", "epsilon_decay_steps"))


def with_derived_of(config: Config, other: Config) -> Config:
    """`config` with the DERIVED values of `other`."""
    tree = config.model_dump(mode="json")
    for section, key in DERIVED:
        tree[section][key] = getattr(getattr(other, section), key)
    return build(tree)


def keep_derived(given: Mapping[str, Any], before: Config) -> Config:
    """The config of a resumed run. DERIVED values that `given` does not set keep their values from `before`.

    Raises:
        UsageError: as `build`.
    """
    kept: dict[str, Any] = {}
    for section, key in DERIVED:
        values = {} if given.get(section) is None else given[section]
        if isinstance(values, Mapping) and values.get(key) is None:  # `build` refuses anything else
            kept.setdefault(section, {})[key] = getattr(getattr(before, section), key)
    return build(given, kept)


def serial_config(config: Config) -> Config:
    """The config of a serial run: one memory, one actor, one thread, no network.

    Raises:
        UsageError: a setting does not go with that.
    """
    serial = {
        "replay": {"num_shards": 1},
        "actors": {"num_actors": 1},
        "learner": {"num_threads": 1, "device": "cpu"},
        "network": {"replay_addresses": []},
    }
    return build(config.model_dump(mode="json"), serial)


def build(*sources: Mapping[str, Any]) -> Config:
    """Merges nested mappings, later ones winning, and validates the result.

    Raises:
        UsageError: one line for each error, with the field, the rule and the consequence, or the nearest known key.
    """
    tree: dict[str, Any] = {}
    for source in sources:
        _merge(tree, source)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(explain(error, Config)) from None


def load(path: Path | None = None, preset: str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Reads a config from a preset, then a YAML file, then `key=value` overrides; later ones win.

    Without a preset, a YAML file changes the default values only, so that a saved run.yaml is read back unchanged. With neither
    preset nor file, the default preset is used.

    Raises:
        UsageError: an unknown preset or key, a value out of range, or a file that is not a YAML mapping.
    """
    sources: list[Mapping[str, Any]] = []
    if preset is not None or path is None:
        sources.append(find_preset(preset or DEFAULT_PRESET).settings)
    if path is not None:
        sources.append(read_yaml(path))
    sources.extend(parse_override(text) for text in overrides)
    return build(*sources)


def read_yaml(path: Path) -> dict[str, Any]:
    """The config part of a YAML file, without its `metadata` (versions, git commit).

    Raises:
        UsageError: the file cannot be read, is not a YAML mapping, or was written with another schema version.
    """
    try:
        return _tree_of(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UsageError(f"cannot read config {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"config {path} is not valid YAML: {error}") from None


def parse(text: str, name: str) -> Config:
    """The config in a YAML text that `dump` wrote. Args: name: the text's source, for messages.

    Raises:
        UsageError: the text is not a YAML mapping, has another schema version, or contains a bad value.
    """
    return build(_tree_of(text, name))


def _tree_of(text: str, name: str) -> dict[str, Any]:
    try:
        tree = read_yaml_text(text)
    except yaml.YAMLError as error:
        raise UsageError(f"config {name} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(
            f"config {name} must be a mapping of sections, such as 'run: {{env_steps: 20000}}', not a {type(tree).__name__}"
        )
    tree.pop("metadata", None)
    version = tree.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{name} was written with config schema {shown(version)}; this version of sbrl reads schema {SCHEMA_VERSION}: "
            f"start a new run directory, or use the sbrl version that wrote it"
        )
    return tree


def parse_override(text: str) -> dict[str, Any]:
    """`section.key=value` as a nested mapping. The value is read as YAML, so 1e-4, true, null and [a, b] have their types.

    Raises:
        UsageError: no `=`, an empty part of the key, or a value that is not YAML.
    """
    key, separator, value = text.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts) or len(parts) > MOST_PARTS:
        raise UsageError(f"override {shown(text)} is not of the form section.key=value, such as run.seed=1")
    try:
        tree: Any = read_yaml_text(value)
    except yaml.YAMLError:
        raise UsageError(f"override {shown(text)}: the value is not valid YAML; quote it") from None
    for part in reversed(parts):
        tree = {part: tree}
    return dict(tree)


def dump(config: Config, metadata: Mapping[str, Any] | None = None) -> str:
    """YAML that `load` reads back to an equal config. `metadata` comes first; `load` ignores it."""
    tree = config.model_dump(mode="json")
    if metadata:
        tree = {"metadata": dict(metadata), **tree}
    return str(yaml.safe_dump(tree, sort_keys=False))


def json_schema() -> str:
    """The JSON schema (draft 2020-12) of the tree, with every field's default, bounds and description."""
    return json.dumps(Config.model_json_schema(), indent=2)


def _merge(into: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)  # copies, so that the presets are never written to
        else:
            into[key] = value
