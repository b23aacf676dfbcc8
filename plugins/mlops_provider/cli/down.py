"""``mlops down``: stop exactly what ``mlops up`` started."""

from __future__ import annotations

import argparse
import time

from mlops_provider.cli import cluster_folder
from mlops_provider.cli.home import Home, Stack
from mlops_provider.cli.processes import members, recorded
from mlops_provider.cli.stack import stop_stack
from mlops_provider.cli.up import locked, say
from mlops_provider.exceptions import StoreUnavailableError


def main(arguments: argparse.Namespace) -> int:
    """Stop the stack of this project; its data, models and ledger stay."""
    home = Home.here()
    if not home.run.is_dir():
        print("Nothing is up here.")
        return 0
    with locked(home):
        began = time.monotonic()
        known, stack = recorded(home.run), Stack.read(home)
        stopped = stop_stack(known, home, progress=say)
        if left := [name for name, processes in members(known).items() if processes]:
            raise StoreUnavailableError(
                f"Could not stop {', '.join(left)}: see `ps -s` with the numbers in {home.run}."
            )
        Stack.forget(home)
        cluster_folder.leave(home)
    if stopped:
        places = f"{home.root} and {cluster_folder.folder(home)}" if cluster_folder.is_outside(home) else home.root
        stays = f"Data and logs stay in {places}."
        if stack and stack.store == "s3":
            stays = "Tables, artifacts and task logs were in the memory of its S3 and are gone."
        print(f"Stopped {', '.join(stopped)} in {time.monotonic() - began:.0f} s. {stays}")
    else:
        print("Nothing is up here.")
    return 0
