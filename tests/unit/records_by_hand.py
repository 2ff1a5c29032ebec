"""Records of clusters that never ran, for tests of what people look at.

python -m tests.unit.records_by_hand DIR 500    writes one with 500 nodes, to look at by hand
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from raycluster_cli.model.record import ClusterUsage, EndReport, HeadInfo, NodeReport, NodeUsage
from raycluster_cli.state.record import Record

GIB = 2**30


def write_record(
    state_dir: Path,
    nodes: int = 3,
    *,
    key: str = "4711",
    name: str = "",
    cluster: str = "bed",
    now: float | None = None,
    age_s: float = 600.0,
    failed: int = 0,
    silent: int = 0,
    starting: int = 0,
    usage: bool = True,
    gpus: int = 0,
    end: EndReport | None = None,
    time_left_s: float | None = 5400.0,
) -> Record:
    """A cluster of so many nodes: the last ``failed`` have failed, those before are silent, and so on."""
    now = time.time() if now is None else now
    began = now - age_s
    record = Record.create(state_dir, cluster, key, name)
    claim = record.take_lease(host="n001")
    elsewhere = {**dataclasses.asdict(claim), "boot_id": "of another machine"}
    (record.path / "head.claim.1").write_text(json.dumps(elsewhere))
    hosts = [f"n{number:03}" for number in range(1, nodes + 1)]
    record.write_head(
        HeadInfo(
            host=hosts[0],
            address_ip="10.0.0.1",
            port=20480,
            identity="ab" * 16,
            ray_version="2.60.0",
            python_version="3.11.7",
            raycluster_version="0.1.0",
            started=began,
            expected_workers=nodes - 1,
            driver=("python", "train.py", "--epochs", "20"),
            end_time=now + time_left_s if time_left_s is not None else 0.0,
            state="up",
            worker_hosts=",".join(hosts[1:]),
        )
    )
    good = nodes - failed - silent - starting
    for number, host in enumerate(hosts):
        if good + starting <= number < good + starting + silent:
            continue
        phase, message = "joined", ""
        joined = began + 2.0 + (number * 7 % 23) / 10
        phases = {
            "process started": began,
            "launched": began + 0.1,
            "waiting for head": began + 0.2,
            "head found": joined - 0.8,
            "starting ray": joined - 0.7,
            "joined": joined,
        }
        if number == 0:
            del phases["waiting for head"], phases["head found"]
            phases |= {"starting ray": began + 0.3, "joined": began + 1.1}
            if not starting:
                phase = "driver running"
                phases |= {"ready": began + 5, "driver running": began + 5.1}
        elif number >= nodes - failed:
            phase, message = "failed", f"the raylet on {host} was killed by SIGKILL after 3 restarts"
            phases["failed"] = now - 30
        elif number >= good:
            phase = "starting ray" if number % 3 else "waiting for head"
            del phases["joined"]
        if end is not None:
            phase = "gone"
            phases |= {"stopping": end.when, "gone": end.when + 0.4 + number % 5 / 10}
        record.write_node(
            NodeReport(
                host=host,
                role="worker" if number else "head",
                phase=phase,
                phases=phases,
                message=message,
                ip=f"10.0.{number // 250}.{number % 250 + 1}",
                node_id=f"{number:056x}",
                updated=max(phases.values()),
                exit_code=5 if phase == "failed" else None,
            )
        )
    if usage and end is None:
        busy = {}
        for number in range(good):
            total = {"CPU": 64.0, "object_store_memory": 150.0 * GIB, "memory": 300.0 * GIB}
            used = {"CPU": float(number * 37 % 65), "object_store_memory": number * 13 % 150 * GIB * 1.0}
            if gpus:
                total["GPU"], used["GPU"] = float(gpus), float(number % (gpus + 1))
            busy[f"{number:056x}"] = {"total": total, "used": used}
            record.write_node_usage(
                hosts[number], NodeUsage(now, number * 37 % 65, (20 + number * 11 % 400) * GIB, 512 * GIB)
            )
        record.write_usage(ClusterUsage(now, busy, 12))
    record.append_event("worker n002 joined (10.0.0.2)", began + 2)
    record.append_event(
        f"{nodes} nodes ready at 10.0.0.1:20480 after 5.0 s; driver: python train.py", began + 5
    )
    for number in range(nodes - failed, nodes):
        ip = f"10.0.{number // 250}.{number % 250 + 1}"
        record.append_event(f"worker n{number + 1:03} ({ip}) is lost: raylet died", now - 30)
    if end is not None:
        record.write_end(end)
    return record


def change_head(record: Record, **fields: Any) -> None:
    """Write other values for these fields of head.json."""
    head = record.read_head()
    assert head is not None
    record.write_head(dataclasses.replace(head, **fields))


if __name__ == "__main__":
    write_record(Path(sys.argv[1]), int(sys.argv[2]), key="4711", failed=2, silent=1, gpus=8)
