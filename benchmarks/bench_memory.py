"""Memory of the idle stack: the proportional set size of every process, and the addresses it listens on."""

from __future__ import annotations

import time

import psutil
from measure import ROOT, machine, stack

from mlops_provider.cli.processes import members, pss_bytes, recorded

if __name__ == "__main__":
    print(machine())
    with stack(ROOT / "dags", {}) as (home, _):
        time.sleep(20)
        total = 0.0
        for name, processes in sorted(members(recorded(home / "run")).items()):
            size = pss_bytes(processes) / 1e6
            total += size
            print(f"{name:<52} {size:7.0f} MB  ({len(processes)} processes)")
        print(f"{'idle stack':<52} {total:7.0f} MB   target under 2,500 MB")
        listening = {
            connection.laddr.ip
            for processes in members(recorded(home / "run")).values()
            for process in processes
            for connection in psutil.Process(process.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        print(f"listens on: {', '.join(sorted(listening))}")
