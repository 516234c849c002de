"""The config tree: precedence, refusals and their messages, and that a saved config is read back unchanged."""

import itertools
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sbrl import config
from sbrl.config import Actors, Config, Replay, Run
from sbrl.config.presets import PRESETS
from sbrl.errors import UsageError
from sbrl.storage.metadata import run_id_of


def write(directory: Path, text: str) -> Path:
    path = directory / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        config.load(overrides=overrides)
    return str(caught.value)


def test_later_sources_win(tmp_path: Path):
    path = write(tmp_path, "learner: {batch_size: 16, publish_period: 7}\nrun: {seed: 3}\n")

    loaded = config.load(path, preset="dopamine-qr-dqn", overrides=["run.seed=4", "run.seed=5"])

    assert loaded.learner.batch_size == 16  # the file over the preset's 32
    assert loaded.learner.updates_per_step == 0.25  # the preset's, which the file's section does not wipe out
    assert loaded.learner.publish_period == 7
    assert loaded.run.seed == 5  # the last override over the first and the file


def test_loading_does_not_write_to_the_presets():
    before = json.dumps(PRESETS)
    config.load(preset="small-batch", overrides=["learner.batch_size=64"])
    assert json.dumps(PRESETS) == before


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("learner.learning_rate=1e-4", 1e-4),  # a string to YAML 1.1, which wants 1.0e-4
        ("learner.learning_rate=6.25E-5", 6.25e-5),
        ("run.env_steps=60e3", 60_000),
        ("env.id=CartPole-v1", "CartPole-v1"),
        ("env.clip_rewards=null", None),
        ("env.full_action_space=true", True),
        ("learner.compile=off", "off"),  # false to YAML 1.1
        ("learner.num_threads=auto", "auto"),
        ("learner.num_threads=2", 2),
    ],
)
def test_override_values_have_the_types_people_mean(override: str, value: object):
    section, key = override.partition("=")[0].split(".")
    assert getattr(getattr(config.load(overrides=[override]), section), key) == value


def test_arguments_of_an_environment_are_plain_values_that_merge_and_are_read_back(tmp_path: Path):
    path = write(tmp_path, "env: {id: CartPole-v1, kwargs: {size: 8, walls: {left: 1}}}")
    loaded = config.load(path, overrides=["env.kwargs.walls.right=[2.5, null]", "env.kwargs.name=yes"])
    assert loaded.env.kwargs == {"size": 8, "walls": {"left": 1, "right": [2.5, None]}, "name": True}
    assert config.load(write(tmp_path, config.dump(loaded))) == loaded


def test_a_file_reads_numbers_as_overrides_do(tmp_path: Path):
    assert config.load(write(tmp_path, "run: {env_steps: 60e3}")).run.env_steps == 60_000


@pytest.mark.parametrize("text", ["run.seed", "=1", "run.=1", ".seed=1", "run..seed=1", ""])
def test_malformed_override(text: str):
    assert repr(text) in refusal(text)
    assert "section.key=value" in refusal(text)


def test_override_that_is_no_yaml():
    assert "not valid YAML; quote it" in refusal("env.id=[")


@pytest.mark.parametrize(
    ("override", "unknown", "near"),
    [
        ("run.env_stps=1", "run.env_stps", "run.env_steps"),
        ("lerner.batch_size=1", "lerner", "learner"),
        ("batch_size=1", "batch_size", "learner.batch_size"),  # the right key without its section
        ("env.batch_size=1", "env.batch_size", "learner.batch_size"),  # the right key in the wrong section
        ("env.batch_sise=1", "env.batch_sise", "learner.batch_size"),  # neither
        ("learner.BatchSize=1", "learner.BatchSize", "learner.batch_size"),
        ("learner.target_update_perod=1", "learner.target_update_perod", "learner.target_update_period"),  # not .._rate
        ("replay.keep_checkpoint=1", "replay.keep_checkpoint", "replay.keep_checkpoints"),  # of run, too, but not as near
    ],
)
def test_unknown_key_names_the_nearest(override: str, unknown: str, near: str):
    assert refusal(override) == f"unknown key '{unknown}'; did you mean '{near}'?"


def test_an_unknown_key_names_several_only_where_they_are_equally_near():
    assert refusal("agent.keep_checkpoints=1").endswith("; did you mean 'run.keep_checkpoints' or 'replay.keep_checkpoints'?")


def test_an_unknown_key_that_is_like_none_names_none():
    assert refusal("learner.xyzzy=1") == "unknown key 'learner.xyzzy'; `sbrl config schema` lists them all"


@pytest.mark.parametrize(
    ("override", "rule", "consequence"),
    [
        ("learner.batch_size=0", "must be at least 1", "train nothing"),
        ("run.seed=2147483648", "must be below 2147483648 ", ""),
        ("env.max_episode_steps=10000001", "must be at most 10000000 ", ""),
        ("learner.updates_per_step=0.01", "must be at least 0.015625 ", ""),
        ("agent.torso=natrue-cnn", "did you mean 'nature-cnn'", ""),
        ("learner.batch_size=5000", "must be at most 4096", "few"),
        ("learner.batch_size=many", "must be a whole number", "Transitions per gradient update"),
        ("actors.num_actors=2.5", "must be a whole number", "Actor processes"),
        ("learner.batch_size=true", "must be a whole number", "Transitions per gradient update"),  # not 1
        ("actors.num_actors=false", "must be a whole number", "Actor processes"),
        ("agent.discount_initial=true", "must be a number", "after each reset"),
        ("agent.discount=1", "must be below 1", "grow without bound"),
        ("learner.learning_rate=0", "must be above 0", "nothing is learned"),
        ("learner.learning_rate=.nan", "must be a finite number", "nothing is learned"),
        ("learner.adam_beta2=1", "must be below 1", "would never forget"),
        ("learner.updates_per_step=inf", "must be a finite number", "wait for the other"),
        ("learner.diagnostics_period=0", "must be at least 1", "a short period slows training"),
        ("learner.device=gpu", "must match", "cpu, cuda or cuda:N"),
        ("agent.algorithm=qrdqn", "did you mean 'qr-dqn'", "algorithms: dqn, m-dqn, c51"),
        ("env.reward_noise=-1", "must be at least 0", "noise on the learner"),
        ("env.frame_size=20", "must be at least 36", "least the Nature CNN can take"),
        ("env.id=''", "must not be empty", "Gymnasium id"),
        ("env.id=:Own-v0", "must be an environment's name", "package.module:Name-v0"),
        ("env.id=.own:Own-v0", "must be an environment's name", "package.module:Name-v0"),
        ("env.id='own:'", "must be an environment's name", "package.module:Name-v0"),
        ("env.kwargs=5", "must be a mapping", "gymnasium.make"),
        ("env.kwargs.when=2020-01-01", "must be plain", "gymnasium.make"),
        ("env.kwargs.size=[.inf]", "must be a finite number", "gymnasium.make"),
        ("env.kwargs={1: 2}", "must be text", "gymnasium.make"),
        ("network.replay_addresses=[here]", "must match", "host:port"),
        ("run=5", "must be a section", ""),
    ],
)
def test_a_bad_value_names_field_rule_and_consequence(override: str, rule: str, consequence: str):
    message = refusal(override)
    assert override.partition("=")[0] in message
    assert rule in message
    assert consequence in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "fields", "consequence"),
    [
        (["env.kwargs.size=4"], ["env.kwargs", "env.id"], "not made by gymnasium.make"),
        (["replay.capacity=10"], ["replay.capacity", "replay.min_size"], "would wait for ever"),
        (["replay.min_size=1"], ["replay.min_size", "replay.num_shards"], "before every shard has a transition"),
        (["run.env_steps=500", "replay.min_size=500"], ["run.env_steps", "replay.min_size"], "end before its first update"),
        (["agent.n_step=5", "agent.n_max=3"], ["agent.n_max", "agent.n_step"], "too short for the target"),
        (
            ["replay.ahead=3.9", "learner.updates_per_step=0.25"],
            ["replay.ahead is 3.9", "below 4 (1 / learner.updates_per_step)"],
            "wait for ever",
        ),
        (["replay.ahead=0.01", "learner.updates_per_step=64"], ["replay.ahead is 0.01", "below 0.015625"], "wait for ever"),
        (["learner.precision=tf32"], ["learner.precision", "learner.device"], "only CUDA has it"),
        (["network.replay_addresses=['a:1']"], ["network.replay_addresses", "replay.num_shards"], "missing or idle"),
        (["network.replay_addresses=['a:1','a:1']"], ["network.replay_addresses"], "share one server"),
    ],
)
def test_fields_that_contradict_each_other(overrides: list[str], fields: list[str], consequence: str):
    message = refusal(*overrides)
    assert all(field in message for field in fields)
    assert consequence in message


def test_every_mistake_is_named_at_once():
    message = refusal("run.seed=-1", "env.idd=Pong", "learner.batch_size=0")
    assert len(message.splitlines()) == 3


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UsageError, match="unknown preset 'small_batch'; did you mean 'small-batch'"):
        config.load(preset="small_batch")


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just words", "5"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str):
    with pytest.raises(UsageError, match="must be a mapping of sections"):
        config.load(write(tmp_path, text))


DEEP = "[" * 20_000


def test_what_is_nested_deeper_than_the_stack_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="is not valid YAML: it is nested too deeply"):
        config.load(write(tmp_path, f"run: {DEEP}"))
    with pytest.raises(UsageError, match="the value is not valid YAML"):
        config.load(overrides=[f"run.seed={DEEP}"])


@pytest.mark.parametrize(
    "value",
    [
        *("2024-02-30", "0x_", "9" * 5000, "2001-01-01T00:00:00+99:99", "!!int ''", "!!bool maybe", "!!float x"),
        *("!!timestamp soon", "!!binary é", "{[1]: 2}", "!!python/object:os.system {}"),
    ],
)
def test_a_value_that_is_not_what_it_looks_like_is_refused(tmp_path: Path, value: str):
    with pytest.raises(UsageError, match="not valid YAML"):
        config.load(overrides=[f"run.seed={value}"])
    path = write(tmp_path, f"run: {{seed: {value}}}")
    with pytest.raises(UsageError, match="not valid YAML"):
        config.load(path)
    assert run_id_of(path) == tmp_path.name, "who only wants the run's name goes on without"


def test_a_key_of_a_thousand_parts_is_refused():
    assert "section.key=value" in refusal("a." * 2000 + "b=1")


# A kilobyte of them is a tree of a billion leaves, and a tree that holds itself has no end.
TENFOLD = "".join(f"  {name}: &{name} [{', '.join([f'*{inner}'] * 10)}]\n" for inner, name in itertools.pairwise("abcdefghij"))


@pytest.mark.parametrize(
    "text",
    [f"run:\n  a: &a 1\n{TENFOLD}", "run: &run\n  seed: *run\n", "run: &run\nenv:\n  <<: *run\n"],
    ids=["large", "endless", "merge"],
)
def test_aliases_are_refused(tmp_path: Path, text: str):
    with pytest.raises(UsageError, match=r"aliases .*\*(a|run).* write the value out.*line [23]"):
        config.load(write(tmp_path, text))


def test_a_file_that_is_no_yaml_is_one_line(tmp_path: Path):
    with pytest.raises(UsageError, match="is not valid YAML") as caught:
        config.load(write(tmp_path, "run: {seed: 1\nenv: ["))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot read config .*none\.yaml: No such file"):
        config.load(tmp_path / "none.yaml")


def test_a_file_of_another_schema(tmp_path: Path):
    # Regardless of its other content: a complaint about an unknown key would be wrong.
    with pytest.raises(UsageError, match=r"config schema 99; this version of sbrl reads schema 2.*new run directory"):
        config.load(write(tmp_path, "schema_version: 99\nfuture: {key: 1}"))
    with pytest.raises(UsageError, match=r"^\S+ was written with config schema 1; this .* new run directory, or use [^\n]*$"):
        config.load(write(tmp_path, "schema_version: 1\nreplay: {error_buffer: 3.0}"))


@given(
    env_steps=st.integers(100, 10**9),
    learning_rate=st.floats(1e-12, 1.0),
    batch_size=st.integers(1, 4096),
    env_id=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters=":"), min_size=1),
    num_actors=st.none() | st.integers(1, 1024),
    clip_rewards=st.none() | st.booleans(),
)
def test_a_dumped_config_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    env_steps: int,
    learning_rate: float,
    batch_size: int,
    env_id: str,
    num_actors: int | None,
    clip_rewards: bool | None,
):
    saved = config.build(
        {
            "run": {"env_steps": env_steps},
            "learner": {"learning_rate": learning_rate, "batch_size": batch_size},
            "env": {"id": env_id, "clip_rewards": clip_rewards},
            "actors": {"num_actors": num_actors},
            "network": {"replay_addresses": ["a:1", "b:2"]},
        }
    )
    path = write(tmp_path_factory.getbasetemp(), config.dump(saved, metadata={"git_commit": "abc"}))
    assert config.load(path) == saved


def test_the_config_of_a_serial_run_is_read_back(tmp_path: Path):
    serial = config.serial_config(config.load(overrides=["network.replay_addresses=['a:1','b:2']", "learner.device=cuda"]))
    assert config.load(write(tmp_path, config.dump(serial))) == serial
    with pytest.raises(UsageError, match=r"learner\.precision .* only CUDA has it"):
        config.serial_config(config.load(overrides=["learner.device=cuda", "learner.precision=tf32"]))


def test_metadata_comes_first():
    assert next(iter(yaml.safe_load(config.dump(config.load(), {"git_commit": "abc"})))) == "metadata"


def test_what_is_unset_is_scaled_to_the_run():
    short, long = config.load(overrides=["run.env_steps=1000"]), config.load(overrides=["run.env_steps=50_000_000"])
    assert (short.replay.min_size, short.agent.epsilon_decay_steps) == (100, 200)
    assert (long.replay.min_size, long.agent.epsilon_decay_steps) == (20_000, 250_000)
    assert config.load(overrides=["run.env_steps=10"]).replay.min_size == 2  # one for each shard


def test_a_tree_of_sections_is_filled_in_like_one_of_mappings():
    sections = Config(run=Run(env_steps=1000), replay=Replay(num_shards=3))
    assert sections == config.build({"run": {"env_steps": 1000}, "replay": {"num_shards": 3}})
    assert sections.min_replay_size == 100


def test_what_is_set_is_kept():
    loaded = config.load(overrides=["run.env_steps=1000", "replay.min_size=50", "agent.epsilon_decay_steps=0"])
    assert (loaded.replay.min_size, loaded.agent.epsilon_decay_steps) == (50, 0)


def test_a_section_alone_is_not_changed_by_the_tree_it_joins():
    replay = Replay()
    Config(run=Run(env_steps=1000), replay=replay)
    assert replay.min_size is None


def test_the_tree_is_frozen():
    loaded = config.load()
    with pytest.raises(ValidationError, match="frozen"):
        loaded.run.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        loaded.actors = Actors()  # type: ignore[misc]


def test_stored_steps():
    loaded = config.load(overrides=["agent.n_max=10"])
    assert loaded.agent.stored_steps == 10
    assert config.load().agent.stored_steps == 3


def test_the_schema_describes_every_key():
    schema = json.loads(config.json_schema())
    anything = schema["$defs"].pop("JsonValue")  # of env.kwargs
    assert anything == {}
    described = [("", schema), *schema["$defs"].items()]
    missing = [
        f"{name}.{key}"
        for name, model in described
        for key, leaf in model["properties"].items()
        if "$ref" not in leaf and not leaf.get("description")
    ]
    assert missing == []
    assert all(model["additionalProperties"] is False and model["description"] for _, model in described)


def test_a_message_shows_no_more_of_a_long_value_than_helps():
    assert len(refusal(f"env.kwargs.a={'[' * 300}{']' * 300}")) < 1000
    for override in (f"run.seed={'x' * 10_000}", "y" * 10_000, f"run.{'z' * 10_000}=1"):
        with pytest.raises(UsageError) as caught:
            config.load(overrides=[override])
        assert len(str(caught.value)) < 1000
        assert "characters)" in str(caught.value)
