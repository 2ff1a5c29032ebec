"""The benchmark's tables and plot, from runs made up by hand."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from benchmarks.report import plot, ratios, table, waterfall
from benchmarks.runs import Run
from benchmarks.ways import RAYCLUSTER, RECIPE, SYMMETRIC


def run(way: str, start_s: float, end_s: float, **more: object) -> Run:
    values = {
        "hosts": 3,
        "round": 1,
        "nodes_s": None,
        "cpu_s": 3.0,
        "output_bytes": 500,
        "own_peak_bytes": None,
        **more,
    }
    return Run(way=way, start_s=start_s, end_s=end_s, **values)  # type: ignore[arg-type]


RUNS = [
    run(RAYCLUSTER.name, 2.0, 0.1, phases={"n1": {"joined": 1.0, "ready": 1.5}, "n2": {"joined": 1.2}}),
    run(RAYCLUSTER.name, 1.0, 0.3, phases={"n1": {"joined": 0.6, "ready": 0.7}, "n2": {"joined": 0.8}}),
    run(RAYCLUSTER.name, 1.5, 0.2),
    run(SYMMETRIC.name, 15.0, 70.0, cpu_s=30.0, output_bytes=80_000),
    run(RECIPE.name, 20.0, 30.0, cpu_s=None),
]


def test_the_table_has_medians_and_spread() -> None:
    lines = table(RUNS).splitlines()
    assert "| 3 | raycluster | 3 | 1.50 (1.00 to 2.00) | 0.20 (0.10 to 0.30) | 3.0 (3.0 to 3.0) |" in lines[2]
    assert lines[4].startswith("| 3 | guide's recipe | 1 | 20.00 | 30.00 | – |")
    assert "all nodes counted" not in lines[0]  # nobody did


def test_ratios_are_of_medians() -> None:
    assert ratios(RUNS).splitlines()[2] == "| 3 | 0.100 | 0.003 | 0.100 | 0.006 |"


def test_the_waterfall_tells_the_head_from_the_workers() -> None:
    lines = waterfall(RUNS).splitlines()
    assert lines[2].startswith("| 3 | head |")
    assert "| 0.80 | 1.10 | – |" in lines[2]
    assert "| 1.00 | – | – |" in lines[3]


def test_the_plot_is_a_picture_of_all_ways() -> None:
    picture = ET.fromstring(plot(RUNS, "a machine"))
    texts = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"3 hosts", "raycluster", "ray symmetric-run", "guide's recipe", "1.5 + 0.2 s"} <= set(texts)
