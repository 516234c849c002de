"""Readers of files that may be damaged or forged: configs, checkpoints, manifests, weights, results."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from learner.algorithm.update import make_update_step
from learner.checkpoint import CheckpointStore, SavedLearner, capture_random, load, restore_random
from learner.ratio import Ratio, RatioSettings
from learner.replay import restored_accounts
from sbrl import config as configs
from sbrl.config import Config
from sbrl.config.presets import PRESETS
from sbrl.envs.make import make_spec
from sbrl.errors import RunError, UsageError
from sbrl.monitor.summary import run_so_far
from sbrl.networks.build import build_network
from sbrl.networks.serialization import copy_tensors, decode, encode
from sbrl.replay.receipts import Receipts
from sbrl.replay.segments import Stream
from sbrl.storage.checkpoints import list_checkpoints
from sbrl.storage.run_directory import RunDirectory
from sbrl.storage.tables import read_episodes, write_episodes
from sbrl.v1.episodes_pb2 import Episode
from services.evaluator.agent import load_agent
from tests.fuzz.mutations import knotted_text, mutated_bytes, mutated_tree
from tests.fuzz.target import Target, only

SMALL = ("env.id=CartPole-v1", "agent.hidden_size=4", "agent.num_quantiles=2", "run.env_steps=1000")
COUNTERS = {"samples_trained": 80, "env_steps": 900, "max_priority": 1.5}


class Reader:
    """Reads one file with known correct content."""

    def __init__(
        self,
        name: str,
        make: Callable[[random.Random], bytes],
        path: Path,
        read: Callable[[Path], None],
        *refusals: type[Exception],
    ) -> None:
        """Args: read: called with `path`. refusals: the exceptions that it raises to refuse a file."""
        self.name = name
        self._make, self._path, self._read, self._refusals = make, path, read, refusals

    def make(self, chance: random.Random) -> bytes:
        return self._make(chance)

    def feed(self, data: bytes) -> None:
        self._path.write_bytes(data)
        with only(*self._refusals):
            self._read(self._path)

    def check(self) -> None:
        """Nothing to check: reading a file leaves no state."""


def changed_file(chance: random.Random, name: str, whole: bytes) -> bytes:
    """A file's bytes after a few changes, or its JSON's."""
    if name.endswith(".json") and chance.random() < 0.7:
        return json.dumps(mutated_tree(chance, [json.loads(whole)])).encode()
    return mutated_bytes(chance, [whole])


class CheckpointReader:
    """Reads a directory of files with checksums. One file is wrong; every other time its checksum is made to match.

    An input is the file's name, whether its checksum is made to match, and its contents.
    """

    def __init__(
        self,
        name: str,
        checkpoint: Path,
        manifest: str,
        sign: Callable[[Path], None],
        read: Callable[[], None],
        *refusals: type[Exception],
        change: Callable[[random.Random, str, bytes], bytes] = changed_file,
    ) -> None:
        """Args: checkpoint: a complete one. sign: writes its manifest again. read: reads it. change: damages a file."""
        self.name, self._change = name, change
        self._checkpoint, self._manifest, self._sign, self._read, self._refusals = checkpoint, manifest, sign, read, refusals
        self._whole = {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())}

    def make(self, chance: random.Random) -> bytes:
        name = chance.choice(list(self._whole))
        content = self._change(chance, name, self._whole[name])
        return f"{name}\n{chance.randrange(2)}\n".encode() + content

    def feed(self, data: bytes) -> None:
        name, signed, content = data.split(b"\n", 2)
        for path in self._checkpoint.iterdir():
            path.unlink()
        for other, whole in self._whole.items():
            (self._checkpoint / other).write_bytes(content if other == name.decode() else whole)
        with only(*self._refusals):
            if signed == b"1" and name.decode() != self._manifest:
                self._sign(self._checkpoint)
            self._read()

    def check(self) -> None:
        for other, whole in self._whole.items():
            (self._checkpoint / other).write_bytes(whole)
        self._read()


def readers(folder: Path) -> Iterator[Target]:
    """Every reader. Each works in its own folder within `folder`."""
    yield from config_readers(folder)
    yield from learner_readers(folder / "run")
    yield from result_readers(folder)


def config_readers(folder: Path) -> Iterator[Target]:
    texts = [configs.dump(configs.load(preset=preset), {"git": "abc"}).encode() for preset in PRESETS]
    trees = [yaml.safe_load(text) for text in texts]

    def make(chance: random.Random) -> bytes:
        kind = chance.random()
        if kind < 0.4:
            return mutated_bytes(chance, texts)
        if kind < 0.5:
            return knotted_text(chance, chance.choice(texts).decode()).encode()
        tree = mutated_tree(chance, trees)
        return yaml.safe_dump(tree).encode() if kind < 0.7 else json.dumps(tree).encode()

    def read(path: Path) -> None:
        config = configs.load(path)
        assert configs.build(yaml.safe_load(configs.dump(config))) == config

    yield Reader("config", make, folder / "config.yaml", read, UsageError)
    overrides = [
        f"{section}.{key}={value}".encode()
        for section, keys in trees[0].items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    ]
    yield Reader(
        "override",
        lambda chance: mutated_bytes(chance, overrides),
        folder / "override.txt",
        lambda path: _ignore(configs.load(overrides=[path.read_bytes().decode(errors="surrogateescape")])),
        UsageError,
    )


def learner_readers(folder: Path) -> Iterator[Target]:
    config = configs.load(overrides=SMALL)
    directory = RunDirectory(folder)
    directory.path.mkdir()
    directory.config.write_text(configs.dump(config), encoding="utf-8")
    step = make_update_step(config, make_spec(config.env))
    random_state = torch.get_rng_state()
    store = CheckpointStore(directory.learner_checkpoints, keep=2)
    received = {"ratio": Ratio(RatioSettings.of(config), 900, 80.0, 80).state(), "receipts": receipts().state()}
    whole = store.save(SavedLearner(step.state(), dict(COUNTERS), capture_random(), received))

    def resume() -> None:
        state = load(whole)
        step.restore(state.update)
        restore_random(state.random)
        restored_accounts(RatioSettings.of(config), state)
        torch.set_rng_state(random_state)

    def choose_agent() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            load_agent(directory, updates=None)

    for name, read in (("learner checkpoint, resumed", resume), ("learner checkpoint, evaluated", choose_agent)):
        yield CheckpointReader(name, whole, "manifest.json", _sign_learner, read, RunError)
    assert list_checkpoints(directory.learner_checkpoints) == [whole]
    yield weights_reader(config, folder)


def receipts() -> Receipts:
    """Receipts of two actors' environments: one with gaps, one that is forgotten, one that is gone."""
    made = Receipts(max_writers=3)
    for incarnation, env, first in ((1, 0, 0), (2, 0, 0), (2, 0, 64), (2, 1, 0), (3, 0, 96)):
        made.take(env, Stream(0, incarnation, env, 0), first, 32)
    made.settle(2, 200)
    return made


def weights_reader(config: Config, folder: Path) -> Target:
    """Reads fetched bytes as an actor does."""
    network = build_network(config.agent, make_spec(config.env), seed=1)
    weights = encode(network.state_dict())
    return Reader(
        "weights",
        lambda chance: mutated_bytes(chance, [weights]),
        folder / "weights.safetensors",
        lambda path: copy_tensors(network.state_dict(), decode(path.read_bytes()), "weights"),
        RunError,
    )


def result_readers(folder: Path) -> Iterator[Target]:
    summary = {"complete": True, "env_steps": 5000, "wall_seconds": 3.5, "eval_return_mean": None}
    path = folder / "episodes-whole.csv"
    write_episodes(path, [Episode(actor=1, incarnation=2, episode_return=-20.5, length=900, time=1.5e9)] * 3)
    table = path.read_bytes()

    def make(chance: random.Random) -> bytes:
        if chance.random() < 0.5:
            return mutated_bytes(chance, [json.dumps(summary).encode()])
        return json.dumps(mutated_tree(chance, [summary])).encode()

    yield Reader("summary", make, folder / "summary.json", lambda path: _ignore(run_so_far(path)))
    yield Reader(
        "episodes",
        lambda chance: mutated_bytes(chance, [table]),
        folder / "episodes.csv",
        lambda path: _ignore(read_episodes(path)),
        RunError,
    )


def _sign_learner(checkpoint: Path) -> None:
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.name != "manifest.json"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (checkpoint / "manifest.json").write_text(json.dumps({"format": 1, "sha256": digests}), encoding="utf-8")


def _ignore(value: Any) -> None:
    """Discards the value."""
