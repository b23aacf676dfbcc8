"""Eight linear tasks that import the real libraries: from REST trigger to success, ours beside stock Airflow."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from measure import figure, machine, stack

from mlops_provider.cli.airflow_api import AirflowApi
from mlops_provider.cli.home import Home, Secrets

STOCK = {
    "MLOPS_PRELOAD": "0",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
    "AIRFLOW__CORE__PARALLELISM": "32",
}


def run_times(settings: dict[str, str], runs: int) -> tuple[list[float], list[float]]:
    """
    Trigger the chain *runs* times on a fresh stack with *settings*; the first, which warms up, does not count.

    :return: Seconds of each run, and seconds that each task spent importing.
    """
    times = []
    with stack(Path(__file__).parent / "dags", settings) as (home, environment):
        password = Secrets.of(Home(root=home, project=home.parent)).admin_password
        api = AirflowApi(f"http://127.0.0.1:{environment['MLOPS_AIRFLOW_PORT']}", user="admin", password=password)
        while "eight_steps" not in api.known_dags():
            time.sleep(0.5)
        for number in range(runs + 1):
            began = time.perf_counter()
            run = api.trigger("eight_steps", f"run-{number}")
            while not run.finished:
                time.sleep(0.05)
                run = api.run(run.dag_id, run.run_id) or run
            if run.state != "success":
                raise SystemExit("The chain failed; its figures mean nothing.")
            times.append(time.perf_counter() - began)
        api.close()
        imports = [float(line) for line in (home / "airflow" / "import_seconds.txt").read_text().split()]
    return times[1:], imports[8:]


if __name__ == "__main__":
    print(machine())
    (ours, our_imports), (stock, stock_imports) = run_times({}, 7), run_times(STOCK, 3)
    figure("8 steps, this suite's local stack", ours, "under 6 s")
    figure("8 steps, stock Airflow settings", stock)
    figure("imports of one task, this suite's local stack", our_imports, "under 0.5 s")
    figure("imports of one task, stock Airflow settings", stock_imports)
    print(f"{'ratio':<52} {median(stock) / median(ours):7.1f} times")
