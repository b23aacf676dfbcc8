"""Environments such as staging and prod: named sets of the addresses of the stores."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from mlops_provider.core.names import Environment
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.stores.suite import Stores

_PREFIX = "MLOPS_"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def settings_of(name: str, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """
    Settings of an environment under their plain names: its ``MLOPS_PROD_LEDGER_URL`` becomes ``MLOPS_LEDGER_URL``.

    The environment that ``MLOPS_ENVIRONMENT`` names is this one: its settings are the plain variables. No other takes
    a plain ``MLOPS_*`` address, so that a forgotten variable never points one environment at another.

    :raises ConfigurationError: *name* is no name of an environment. Not retried.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name of an environment: expected small letters, digits and '_', such as 'prod'."
        )
    if variables.get(Environment.NAME) == name:
        return dict(variables)
    own = f"{_PREFIX}{name.upper()}_"
    others = {variable: value for variable, value in variables.items() if not variable.startswith(_PREFIX)}
    return others | {_PREFIX + key.removeprefix(own): value for key, value in variables.items() if key.startswith(own)}


def stores_of(name: str, variables: Mapping[str, str] = os.environ) -> Stores:
    """
    Stores of an environment, from the variables.

    :raises ConfigurationError: One of its three addresses is not set. Not retried.
    """
    settings = settings_of(name, variables)
    needed = (Environment.TABLES_URI, Environment.REGISTRY_URI, Environment.LEDGER_URL)
    if missing := [variable for variable in needed if not settings.get(variable)]:
        here = variables.get(Environment.NAME) == name
        shown = [variable if here else variable_of(name, variable) for variable in missing]
        also = "" if here else f" If {name!r} is this environment, set {Environment.NAME}={name} instead."
        raise ConfigurationError(f"Environment {name!r} is not complete: set {', '.join(shown)}.{also}")
    return Stores.from_environment(settings)


def variable_of(name: str, variable: Environment) -> str:
    """Name of the variable that holds a setting of an environment."""
    return f"{_PREFIX}{name.upper()}_{variable.removeprefix(_PREFIX)}"
