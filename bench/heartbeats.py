"""The coordinator's cost of a large fleet's heartbeats: each actor sends one per second to the real program.

Prints the coordinator's CPU time as a fraction of one core, and the duration of a heartbeat. The limit is Python's gRPC server,
about 0.3 ms per call. The cost of a heartbeat itself must not grow with the fleet.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry

from sbrl import config as configs
from sbrl.coordination.fleet import FleetClient
from sbrl.rpc import channels
from sbrl.rpc.ports import free_ports
from sbrl.telemetry.metrics import ActorMetrics
from sbrl.v1 import fleet_pb2, fleet_pb2_grpc

CALLERS = 16  # threads of this program
WARM_SECONDS = 5.0
START_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[64, 256, 1024], metavar="N", help="sizes of the fleet")
    parser.add_argument("--seconds", type=float, default=20.0, help="to measure for (default: %(default)g)")
    arguments = parser.parse_args()
    print("actors | heartbeats/s | coordinator, cores | microseconds a heartbeat | median answer, ms")
    for actors in arguments.actors:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(actors, arguments.seconds, Path(folder)), flush=True)


def measure(actors: int, seconds: float, folder: Path) -> str:
    """The table's line for one fleet."""
    (port,) = free_ports("127.0.0.1", 1)
    address = f"127.0.0.1:{port}"
    overrides = ["run.env_steps=1000000000", f"network.coordinator_address={address}"]
    (folder / "run.yaml").write_text(configs.dump(configs.load(None, None, overrides)), encoding="utf-8")
    command = ["-m", "services.coordinator", "--config", str(folder / "run.yaml"), "--run-dir", str(folder)]
    with subprocess.Popen([sys.executable, "-P", *command], stderr=subprocess.DEVNULL) as process:
        try:
            client = FleetClient(address)
            client.status(START_SECONDS, wait=True)
            client.close()
            return _heartbeat(address, psutil.Process(process.pid), actors, seconds)
        finally:
            process.terminate()


def _heartbeat(address: str, coordinator: psutil.Process, actors: int, seconds: float) -> str:
    metrics = ActorMetrics(CollectorRegistry())
    counters, gauges = metrics.counters(), metrics.gauges()
    times: list[float] = []
    stop = threading.Event()

    def call(first: int) -> None:
        """Sends heartbeats for every CALLERS-th actor from `first` on, one per second each."""
        channel = channels.open_channel(address)
        stub = fleet_pb2_grpc.FleetStub(channel)
        mine = [stub.Join(fleet_pb2.JoinRequest(role="actor", name=f"actor-{k}")) for k in range(first, actors, CALLERS)]
        step, due = 0, time.monotonic()
        while not stop.is_set():
            for lease in mine:
                stop.wait(max(0.0, due - time.monotonic()))
                due += 1 / len(mine)
                request = fleet_pb2.HeartbeatRequest(
                    incarnation=lease.incarnation, counters={**counters, "env_steps": float(step)}, gauges=gauges
                )
                start = time.perf_counter()
                stub.Heartbeat(request, timeout=30)
                times.append(time.perf_counter() - start)
            step += 8
        channel.close()

    threads = [threading.Thread(target=call, args=(first,)) for first in range(min(CALLERS, actors))]
    for thread in threads:
        thread.start()
    time.sleep(WARM_SECONDS)
    before, start, count = sum(coordinator.cpu_times()[:2]), time.monotonic(), len(times)
    time.sleep(seconds)
    used, elapsed, heartbeats = sum(coordinator.cpu_times()[:2]) - before, time.monotonic() - start, len(times) - count
    median = statistics.median(times[count:])
    stop.set()
    for thread in threads:
        thread.join()
    return f"{actors} | {heartbeats / elapsed:.0f} | {used / elapsed:.2f} | {1e6 * used / heartbeats:.0f} | {1e3 * median:.1f}"


if __name__ == "__main__":
    main()
