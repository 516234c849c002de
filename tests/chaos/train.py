r"""`sbrl train` with proxies between roles: SBRL_CHAOS_LINKS has the addresses that each role uses.

    SBRL_CHAOS_LINKS='{"actor-0": {"coordinator": "127.0.0.1:9000", "replay-0": "127.0.0.1:9001"}}' \
        python -m tests.chaos.train train ...

The launcher itself reaches the coordinator directly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from sbrl import config as configs
from sbrl.cli import __main__ as cli
from sbrl.config import Config
from sbrl.local import launch
from sbrl.local.supervisor import RoleCommand
from sbrl.runtime.program import run_program
from sbrl.storage.run_directory import RunDirectory

LINKS = "SBRL_CHAOS_LINKS"
Links = Mapping[str, Mapping[str, str]]  # role's name -> server's name -> host:port


def with_links(commands: list[RoleCommand], settings: Config, directory: RunDirectory, links: Links) -> list[RoleCommand]:
    """The same commands. Each role with links gets its own config beside run.yaml."""
    changed = []
    for command in commands:
        ways = links.get(command.name, {})
        tree = settings.model_dump(mode="json")
        network = tree["network"]
        network["coordinator_address"] = ways.get("coordinator", network["coordinator_address"])
        network["replay_addresses"] = [
            ways.get(f"replay-{shard}", address) for shard, address in enumerate(network["replay_addresses"])
        ]
        path = directory.path / f"{command.name}.yaml"
        path.write_text(configs.dump(configs.build(tree)), encoding="utf-8")
        arguments = [str(path) if word == str(directory.config) else word for word in command.arguments]
        changed.append(command._replace(arguments=arguments))
    return changed


if __name__ == "__main__":
    as_ever = launch.role_commands
    named: Links = json.loads(os.environ[LINKS])

    def role_commands(config: Config, run_directory: RunDirectory) -> list[RoleCommand]:
        return with_links(as_ever(config, run_directory), config, run_directory, named)

    launch.role_commands = role_commands
    run_program(cli.run)
