"""Results as markdown tables and as a plot: pure functions of a list of runs."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.runs import Run
from benchmarks.ways import BESIDE, RAYCLUSTER, SYMMETRIC, WAYS

Figure = Callable[[Run], float | None]

#: Heading, figure of a run, and how it is written.
COLUMNS: tuple[tuple[str, Figure, str], ...] = (
    ("srun → driver (s)", lambda run: run.start_s, "{:.2f}"),
    ("srun → all nodes counted (s)", lambda run: run.nodes_s, "{:.2f}"),
    ("driver → nodes free (s)", lambda run: run.end_s, "{:.2f}"),
    ("CPU (s)", lambda run: run.cpu_s, "{:.1f}"),
    ("output (kB)", lambda run: run.output_bytes / 1000, "{:.1f}"),
    ("own memory (MB)", lambda run: run.own_peak_bytes / 1e6 if run.own_peak_bytes else None, "{:.0f}"),
)


def machine() -> str:
    """The machine in words."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kib = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    return (
        f"{os.cpu_count()} CPUs ({model or platform.machine()}), {kib / 1024**2:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def headline(ray_version: str, when: float) -> str:
    """When and where, in one line."""
    date = time.strftime("%Y-%m-%d %H:%M", time.gmtime(when))
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{date} UTC, {machine()}, Ray {ray_version}; load before the run {load}"


def table(runs: Sequence[Run]) -> str:
    """Medians by hosts and way, each with the least and the most."""
    shown = [column for column in COLUMNS if any(column[1](run) is not None for run in runs)]
    lines = [
        "| hosts | way | runs | " + " | ".join(heading for heading, _, _ in shown) + " |",
        "|---|---|---|" + "---|" * len(shown),
    ]
    for hosts in sorted({run.hosts for run in runs}):
        for way in [*(way.name for way in WAYS), BESIDE]:
            mine = [run for run in runs if (run.hosts, run.way) == (hosts, way)]
            if mine:
                cells = [_cell(mine, figure, form) for _, figure, form in shown]
                lines.append(f"| {hosts} | {way} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(runs: Sequence[Run], figure: Figure, form: str) -> str:
    values = sorted(value for run in runs if (value := figure(run)) is not None)
    if not values:
        return "–"
    text = form.format(median(values))
    return f"{text} ({form.format(values[0])} to {form.format(values[-1])})" if len(values) > 1 else text


def ratios(runs: Sequence[Run], other: str = SYMMETRIC.name) -> str:
    """Raycluster's medians over those of another way, by hosts."""
    lines = ["| hosts | start | end | CPU | output |", "|---|---|---|---|---|"]
    figures: tuple[Figure, ...] = (
        lambda run: run.start_s,
        lambda run: run.end_s,
        lambda run: run.cpu_s,
        lambda run: run.output_bytes,
    )
    for hosts in sorted({run.hosts for run in runs}):
        ours = [run for run in runs if (run.hosts, run.way) == (hosts, RAYCLUSTER.name)]
        theirs = [run for run in runs if (run.hosts, run.way) == (hosts, other)]
        if ours and theirs:
            cells = [_ratio(ours, theirs, figure) for figure in figures]
            lines.append(f"| {hosts} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratio(ours: Sequence[Run], theirs: Sequence[Run], figure: Figure) -> str:
    above = [value for run in ours if (value := figure(run)) is not None]
    below = [value for run in theirs if (value := figure(run)) is not None]
    if not above or not below or not median(below):
        return "–"
    return f"{median(above) / median(below):.3f}"


#: Steps of a start in the order in which a good run passes them, as nodes stamp them.
_STEPS = (
    "process started",
    "launched",
    "ray imported",
    "head found",
    "starting ray",
    "gcs answered",
    "raylet started",
    "joined",
    "ready",
    "driver running",
)


def waterfall(runs: Sequence[Run]) -> str:
    """When raycluster's nodes reached each step: median seconds since srun, by hosts and role."""
    lines = ["| hosts | node | " + " | ".join(_STEPS) + " |", "|---|---|" + "---|" * len(_STEPS)]
    ours = [run for run in runs if run.way == RAYCLUSTER.name]
    for hosts in sorted({run.hosts for run in ours}):
        nodes = [phases for run in ours if run.hosts == hosts for phases in run.phases.values()]
        for role, mine in (
            ("head", [phases for phases in nodes if "ready" in phases]),
            ("workers", [phases for phases in nodes if "ready" not in phases]),
        ):
            cells = []
            for step in _STEPS:
                times = [phases[step] for phases in mine if step in phases]
                cells.append(f"{median(times):.2f}" if times else "–")
            if mine:
                lines.append(f"| {hosts} | {role} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# -- the plot ------------------------------------------------------------------------------------

_COLOURS = {WAYS[0].name: "#1f77b4", WAYS[1].name: "#d62728", WAYS[2].name: "#7f7f7f", BESIDE: "#9467bd"}
_BAR, _GAP, _LEFT, _SCALE_W = 15, 12, 150, 560


def plot(runs: Sequence[Run], title: str) -> str:
    """Bars per number of hosts and way: start to the right of one line, end stacked behind it; an SVG."""
    rows: list[tuple[int, str, float, float]] = []
    for hosts in sorted({run.hosts for run in runs}):
        for way in [*(way.name for way in WAYS), BESIDE]:
            mine = [run for run in runs if (run.hosts, run.way) == (hosts, way)]
            if mine:
                start = median(run.start_s for run in mine)
                rows.append((hosts, way, start, median(run.end_s for run in mine)))
    longest = max((start + end for _, _, start, end in rows), default=1.0)
    px = _SCALE_W / longest
    parts: list[str] = []
    y, seen = 62, 0
    for hosts, way_name, start, end in rows:
        if hosts != seen:
            y += _GAP if seen else 0
            seen = hosts
            label = f"{hosts} host" + ("s" if hosts > 1 else "")
            parts.append(f'<text x="8" y="{y + 12}" font-weight="bold">{label}</text>')
            y += 18
        colour = _COLOURS[way_name]
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 12}" text-anchor="end">{way_name}</text>')
        parts.append(_bar(_LEFT, y, start * px, colour, 1.0))
        parts.append(_bar(_LEFT + start * px, y, end * px, colour, 0.45))
        parts.append(
            f'<text x="{_LEFT + (start + end) * px + 6:.1f}" y="{y + 12}">{start:.1f} + {end:.1f} s</text>'
        )
        y += _BAR + 4
    width, height = _LEFT + _SCALE_W + 110, y + 16
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            '<text x="8" y="20" font-size="14" font-weight="bold">Seconds that every node is paid for '
            "without the driver running</text>",
            f'<text x="8" y="38" fill="#555">{title}</text>',
            '<text x="8" y="54" fill="#555">full colour: srun to the driver\'s first line; '
            "pale: driver's last line to the nodes being free</text>",
            *parts,
            "</svg>",
            "",
        ]
    )


def _bar(x: float, y: float, width: float, colour: str, opacity: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{_BAR}" fill="{colour}" '
        f'fill-opacity="{opacity}"/>'
    )
