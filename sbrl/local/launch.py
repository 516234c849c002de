"""`sbrl train`: all decisions and checks that are possible before a run's roles start on this machine."""

from __future__ import annotations

import os

from sbrl import config as configs
from sbrl.config import Config
from sbrl.envs.spec import EnvSpec
from sbrl.errors import RunError, UsageError
from sbrl.local.device_check import check_device
from sbrl.local.guard import Guard
from sbrl.local.prometheus import LocalPrometheus, NoPrometheus
from sbrl.local.run import LocalRun
from sbrl.local.supervisor import RoleCommand
from sbrl.monitor.summary import falls_short, missing_samples, run_so_far
from sbrl.monitor.view import View, make_view
from sbrl.networks.checks import check_network
from sbrl.replay.sampling import choose_sampling, memory_bytes
from sbrl.replay.segments import SegmentShape
from sbrl.rpc.ports import check_host, check_port_free, free_ports, host_port, split_address
from sbrl.runtime.env_probe import probe
from sbrl.runtime.memory import process_memory
from sbrl.runtime.stop_signals import StopRequest, catch_stop_signals
from sbrl.storage.atomic import replace_text
from sbrl.storage.metadata import check_same_environment, new_run_id, run_id_of, run_metadata
from sbrl.storage.run_directory import RunDirectory, any_checkpoint
from sbrl.telemetry.weights_and_biases import check_wandb

CORES_PER_ACTOR = 2
# Messages for the first request to stop, the second, and any more.
STOPPING = (
    "stopping: actors drain, the learner and the shards save; again after a second: in a hurry",
    "stopping in a hurry: what has not ended in a moment is killed; again: at once",
    "killing what is left",
)


def train(config: Config, run_directory: RunDirectory, resume: bool, with_prometheus: bool = False) -> bool:
    """Runs a whole run, or the rest of one, and leaves its results in the run directory.

    Returns whether the run is complete. False: it was interrupted and can be resumed.

    Args:
        with_prometheus: configure a Prometheus for the run, and start it if it is installed.

    Raises:
        UsageError, RunError: bad input, or a role that cannot be kept alive. No existing data is overwritten.
    """
    # First, all checks that are possible before anything is created.
    check_wandb(config.run)
    check_device(config.learner.device)
    spec = probe(config.env)
    check_network(config, spec)
    check_memory(config, spec)
    if resume:
        check_same_environment(run_directory.config, config.env.id, spec)
        check_incomplete(config, run_directory)
        check_trainable(config, run_directory)
    else:
        run_directory.check_new()
        config = place(config)
    with run_directory.lock() as lock:
        if resume:
            config = place(config)  # only now: roles of an earlier session held ports until the lock was free
        run_id = run_id_of(run_directory.config) if resume else new_run_id(config.env.id)
        replace_text(run_directory.config, configs.dump(config, run_metadata(run_id, spec)))
        stop = StopRequest()
        with make_view(config, f"{config.env.id} in {run_directory.path}") as view:
            catch_stop_signals(lambda number: view.message(f"{number.name}: {STOPPING[min(stop.ask(), len(STOPPING)) - 1]}"))
            guard = Guard(run_directory.log("guard"))
            prometheus = make_prometheus(run_directory, view, guard) if with_prometheus else NoPrometheus()
            commands = role_commands(config, run_directory)
            return LocalRun(config, run_directory, stop, view, lock, prometheus, commands, guard).run()


def check_memory(config: Config, spec: EnvSpec) -> None:
    """
    Raises:
        UsageError: replay.sampling=cached, and the replay does not fit in memory. For a GPU's memory the learner checks this.
    """
    if config.learner.device == "cpu":
        shape = SegmentShape.of(spec, config.agent.stored_steps)
        choose_sampling(config, memory_bytes(shape, config.replay.capacity), *process_memory())


def make_prometheus(run_directory: RunDirectory, view: View, guard: Guard) -> LocalPrometheus:
    """The run's Prometheus. Its name for the run is the folder's name."""
    return LocalPrometheus(run_directory.prometheus, run_directory.path.resolve().name, view.message, guard.watch)


def place(config: Config) -> Config:
    """The config with this machine's values for everything left open: loopback ports and the number of actors.

    Raises:
        UsageError: a fixed port for the health or metrics of all processes, or an address that this machine does not have.
        RunError: a requested port is taken.
    """
    network, host = config.network, config.network.bind_host
    for name in ("health_port", "metrics_port"):
        if getattr(network, name):
            raise UsageError(
                f"network.{name}={getattr(network, name)} would be every process's in a run on one machine: leave it 0, and "
                f"each takes a free one, which its log names"
            )
    check_host(host)
    chosen = free_ports(host, 1 + config.replay.num_shards)
    coordinator = network.coordinator_address
    if coordinator.endswith(":0"):
        coordinator = host_port(host, chosen[0])
    shards = network.replay_addresses or tuple(host_port(host, port) for port in chosen[1:])
    for address in (coordinator, *shards):
        check_port_free(*split_address(address))
    num_actors = config.actors.num_actors or max(1, len(os.sched_getaffinity(0)) // CORES_PER_ACTOR)
    tree = config.model_dump(mode="json")
    tree["network"].update(coordinator_address=coordinator, replay_addresses=list(shards))
    tree["actors"]["num_actors"] = num_actors
    return configs.build(tree)


def check_incomplete(config: Config, run_directory: RunDirectory) -> None:
    """
    Raises:
        UsageError: the run in the directory is complete and has collected all steps of the config.
    """
    summary = run_so_far(run_directory.summary)
    if summary.complete and summary.env_steps >= config.run.env_steps:
        raise UsageError(
            f"the run in {run_directory.path} is complete with {summary.env_steps} env steps: "
            f"to go on, ask for more than these with run.env_steps=N"
        )


def check_trainable(config: Config, run_directory: RunDirectory) -> None:
    """
    Raises:
        RunError: everything is collected and samples are due, but no shard is left that could provide them.
    """
    summary = run_so_far(run_directory.summary)
    trained = summary.samples_trained if any_checkpoint(run_directory.learner_checkpoints) else 0.0
    shards = map(run_directory.replay_checkpoints, range(config.replay.num_shards))
    if (
        summary.env_steps >= config.run.env_steps
        and falls_short(summary.samples_due, trained, config.learner.batch_size)
        and not any(map(any_checkpoint, shards))
    ):
        raise RunError(f"the run in {run_directory.path} cannot go on: {missing_samples(summary.samples_due, trained)}")


def load_for_resume(run_directory: RunDirectory, overrides: list[str]) -> Config:
    """The config of an earlier run, with `overrides` on top. Its ports are to be chosen again.

    Raises:
        UsageError: no run, a config of another schema, a bad override, or an override of a setting that is fixed for a run.
    """
    run_directory.check_resumable()
    tree = configs.read_yaml(run_directory.config)
    network = configs.build(tree).network.model_dump(mode="json")
    tree["network"] = {**network, "coordinator_address": "127.0.0.1:0", "replay_addresses": []}
    config = configs.build(tree, *(configs.parse_override(text) for text in overrides))
    check_resumable_with(configs.build(tree), config)
    return config


def check_resumable_with(before: Config, after: Config) -> None:
    """
    Raises:
        UsageError: the run's network, its stored transitions or its shards depend on a setting that was changed.
    """
    derived = {"agent": ("stored_steps", "predicts_itself")}  # the keys behind these may change
    for section, part in before.sections.items():
        for name in (*part.fixed_keys(), *derived.get(section, ())):
            was, now = getattr(part, name), getattr(after.sections[section], name)
            if was != now:
                raise UsageError(
                    f"{section}.{name} was {was!r} and cannot become {now!r} in a run that is resumed: its network, its stored "
                    f"transitions or its shards were made with it; start a new run for another value"
                )


def role_commands(config: Config, run_directory: RunDirectory) -> list[RoleCommand]:
    """The commands of all role processes of a local run."""
    common = ["--config", str(run_directory.config), "--run-dir", str(run_directory.path)]

    def command(name: str, module: str, *extra: str) -> RoleCommand:
        return RoleCommand(name, module, [*common, "--name", name, *extra], run_directory.log(name))

    return [
        command("coordinator", "services.coordinator"),
        *(command(f"replay-{k}", "services.replay", "--shard", str(k)) for k in range(config.replay.num_shards)),
        command("learner", "learner"),
        *(command(f"actor-{k}", "actors") for k in range(config.actors.num_actors or 1)),
        command("evaluator", "services.evaluator"),
    ]
