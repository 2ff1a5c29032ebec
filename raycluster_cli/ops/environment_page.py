"""What `raycluster env` found out, as JSON and as lines for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.settings import option_name, variable_name
from .environment import StartEnvironment, mib

SCHEMA = 1


def as_json(found: StartEnvironment) -> dict[str, Any]:
    """By the schema in docs/json.md."""
    return {
        "schema": SCHEMA,
        "settings": [
            {
                "name": one.name,
                "option": option_name(one.name),
                "variable": variable_name(one.name),
                "value": one.value,
                "source": one.source,
            }
            for one in found.settings
        ],
        "submit": [{"name": one.name, "value": one.value, "source": one.source} for one in found.submit],
        "slurm": found.job,
        "granted": found.facts.as_dict() if found.facts else None,
        "plan": found.plan.as_dict() if found.plan else None,
        "address": {
            "ip": found.address.ip,
            "interface": found.address.interface,
            "source": found.address.source,
        }
        if found.address
        else None,
        "addresses": found.addresses,
        "ports": found.ports,
        "derived_gcs_ports": found.gcs_ports,
        "directories": found.directories,
        "versions": found.versions,
        "limits": {
            "files": found.limits.files,
            "files_before": found.limits.files_before,
            "processes": found.limits.processes,
            "processes_before": found.limits.processes_before,
        }
        if found.limits
        else None,
        "variables": found.variables,
        "warnings": found.warnings,
        "problems": found.problems,
    }


def as_lines(found: StartEnvironment, width: int, *, wrap: bool = False) -> list[str]:
    """For people: sections with a title, one line per value; ``wrap``: continued where it is too long."""
    lines: list[str] = []

    def part(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
        if not rows:
            return
        lines.extend(("", title) if lines else (title,))
        names = min(max(len(name) for name, _, _ in rows), 24)
        values = min(max(len(value) for _, value, _ in rows), max(width - names - 40, 16))
        for name, value, source in rows:
            line = f"  {name:<{names}}  {value:<{values}}  {source}".rstrip()
            indent = names + 4 + (values + 2 if source else 0)
            lines.extend(_wrapped(line, width, indent) if wrap else [line])

    part(
        "This process",
        [(name, _shown(value), "") for name, value in found.job.items() if value not in ("", None, 0)],
    )
    if found.facts is not None:
        facts, rows = found.facts, []
        sized = {"memory": facts.memory_bytes, "/dev/shm": facts.shm_bytes}
        for name, grant in {"CPUs": facts.cpus, "GPUs": facts.gpus, **sized}.items():
            show = mib if name in sized else str
            ray = (
                "" if grant.ray_would_assume is None else f"; Ray would assume {show(grant.ray_would_assume)}"
            )
            rows.append((name, show(grant.value), f"{grant.source}{ray}"))
            rows += [
                ("", show(each.value), f"  {each.source}")
                for each in grant.candidates
                if (each.value, each.source) != (grant.value, grant.source)
            ]
        part("Granted on this node", rows)
    if found.plan is not None:
        plan = found.plan
        rows = [
            ("CPUs", str(plan.num_cpus), plan.sources.get("num_cpus", "")),
            ("GPUs", str(plan.num_gpus), plan.sources.get("num_gpus", "")),
            ("memory", mib(plan.memory_bytes), plan.sources.get("memory_bytes", "")),
            ("object store", mib(plan.object_store_bytes), plan.sources.get("object_store_bytes", "")),
            ("kept for Ray itself", mib(plan.reserve_bytes), ""),
        ]
        rows += [(f"resource {name}", f"{size:g}", "") for name, size in plan.resources.items()]
        rows += [(f"label {name}", value, "") for name, value in plan.labels.items()]
        part("Given to Ray", rows)
    if found.address is not None:
        why = f"{found.address.interface}, {found.address.source}"
        part("Address", [("ip", found.address.ip, why), ("all", found.addresses, "")])
    if found.ports is not None:
        part("Ports that would be taken now", _port_rows(found.ports))
    part("Directories", [(name, _shown(value), "") for name, value in found.directories.items() if value])
    part("Versions", [(name, value or "not installed", "") for name, value in found.versions.items()])
    if found.limits is not None:
        limits = found.limits
        part(
            "Limits",
            [
                ("open files", _limit(limits.files), f"before: {_limit(limits.files_before)}"),
                ("processes", _limit(limits.processes), f"before: {_limit(limits.processes_before)}"),
            ],
        )
    part("Set for Ray and the driver", [(name, value, "") for name, value in found.variables.items()])
    part("A job of `raycluster submit`", [(one.name, _shown(one.value), one.source) for one in found.submit])
    part("Settings", [(option_name(one.name), _shown(one.value), one.source) for one in found.settings])
    for title, texts in (("Warnings", found.warnings), ("Problems", found.problems)):
        if texts:
            lines += ["", title, *(f"  {text}" for text in texts)]
    return lines


def _port_rows(ports: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = [(name, str(port), "") for name, port in ports.items() if not name.startswith("worker_")]
    workers = f"{ports.get('worker_low')}–{ports.get('worker_high')}"
    return [*rows, ("worker processes", workers, "")]


def _limit(number: int) -> str:
    return "none" if number < 0 else str(number)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return "; ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def _wrapped(line: str, width: int, indent: int) -> list[str]:
    """A row whose last column begins at ``indent``, in lines of at most ``width`` where its words allow it.

    >>> _wrapped("  ip  10.0.0.1  eth0, the default route", 32, 16)
    ['  ip  10.0.0.1  eth0, the', '                default route']
    """
    if len(line) <= width:
        return [line]
    indent = min(indent, width // 2)
    start, rest = line[:indent], line[indent:]
    return textwrap.wrap(
        rest,
        width,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
