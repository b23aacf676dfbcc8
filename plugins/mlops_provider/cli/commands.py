"""Every command in one table: ``mlops`` builds its parser from it, and so does ``airflow mlops``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

RUN_STAGES = ("ingest", "score", "monitor", "train", "deploy", "all")
DEFAULT_MODEL_YAML = "include/flight_delays/model.yaml"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command; *options* go to ``argparse`` as they are."""

    flags: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """
    A command and the function behind it.

    :param target: ``module:function`` inside ``mlops_provider.cli``, imported when the command runs. The
        function takes the parsed arguments and gives the exit code.
    :param extras: Extras of the wheel that it is made of.
    """

    name: str
    help: str
    target: str
    arguments: tuple[Argument, ...] = ()
    extras: tuple[str, ...] = ()

    def load(self) -> Callable[[argparse.Namespace], int]:
        """Import the function; nothing heavier than this module is imported before."""
        module, _, function = self.target.partition(":")
        loaded: Callable[[argparse.Namespace], int] = getattr(
            importlib.import_module(f"mlops_provider.cli.{module}"), function
        )
        return loaded


@dataclass(frozen=True, slots=True)
class Group:
    """Commands that share their first word."""

    name: str
    help: str
    commands: tuple[Command, ...]


def flag(name: str, help: str) -> Argument:
    """A switch that is off unless given."""
    return Argument((name,), {"help": help, "action": "store_true"})


def option(name: str, help: str, **options: Any) -> Argument:
    """An argument with a value."""
    return Argument((name,), {"help": help, **options})


MODEL = option(
    "--model", "the model.yaml, or the name of a model in include/ (default: %(default)s)", default=DEFAULT_MODEL_YAML
)

PACKAGE = option("--package", "folder that `mlops package` wrote", required=True)

ROLLED_OUT = Argument(
    ("model",),
    {
        "help": "the model.yaml, or the name of a model in include/ (default: %(default)s)",
        "nargs": "?",
        "default": DEFAULT_MODEL_YAML,
    },
)

REGISTRY_DATABASE = option("--registry-database", "database behind MLflow (default: the registry, if it is one)")

COMMANDS: tuple[Command | Group, ...] = (
    Command(
        "doctor",
        "check versions, extras, stores, ports and telemetry; say how to fix what is wrong",
        "doctor:main",
    ),
    Command(
        "init",
        "write a use case of your own from a file of examples: model.yaml, functions, expectations, DAGs, tests",
        "init:main",
        (
            option(
                "folder", "project that gets include/, dags/ and tests/ (default: this one)", nargs="?", default="."
            ),
            option("--data", "CSV or Parquet file with examples, one row each, with the outcome"),
            option("--target", "column to predict"),
            option("--name", "name of the model (default: the file's)"),
            option("--owner", "who owns it (default: you)"),
            option("--description", "what it predicts, in a sentence"),
            option("--task", "kind of target (default: inferred)", choices=("binary", "regression")),
            option("--positive", "value of the target that is to be told from all others"),
            option("--columns", "names of the columns, a,b,c, if the file's first line does not have them"),
            option("--keys", "columns that identify a row, a,b (default: inferred)"),
            option("--event-time", "column with the time of the prediction (default: inferred)"),
            option("--time-zone", "zone in which months are counted (default: %(default)s)", default="UTC"),
            option("--protected", "columns about people by which fairness is measured, a,b"),
            option("--label-lag", "days after a month's end until its outcomes are known (default: 0)"),
            option(
                "--profile",
                "standard: six DAGs; minimal: gate and monitor over predictions that you make (default: %(default)s)",
                choices=("standard", "minimal"),
                default="standard",
            ),
            option("--prediction", "minimal: column with the predictions of your model"),
            option("--champion", "minimal: table with those of the model that serves now"),
            option("--champion-prediction", "minimal: their column (default: called as the candidate's)"),
            flag("--yes", "take the defaults, ask nothing"),
        ),
    ),
    Command(
        "run",
        "run one stage, or all of a month, without Airflow",
        "run:main",
        (
            Argument(("stage",), {"help": "which stage; 'all' is a whole month", "choices": RUN_STAGES}),
            MODEL,
            option("--partition", "month to work on, such as 2013-01; for train: the month to gate on"),
            option("--version", "deploy: the version to deploy (default: the newest that passed the gate)"),
            flag("--dry-run", "deploy: print the steps, soak, guards and minimum samples; change nothing"),
            option("--run-id", "continue an earlier run under its ID instead of starting a new one"),
        ),
        extras=("tables", "validation", "training", "drift"),
    ),
    Command(
        "ci",
        "check use cases as a pull request's CI does: lint, DAGs, contracts, the chain on a sample",
        "ci:main",
        (
            Argument(("models",), {"help": "model.yaml files (default: include/*/model.yaml)", "nargs": "*"}),
            option("--rows", "rows of a month, at most (default: %(default)s)", type=int, default=2000),
            option("--trials", "parameter sets that the search tries (default: %(default)s)", type=int, default=2),
            option("--junit", "write the result as JUnit XML to this file"),
        ),
    ),
    Group(
        "validate",
        "expectations of the data",
        (
            Command(
                "infer",
                "write expectations that describe the first landed month, marked as not reviewed",
                "validate:infer",
                (
                    Argument(("model",), {"help": "the model.yaml"}),
                    option("--partition", "another landed month, such as 2013-02"),
                    option("--output", "file to write (default: the one that model.yaml names)"),
                ),
            ),
        ),
    ),
    Group(
        "settings",
        "Airflow's connections, pools and variables from a file",
        (
            Command(
                "apply",
                "create or update what airflow_settings.yaml declares; a second time changes nothing",
                "settings:main",
                (
                    option(
                        "file", "the settings file (default: %(default)s)", nargs="?", default="airflow_settings.yaml"
                    ),
                    flag("--dry-run", "say what would change, change nothing"),
                ),
            ),
        ),
    ),
    Group(
        "audit",
        "the ledger's evidence",
        (
            Command(
                "verify",
                "recompute the ledger's hash chain, and compare the registry's versions and champion with its records; "
                "name what does not fit",
                "audit:main",
            ),
        ),
    ),
    Group(
        "ledger",
        "the ledger's database",
        (
            Command(
                "prepare",
                "make the ledger's tables; a second time changes nothing",
                "ledger:prepare",
                (option("--role", "a role of Postgres that may then read and append, and nothing else"),),
            ),
        ),
    ),
    Command(
        "rollback",
        "move traffic back to the last settled version",
        "rollback:main",
        (
            MODEL,
            option("--reason", "why, for the ledger", required=True),
            option("--version", "version to leave; nothing happens if it has left already (default: the newest)"),
        ),
    ),
    Group(
        "rollout",
        "how traffic moves to a new version",
        (
            Command("status", "say where traffic stands, and what the guards say", "rollout:status", (ROLLED_OUT,)),
            Command(
                "promote",
                "move the rollout under way on by a step, if its guards let it; --override skips them",
                "rollout:promote",
                (
                    ROLLED_OUT,
                    flag("--override", "emergency: all traffic at once, without steps and guards; needs --reason"),
                    option("--reason", "why the guards are skipped, for the ledger"),
                    option("--version", "with --override: the version (default: the one under way)"),
                    flag("--dry-run", "say what would be done, change nothing"),
                ),
                extras=("tables", "training"),
            ),
            Command(
                "abort",
                "end the rollout under way; nothing is held against the version",
                "rollout:abort",
                (ROLLED_OUT, option("--reason", "why, for the ledger", required=True)),
                extras=("tables", "training"),
            ),
            Command(
                "drill",
                "let the version before answer for a moment, and return: is a rollback possible, and how fast?",
                "rollout:drill",
                (ROLLED_OUT,),
                extras=("tables", "training"),
            ),
        ),
    ),
    Command(
        "promote",
        "copy a registered version with its evidence into another environment",
        "promote:main",
        (
            Argument(("version",), {"help": "model and version, such as flight_delays@3", "metavar": "MODEL@VERSION"}),
            option("--from", "environment it comes from, such as staging", dest="source", required=True),
            option("--to", "environment it goes to, such as prod", dest="destination", required=True),
        ),
    ),
    *(
        Command(
            name,
            f"{what}; without a reason, show what is to be decided",
            f"approve:{name}",
            (
                Argument(("version",), {"help": "model and version, as flight_delays@3", "metavar": "MODEL@VERSION"}),
                option("--reason", "why, for the record"),
                option("--model", "its model.yaml, for the approvers (default: include/MODEL/model.yaml)"),
            ),
        )
        for name, what in (
            ("approve", "let a version have traffic that a person has to approve"),
            ("reject", "keep a version from traffic for good"),
        )
    ),
    Command(
        "package",
        "write a registered version into a folder: files, evidence, locked environment, container file",
        "package:main",
        (
            Argument(("version",), {"help": "model and version, such as flight_delays@3", "metavar": "MODEL@VERSION"}),
            option("--to", "folder to write, or to look through (default: packages/<model>-<version>)"),
            option(
                "--rows",
                "stored predictions to put into it, at most (default: %(default)s)",
                type=int,
                default=2000,
            ),
            flag("--verify", "install the lock into a clean environment and predict there what was stored"),
        ),
        extras=("tables", "training"),
    ),
    Command(
        "score",
        "predict the rows of a file with a packaged version",
        "score:main",
        (
            Argument(("file",), {"help": "CSV or Parquet file with the columns that the version takes"}),
            PACKAGE,
            option("--output", "file to write: CSV, or Parquet if it ends so (default: CSV on standard output)"),
            option("--threads", "blocks of rows predicted at once (default: %(default)s)", type=int, default=1),
            flag("--estimator", "predict with the scikit-learn estimator, also if there is an ONNX graph"),
        ),
        extras=("serving",),
    ),
    Command(
        "backup",
        "copy ledger, tables, registry, reports and undelivered predictions into one folder",
        "backup:main",
        (
            Argument(("folder",), {"help": "where to; a new or empty folder"}),
            REGISTRY_DATABASE,
            flag("--verify", "make none; look whether the one in the folder is whole"),
        ),
    ),
    Command(
        "restore",
        "fill an empty place with a backup",
        "backup:restore",
        (
            Argument(("folder",), {"help": "folder of the backup"}),
            REGISTRY_DATABASE,
            option("--artifacts", "where MLflow's files go that were in a folder (default: beside an SQLite database)"),
            flag("--as-copy", "the place that was backed up goes on: this one gets a ledger of its own"),
        ),
    ),
    Command(
        "upgrade",
        "bring ledger and tables of an older version of this package to this one's layout",
        "upgrade:main",
        (flag("--dry-run", "say what would be done, change nothing"),),
    ),
    Command(
        "serve",
        "run the model server in the foreground",
        "serve:main",
        (
            Argument(("models",), {"help": "model.yaml files (default: include/*/model.yaml)", "nargs": "*"}),
            option("--package", "serve the version in this folder of `mlops package` instead, and follow no ledger"),
            option("--host", "interface to listen on (default: %(default)s)", default="127.0.0.1"),
            option("--port", "port to listen on (default: MLOPS_SERVER_PORT, else 8090)", type=int),
            option(
                "--advertised-url",
                "address at which rollouts reach this replica (default: MLOPS_ADVERTISED_URL, else host and port)",
            ),
            option(
                "--processes",
                "server processes on the port; each is a replica, also at a port of its own (default: %(default)s)",
                type=int,
                default=1,
            ),
        ),
        extras=("serving",),
    ),
    Command(
        "up",
        "start Airflow, MLflow, the model server and the Evidently UI on this machine",
        "up:main",
        (
            option("--fault", "demo: the month in which the source delivers bad data, such as 2013-04"),
            option(
                "--store",
                "where tables, reports, artifacts and task logs are: a folder, or S3 served by moto in memory",
                choices=("folder", "s3"),
                default="folder",
            ),
            flag("--cluster", "the services of docker-compose.yaml instead: Celery workers, Postgres, Redis, a proxy"),
            option("--timeout", "longest wait for everything to be ready, in seconds", type=float, default=300.0),
        ),
    ),
    Command("down", "stop exactly what 'mlops up' started", "down:main"),
    Command(
        "replay",
        "replay past months through the DAGs of a running stack and print what was decided",
        "replay:main",
        (
            MODEL,
            option("--from", "first month (default: the model's first partition)", dest="first"),
            option("--months", "how many months (default: %(default)s)", type=int, default=6),
            option("--fault", "the faulty month that 'mlops up' was given; only checked here"),
            flag(
                "--bad-candidate",
                "a candidate with an injected fault, once a month keeps its version",
            ),
            option("--timeout", "longest wait for one DAG run, in seconds", type=float, default=900.0),
        ),
        extras=("tables", "training"),
    ),
)
