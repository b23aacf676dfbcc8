"""``mlops package``: a version in a folder of its own, and whether it predicts the same in a clean environment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_provider.cli.home import use_home
from mlops_provider.cli.progress import Progress
from mlops_provider.cli.run import origin_of
from mlops_provider.core.references import ModelRef
from mlops_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from mlops_provider.steps.package_folder import Packaged
    from mlops_provider.steps.reproduction import Verification


def main(arguments: argparse.Namespace) -> int:
    """Write it, or look through the one that is there; with ``--verify`` predict its sample again."""
    from mlops_provider.steps.package import package
    from mlops_provider.steps.reproduction import verify
    from mlops_provider.stores.suite import Stores

    wanted = version_of(arguments.version)
    folder = Path(arguments.to or f"packages/{wanted.model}-{wanted.version}")
    if arguments.rows < 1:
        raise ConfigurationError(f"A sample has at least one row, got --rows {arguments.rows}.")
    use_home()
    stores, progress = Stores.from_environment(), Progress(sys.stderr)
    try:
        packaged = package(stores, wanted.model, wanted.version, folder, rows=arguments.rows, say=progress.say)
        progress.clear()
        _describe(packaged)
        if not arguments.verify:
            return 0
        found = verify(stores, packaged, origin=origin_of("package_model", stage="package"), say=progress.say)
    finally:
        progress.clear()
    _report(found)
    return 0 if found.reproduced else 1


def version_of(words: str) -> ModelRef:
    """
    Read ``model@version``.

    :raises ConfigurationError: It is written otherwise.
    """
    model, _, version = words.partition("@")
    if not model or not version.isdecimal():
        raise ConfigurationError(f"Expected a model and its version, such as flight_delays@3, got {words!r}.")
    return ModelRef(model, version)


def _describe(packaged: Packaged) -> None:
    sample = packaged.about["sample"]
    print(f"{packaged.model} version {packaged.version} is in {packaged.folder}")
    print(f"  model     {packaged.registration.payload['files']}, as registered")
    print(f"  lock      Python {packaged.about['python']}, {', '.join(packaged.about['requirements'])}")
    if sample is None:
        print("  sample    none: no predictions of this version are stored")
        return
    where = f"record {sample['record']}" if "record" in sample else "the server's prediction log"
    print(f"  sample    {sample['rows']:,} stored predictions, {where}")


def _report(found: Verification) -> None:
    if found.checks:
        print(f"\n{'predicted with':<16}{'rows':>8}{'equal':>8}  {'largest difference':<20}allowed")
    for check in found.checks:
        print(f"{check.scorer:<16}{check.rows:>8,}{check.equal:>8,}  {check.apart:<20}{check.tolerance:.0e}")
    where = f"in a clean environment (Python {found.python}, {found.platform}); ledger record {found.record}"
    print(f"\nReproduced {where}." if found.reproduced else f"\nNot reproduced {where}.")
    if found.reason:
        print(found.reason, file=sys.stderr)
