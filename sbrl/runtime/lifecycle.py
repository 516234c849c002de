"""How every role program starts and stops: SIGTERM drains it; it always serves health and metrics."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server

from sbrl.config import Config, load
from sbrl.errors import START_AGAIN as START_AGAIN
from sbrl.errors import FinalError, RunError, UsageError
from sbrl.rpc import channels
from sbrl.rpc.health import HealthServer
from sbrl.runtime.arguments import Parser, port
from sbrl.runtime.output import outlive_output
from sbrl.runtime.parent_death import Turn
from sbrl.runtime.stop_signals import catch_stop_signals
from sbrl.storage.metadata import run_id_of
from sbrl.telemetry.logs import Context, configure_logging, report_failure

GIVE_UP = 65  # exit code of a role that a restart would not help (EX_DATAERR)

_log = logging.getLogger(__name__)


def role_arguments(role: str, description: str) -> argparse.ArgumentParser:
    """The arguments that every role program takes."""
    parser = Parser(prog=f"sbrl {role}", description=description)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the run's config, as YAML")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where the run's state lives (default: the config's folder)"
    )
    parser.add_argument("--name", default=role, help="this process's name, unique in its role (default: %(default)s)")
    parser.add_argument("--health-port", type=port, metavar="PORT", help="in place of network.health_port; 0 takes a free one")
    parser.add_argument(
        "--metrics-port", type=port, metavar="PORT", help="in place of network.metrics_port; 0 takes a free one"
    )
    parser.add_argument(
        "--stay",
        action="store_true",
        help="once there is nothing more to do, stay until told to stop: Kubernetes would start an ended pod again and again",
    )
    parser.set_defaults(role=role)
    return parser


def load_role(
    parser: argparse.ArgumentParser, argv: Sequence[str], *, needs_coordinator: bool = True, needs_shards: bool = True
) -> tuple[argparse.Namespace, Config]:
    """Parses a role's command line and reads the config that it names.

    Args:
        needs_coordinator, needs_shards: whether the role connects to them, so that the config must have their addresses.

    Raises:
        UsageError: a bad config, or one without the addresses that the role needs.
    """
    arguments = parser.parse_args(argv)
    config = load(arguments.config)
    arguments.run_dir = arguments.run_dir or arguments.config.resolve().parent
    arguments.run_id = run_id_of(arguments.config)
    network = config.network
    if needs_coordinator and network.coordinator_address.endswith(":0"):
        raise UsageError(
            f"network.coordinator_address={network.coordinator_address} has no port, so {parser.prog} cannot find the "
            f"coordinator: set host:port, or start all roles with `sbrl train`, which chooses ports and writes them to run.yaml"
        )
    if needs_shards and len(network.replay_addresses) != config.replay.num_shards:
        raise UsageError(
            f"network.replay_addresses names {len(network.replay_addresses)} of {config.replay.num_shards} shards: give "
            f"host:port for each, or start all roles with `sbrl train`, which chooses ports and writes them to its run.yaml"
        )
    return arguments, config


class RoleRuntime:
    """The surroundings of a role's work: logging, signals, the health service and the Prometheus endpoint.

    Enter this context manager on the main thread, once per process. SIGTERM, SIGINT or SIGHUP (unless ignored at the start)
    sets `stop` and turns health to NOT_SERVING. Further signals change nothing, so that none breaks the drain; the handlers
    stay after the exit for the same reason. A thread that ends with an exception also sets `stop`, and the exit code is 1:
    without that thread the role would only look alive, so it drains and is started again.
    """

    def __init__(
        self,
        context: Context,
        config: Config,
        registry: CollectorRegistry,
        *,
        health_port: int,
        metrics_port: int,
        stay: bool = False,
    ) -> None:
        """
        Args:
            context: the part of every log line that identifies the process.
            health_port, metrics_port: 0 takes a free one.
            stay: leaving the context without an error first waits for a signal, still healthy.
        """
        self.stop = threading.Event()
        self.health_address = ""  # host:port, known once entered
        self.metrics_address = ""
        self._context = context
        self._host = config.network.bind_host
        self._log_level = config.run.log_level
        self._registry = registry
        self._ports = (health_port, metrics_port)
        self._stay = stay
        self._health = HealthServer()
        self._turn = Turn.from_environment()
        self._thread_failed = False

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace, config: Config, registry: CollectorRegistry) -> Self:
        """The runtime for the arguments of `role_arguments` and the config."""
        network = config.network
        return cls(
            Context(arguments.role, arguments.name, arguments.run_id),
            config,
            registry,
            health_port=network.health_port if arguments.health_port is None else arguments.health_port,
            metrics_port=network.metrics_port if arguments.metrics_port is None else arguments.metrics_port,
            stay=arguments.stay,
        )

    def __enter__(self) -> Self:
        """Starts everything.

        Raises:
            RunError: a port is taken.
        """
        outlive_output()
        configure_logging(self._context, self._log_level)
        self._previous_hook, threading.excepthook = threading.excepthook, self._end_after_failed_thread
        catch_stop_signals(self._signalled)
        health_port, metrics_port = self._ports
        self.health_address = channels.reachable_address(self._host, self._health.start(self._host, health_port))
        try:
            self._metrics_server, self._metrics_thread = start_http_server(metrics_port, self._host, self._registry)
        except OSError as error:
            self._health.stop()
            raise RunError(f"cannot listen on {self._host}:{metrics_port} for metrics: {error.strerror}") from None
        self.metrics_address = channels.reachable_address(self._host, self._metrics_server.server_port)
        _log.info("health on %s, metrics on http://%s/metrics", self.health_address, self.metrics_address)
        return self

    def serving(self) -> None:
        """Turns health to SERVING: the role does its work now. No effect once it has to stop."""
        self._health.set_serving()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """
        Raises:
            SystemExit: with GIVE_UP instead of a FinalError, which is reported; with 1 after a failed thread.
        """
        if error is None and self._stay and not self.stop.is_set():
            _log.info("nothing more to do: staying until told to stop")
            self.stop.wait()
        threading.excepthook = self._previous_hook
        self._health.drain()
        self._metrics_server.shutdown()
        self._metrics_server.server_close()
        self._metrics_thread.join()
        self._health.stop()
        if isinstance(error, SystemExit) and error.code == START_AGAIN:
            _log.info("stopped, to be started again")
        else:
            _log.info("stopped" if error is None else "stopped by an error")
        if isinstance(error, FinalError):
            report_failure(error)
            raise SystemExit(GIVE_UP) from None
        if error is None and self._thread_failed:
            raise SystemExit(1)

    def _end_after_failed_thread(self, failed: threading.ExceptHookArgs) -> None:
        name = failed.thread.name if failed.thread is not None else "unknown"
        _log.error("thread %s failed: draining", name, exc_info=failed.exc_value)
        self._thread_failed = True
        self._health.drain()
        self.stop.set()

    def _signalled(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            _log.info("received %s again: still draining", number.name)
            return
        _log.info("received %s: draining", number.name)
        self._turn.wait()
        self._health.drain()  # first, so that no client is sent here while the role stops
        self.stop.set()
