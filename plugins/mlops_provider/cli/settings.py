"""``mlops settings apply``: put into Airflow what ``airflow_settings.yaml`` declares."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_provider.cli import settings_file
from mlops_provider.cli.home import Home, Secrets, Stack

if TYPE_CHECKING:
    from mlops_provider.cli.airflow_database import Change


def main(arguments: argparse.Namespace) -> int:
    """Apply the file to the Airflow of this environment, else to that of the local stack."""
    use_stack_airflow()
    changes = apply(Path(arguments.file), dry_run=arguments.dry_run)
    verb = "would be " if arguments.dry_run else ""
    for change in changes:
        print(f"{change.kind:<10} {change.name:<24} {'' if change.action == 'unchanged' else verb}{change.action}")
    return 0


def apply(file: Path, *, dry_run: bool) -> list[Change]:
    """
    Read the file and put it into Airflow's database.

    :param dry_run: Only find out what would change.
    """
    declared = settings_file.load(file)
    with redirect_stdout(sys.stderr):  # Airflow logs to standard output, which is for the result
        from mlops_provider.cli import airflow_database

        return airflow_database.apply(declared, dry_run=dry_run)


def use_stack_airflow() -> None:
    """Point Airflow at the stack of this project, unless one is loaded (``airflow mlops``) or named already."""
    if "airflow.settings" in sys.modules:
        return
    home = Home.here()
    stack = Stack.read(home)
    if stack and not {"AIRFLOW_HOME", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"} & os.environ.keys():
        from mlops_provider.cli.cluster import environment_of
        from mlops_provider.cli.stack import airflow_environment

        if stack.settings:
            os.environ.update(environment_of(home, "api-server"))
            return
        os.environ.update(airflow_environment(home, stack.ports, Secrets.of(home), fault=stack.fault))
