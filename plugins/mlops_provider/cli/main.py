"""The ``mlops`` command: parse, import the one command asked for, run it, turn errors into words."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mlops_provider.cli.commands import COMMANDS, Command
from mlops_provider.core.extras import explained_imports
from mlops_provider.exceptions import MLOpsError, NothingToDo


def parser() -> argparse.ArgumentParser:
    """Build the parser from the table of commands."""
    top = argparse.ArgumentParser(prog="mlops", description="From raw data to a monitored model, with Airflow.")
    entries = top.add_subparsers(metavar="COMMAND", required=True)
    for entry in COMMANDS:
        if isinstance(entry, Command):
            _add(entries, entry, entry.name)
            continue
        group = entries.add_parser(entry.name, help=entry.help, description=entry.help)
        members = group.add_subparsers(metavar="COMMAND", required=True)
        for command in entry.commands:
            _add(members, command, f"{entry.name} {command.name}")
    return top


def _add(entries: argparse._SubParsersAction[argparse.ArgumentParser], command: Command, words: str) -> None:
    sub = entries.add_parser(command.name, help=command.help, description=command.help)
    for argument in command.arguments:
        sub.add_argument(*argument.flags, **argument.options)
    sub.set_defaults(command=command, words=words)


def run(command: Command, arguments: argparse.Namespace, words: str) -> int:
    """
    Run one command.

    :param words: What the user typed for it, such as ``settings apply``; begins error messages.
    :return: Exit code: what the command says; 0 when there was nothing to do; 1 after an error, which is
        printed in words, without a traceback; 130 when interrupted.
    """
    # boto3 takes an empty variable for none; deltalake takes it for an address, and panics.
    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]:
        del os.environ[name]
    try:
        with explained_imports(*command.extras):
            return command.load()(arguments)
    except NothingToDo as reason:
        print(f"Nothing to do: {reason}")
        return 0
    except MLOpsError as error:
        print(f"mlops {words}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mlops {words}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (such as `head`) has gone; without this, Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``mlops`` command."""
    arguments = parser().parse_args(argv)
    return run(arguments.command, arguments, arguments.words)


if __name__ == "__main__":
    sys.exit(main())
