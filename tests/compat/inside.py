"""
Checks that run inside a clean environment, by its own interpreter; `run.py` starts them and reads their last line.

Nothing of the repository is on the path: what is imported is the wheel.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import time
import traceback
from importlib.metadata import distributions, version
from pathlib import Path


def forms() -> str:
    """Airflow's own provider manager takes the metadata, and its UI gets a form for each connection type."""
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    found = manager.providers["airflow-provider-mlops"]  # validated against Airflow's schema when it is loaded
    wanted = {entry["connection-type"] for entry in found.data["connection-types"]}
    missing = wanted - set(manager.hooks)
    assert not missing, f"Airflow knows no hook for {missing}"
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    metas = {meta.connection_type: meta for meta in HookMetaService.hook_meta_data()}
    for name in sorted(wanted):
        assert name in metas, f"the connection form does not offer {name}"
        behaviour = metas[name].standard_fields
        assert behaviour is not None, f"the form of {name} has no field behaviour"
    return f"{len(wanted)} forms"


def imports() -> str:
    """Every operator, sensor, trigger and hook imports, with no library of an extra at hand."""
    from airflow.sdk import BaseOperator

    from mlops_provider.get_provider_info import get_provider_info

    info = get_provider_info()
    modules = [
        name
        for section in ("operators", "sensors", "hooks", "triggers")
        for entry in info[section]
        for name in entry["python-modules"]
    ]
    classes = [
        member
        for name in modules
        for member in vars(importlib.import_module(name)).values()
        if inspect.isclass(member) and issubclass(member, BaseOperator) and member.__module__ == name
    ]
    return f"{len(classes)} operators"


def examples() -> str:
    """Airflow offers the example DAG beside its own, where examples are on; 3.2 does so for its own providers only."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "True"
    found = {bundle.name: Path(bundle.path) for bundle in DagBundlesManager().get_all_dag_bundles()}
    ours = found.get("airflow-provider-mlops-example-dags")
    if ours is None:
        assert version("apache-airflow-core") < "3.3", f"Airflow knows the bundles {', '.join(found)}"
        return "to be copied"
    assert ours.joinpath("example_mlops_gate.py").exists(), ours
    return "shown by Airflow"


def dag_runs() -> str:
    """Run each DAG named in COMPAT_DAGS to its end, as `airflow dags test` does, and give what its tasks returned."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    bag = DagBag(Path(os.environ["AIRFLOW_HOME"], "dags"))
    assert not bag.import_errors, bag.import_errors
    found = {}
    for dag_id in os.environ["COMPAT_DAGS"].split(","):
        run = bag.dags[dag_id].test(run_conf=json.loads(os.environ.get("COMPAT_CONF", "{}")))
        with create_session() as session:
            asked = XComModel.get_many(run_id=run.run_id, key="return_value", dag_ids=dag_id)
            returned = {row.task_id: XComModel.deserialize_value(row) for row in session.scalars(asked)}
        states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
        found[dag_id] = {"state": str(run.state), "tasks": states, "returned": returned}
    return json.dumps(found)


def versions() -> str:
    """What a fresh resolve brought of the libraries that have surprised before."""
    names = (
        "apache-airflow",
        "sqlalchemy",
        "protobuf",
        "pandas",
        "numpy",
        "pyarrow",
        "mlflow",
        "great_expectations",
        "evidently",
    )
    found = {each.metadata["Name"].lower(): each.version for each in distributions()}
    return json.dumps({name: found[name] for name in names if name in found})


CHECKS = {"examples": examples, "forms": forms, "imports": imports, "dag_runs": dag_runs, "versions": versions}


def main() -> int:
    """Run the checks that are named and print what they found as the last line."""
    found = {}
    for name in sys.argv[1:]:
        began = time.monotonic()
        try:
            said, good = CHECKS[name](), True
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            traceback.print_exc()
            said, good = f"{type(error).__name__}: {error}", False
        found[name] = {"good": good, "said": said, "seconds": time.monotonic() - began}
    sys.stdout.flush()
    print(json.dumps(found), flush=True)
    return 0 if all(each["good"] for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
