"""The same commands as ``airflow mlops …``; Airflow imports this module at every start, so it stays light."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand

from mlops_provider.cli.commands import COMMANDS, Command, Group


def get_commands() -> list[CLICommand]:
    """Give Airflow one group, ``mlops``."""
    entries = tuple(_group(entry) if isinstance(entry, Group) else _action(entry, entry.name) for entry in COMMANDS)
    return [GroupCommand(name="mlops", help="Train, gate, deploy and watch models", subcommands=entries)]


def _group(group: Group) -> GroupCommand:
    members = tuple(_action(command, f"{group.name} {command.name}") for command in group.commands)
    return GroupCommand(name=group.name, help=group.help, subcommands=members)


def _action(command: Command, words: str) -> ActionCommand:
    arguments = tuple(Arg(argument.flags, **argument.options) for argument in command.arguments)
    return ActionCommand(name=command.name, help=command.help, func=_entry(command, words), args=arguments)


def _entry(command: Command, words: str) -> Callable[[argparse.Namespace], None]:
    def entry(arguments: argparse.Namespace) -> None:
        from mlops_provider.cli.main import run

        # Airflow ignores what a command returns, so the exit code has to be raised.
        if code := run(command, arguments, words):
            sys.exit(code)

    entry.__name__ = command.name
    return entry
