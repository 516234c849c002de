"""Errors in users' environments: each gives one line with env.id, reason and remedy, and nothing hangs or dies."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from sbrl import config
from sbrl.config import Env
from sbrl.envs.make import make_envs
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError, UsageError
from sbrl.runtime import env_probe as probes
from sbrl.runtime.env_probe import probe, spec_for_role, try_out
from sbrl.runtime.parent_death import TURN_VARIABLE
from sbrl.storage.metadata import check_same_environment, run_metadata

# A module as users write it. HEAD is replaced at its beginning, BODY in place of the environment's methods.
MODULE = """
import gymnasium, numpy as np, os, time, ctypes
from gymnasium import spaces
{head}
class Own(gymnasium.Env):
    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1.0, 1.0, (4,))
    observed = np.zeros(4, np.float32)
    def reset(self, *, seed=None, options=None):
        return self.observed, {{}}
    def step(self, action):
        return self.observed, 1.0, False, False, {{}}
{body}
gymnasium.registry.pop("Own-v0", None)
gymnasium.register("Own-v0", entry_point=Own)
"""

NUMBERS = itertools.count()


class Users:
    """Writes modules with unique names where this process and its children find them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def env(self, head: str = "", body: str = "", **settings: object) -> Env:
        name = f"own_{next(NUMBERS)}"  # unique, because a module is imported only once
        methods = "".join(f"    {line}\n" for line in body.splitlines())
        (self._folder / f"{name}.py").write_text(MODULE.format(head=head, body=methods), encoding="utf-8")
        return config.build({"env": {"id": f"{name}:Own-v0", **settings}}).env


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Users:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return Users(tmp_path)


RESET, STEP = "def reset(self, *, seed=None, options=None):", "def step(self, action):"
REFUSED = [
    ("raise ValueError('no licence')", "", "cannot be made: ValueError: no licence"),
    ("raise SystemExit(3)", "", "cannot be made: SystemExit: 3"),
    ("import sys; sys.exit()", "", "cannot be made: SystemExit"),
    ("class Odd(BaseException): pass\nraise Odd('line one\\nline two')", "", "cannot be made: Odd: line one | line two"),
    ("from gymnasium import no_such_name", "", "cannot be made: ImportError"),
    ("def broken(:", "", "cannot be made: SyntaxError"),
    ("import no_such_package", "", "No module named 'no_such_package'"),
    ("", "def __init__(self): raise OSError('no display')", "cannot be made: OSError: no display"),
    ("", "def __init__(self, size): pass", "missing 1 required positional argument: 'size'"),
    ("", "def __init__(self): exit(1)", "cannot be made: SystemExit: 1"),
    ("", "observation_space = None", "its observation space is None"),
    ("", "@property\ndef action_space(self): raise KeyError('later')", "cannot be made: KeyError: 'later'"),
    ("", f"{RESET} raise RuntimeError('not now')", "cannot be reset: RuntimeError: not now"),
    ("", f"{RESET} return self.observed", "cannot be reset: it returned one ndarray, as under old Gym's API"),
    ("", f"{RESET} return (0.0, 1.0)", "cannot be reset: it returned 2 values"),
    ("", "def reset(self): return self.observed, {}", "unexpected keyword argument 'seed'"),
    ("", f"{RESET} return None", "cannot be reset: it returned one NoneType"),
    ("", f"{STEP} return self.observed, 1.0, False, {{}}", "cannot be stepped: it returned 4 values, as under old Gym's API"),
    ("", f"{STEP} raise SystemExit", "cannot be stepped: SystemExit"),
    # test_bad_values.py tests the valid values.
    (
        "",
        f"{STEP} return self.observed, None, False, False, {{}}",
        "returned reward=None, and a reward must be",
    ),
    ("", f"{STEP} return self.observed, 1.0, None, False, {{}}", "returned terminated=None"),
    (
        "",
        "observed = np.zeros(1, np.float32)",
        "returned observation of shape (1,), and its space has the shape (4,)",
    ),
    ("", "observed = np.array(['a', 'b', 'c', 'd'])", "must be an array of numbers"),
]


@pytest.mark.parametrize(("head", "body", "message"), REFUSED, ids=range(len(REFUSED)))
def test_an_environment_that_does_not_work_is_refused_in_one_line(users: Users, head: str, body: str, message: str):
    env = users.env(head, body)
    with pytest.raises(UsageError) as error:
        try_out(env)
    text = str(error.value)
    assert text.startswith(f"env.id={env.id}")
    assert message in text
    assert "\n" not in text


def test_the_line_names_the_place_in_the_users_code_and_the_remedy(users: Users):
    env = users.env(body="def __init__(self, size): self.size = 3 / size", kwargs={"size": 0})
    with pytest.raises(UsageError, match=r"ZeroDivisionError: division by zero \(.*own_\w+\.py:\d+\); .*env\.kwargs"):
        try_out(env)


@pytest.mark.parametrize(
    "body",
    [
        "observed = np.zeros(4)",  # float64, as numpy makes it
        "observed = [0, 0, 0, 0]",
        "observation_space = spaces.Box(0, 1, (3, 3, 2), np.uint8)\nobserved = np.zeros((3, 3, 2), int)",
        "observation_space = spaces.MultiBinary(3)\nobserved = np.array([0, 1, 1])",
        "observation_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, ())])\nobserved = (1, 0.5)",
        f"{STEP} return self.observed, np.array([1.0]), 0, np.bool_(True), {{}}",
        "def close(self): raise ValueError('closed before')",
    ],
)
def test_what_can_be_understood_is_taken(users: Users, body: str):
    try_out(users.env(body=body))


def test_what_it_raises_once_it_runs_does_not_end_the_run_for_good(users: Users):
    """An exit code of 2 would end it, but a restarted role may not get the error again."""
    envs = make_envs(users.env(body=f"{STEP} raise ConnectionError('the simulator is gone')"), 1, seed=1)
    envs.reset()
    with pytest.raises(RunError, match="cannot be stepped: ConnectionError: the simulator is gone"):
        envs.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("launched", [True, False])
def test_a_role_tries_its_environment_out_unless_its_launcher_has(users: Users, monkeypatch, launched: bool):
    env = users.env(body=f"{RESET} raise ConnectionError('not now')")
    if launched:
        monkeypatch.setenv(TURN_VARIABLE, "0")
        assert spec_for_role(env).frame_shape == (4,)
    else:
        with pytest.raises(UsageError, match="cannot be reset: ConnectionError: not now"):
            spec_for_role(env)


def test_arguments_reach_the_constructor(users: Users):
    body = "def __init__(self, size, env_id, what): self.observation_space = spaces.Box(0, 1, (size,))\n"
    body += f"{RESET} return np.zeros(self.observation_space.shape), {{}}\n"
    body += f"{STEP} return np.zeros(self.observation_space.shape), 0.0, False, False, {{}}"
    env = users.env(body=body, kwargs={"size": 7, "env_id": "x", "what": ["y"], "max_episode_steps": 3})
    assert try_out(env).frame_shape == (7,)
    with pytest.raises(UsageError, match="cannot be made: TypeError"):
        try_out(env.model_copy(update={"kwargs": {**env.kwargs, "id": "Other-v0"}}))


def test_a_game_is_atari_whichever_way_it_is_written():
    written, plain = (config.build({"env": {"id": name}}).env for name in ("ale_py:ALE/Pong-v5", "ALE/Pong-v5"))
    assert written.is_atari
    assert written.clips_rewards
    assert probe(written) == try_out(plain)


def test_the_process_that_tries_it_answers_with_the_spec_whatever_is_printed(users: Users):
    env = users.env("print('hello')", f"{RESET}\n    os.write(1, b'noise')\n    return self.observed, {{}}")
    assert probe(env) == EnvSpec(2, (4,), probe(env).frame_dtype, 1, "vector", False)


@pytest.mark.parametrize(
    ("head", "body", "message"),
    [
        ("", f"{STEP} os.kill(os.getpid(), 11)", "cannot be stepped: the process that tried it ended with signal SIGSEGV"),
        ("", f"{RESET} ctypes.string_at(0)", "cannot be reset: the process that tried it ended with signal SIGSEGV"),
        ("os._exit(0)", "", "cannot be made: it ends the process that it is in"),
        ("", "def __init__(self): os._exit(7)", "cannot be made: the process that tried it ended with exit code 7"),
        ("import no_such_package", "", "cannot be made: No module named 'no_such_package'"),
    ],
)
def test_a_crash_is_a_line_too(users: Users, head: str, body: str, message: str):
    refused(users.env(head, body), message)


@pytest.mark.parametrize(
    ("head", "body", "limit", "grace", "message"),
    [
        ("while True: pass", "", 1.0, 10.0, "cannot be made: that takes longer than 1 s"),
        ("", f"{STEP} time.sleep(1000)", 2.0, 10.0, r"cannot be \w+: that takes longer than 2 s"),
        # Native code that lets no other thread run is ended from outside.
        ("ctypes.PyDLL(None).sleep(1000)", "", 1.0, 0.0, "cannot be made: the process that tried it took longer than 1 s"),
    ],
)
def test_a_hang_is_a_line_too(users: Users, monkeypatch, head: str, body: str, limit: float, grace: float, message: str):
    monkeypatch.setattr(probes, "GRACE_SECONDS", grace)
    refused(users.env(head, body), message, limit)


def refused(env: Env, message: str, limit: float = 60.0) -> None:
    with pytest.raises(UsageError, match=rf"^env\.id={env.id} {message}") as error:
        probe(env, limit_seconds=limit)
    assert "\n" not in str(error.value)


def test_a_resumed_run_keeps_its_environment(users: Users, tmp_path: Path):
    spec = try_out(users.env())
    path = tmp_path / "run.yaml"
    path.write_text(config.dump(config.build({}), run_metadata("own-1", spec)), encoding="utf-8")
    check_same_environment(path, "Own-v0", spec)
    now = try_out(
        users.env(body="observation_space = spaces.Box(0, 1, (3,))\nobserved = np.zeros(3)\naction_space = spaces.Discrete(5)")
    )
    with pytest.raises(UsageError, match=r"Own-v0 has changed .*num_actions 2 is now 5, frame_shape \[4\] is now \[3\]"):
        check_same_environment(path, "Own-v0", now)
    path.write_text(config.dump(config.build({}), {"run_id": "older"}), encoding="utf-8")
    check_same_environment(path, "Own-v0", now)


CRASHES_AT_ITS_END = """
import logging
class Last(logging.Handler):
    def flush(self):
        os.abort()
logging.getLogger().addHandler(Last())
"""


def test_one_that_works_is_taken_though_its_process_ends_badly(users: Users) -> None:
    """A crash at the end of the process, or a slow end on a busy machine, says nothing about the environment."""
    assert probe(users.env(head=CRASHES_AT_ITS_END)).num_actions == 2
