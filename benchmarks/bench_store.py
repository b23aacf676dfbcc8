"""
The same months through the whole stack, tables in a folder and on S3: the same table, and what S3 costs.

`STORE_MONTHS=2` is a quick look; the table of every month must be the same text, or the figures mean nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import free_port, load, machine, target

ROOT = Path(__file__).resolve().parents[1]
MONTHS = os.environ.get("STORE_MONTHS", "3")
PORTS = ("AIRFLOW", "MLFLOW", "SERVER", "EVIDENTLY", "MOTO")


def replayed(store: str) -> tuple[str, float]:
    """
    Start a stack with *store*, replay the months, stop it.

    :return: The table as printed, and the seconds of the replay.
    """
    with tempfile.TemporaryDirectory(prefix=f"mlops-{store}-") as home:
        environment = {**os.environ, "MLOPS_HOME": home + "/home"}
        environment |= {f"MLOPS_{name}_PORT": str(free_port()) for name in PORTS}

        def mlops(*arguments: str) -> str:
            command = [sys.executable, "-m", "mlops_provider.cli.main", *arguments]
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if run.returncode:
                raise SystemExit(f"mlops {' '.join(arguments)} failed:\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}")
            return run.stdout

        try:
            mlops("up", "--store", store)
            began = time.perf_counter()
            printed = mlops("replay", "--months", MONTHS)
            seconds = time.perf_counter() - began
            print(f"{f'{MONTHS} months, {store}':<52} {seconds:7.1f} s", flush=True)
        finally:
            mlops("down")
    return printed.partition("\nAirflow ")[0], seconds


if __name__ == "__main__":
    print(machine(), load(), sep=", ", flush=True)
    (folder_table, folder), (s3_table, s3) = replayed("folder"), replayed("s3")
    print(s3_table)
    if folder_table != s3_table:
        raise SystemExit(f"The tables differ. In a folder:\n{folder_table}")
    print("The folder run printed the same table.")
    target("on S3, times the run in a folder", s3 / folder, 1.5)
