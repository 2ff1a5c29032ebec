"""`raycluster env`: sources, and that it runs where nothing is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycluster_cli.model.settings import Settings
from raycluster_cli.ops.environment import Value, look_around
from raycluster_cli.ops.environment_page import as_json, as_lines

TASK = {
    "SLURM_JOB_ID": "12",
    "SLURM_JOB_NODELIST": "n[1-3]",
    "SLURM_NNODES": "3",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_CLUSTER_NAME": "bed",
    "SLURMD_NODENAME": "n2",
    "SLURM_CPUS_ON_NODE": "1",
    "SLURM_MEM_PER_NODE": "3000",
}


def test_outside_slurm(tmp_path: Path) -> None:
    settings = Settings(num_cpus=1, grace=3.0)
    given = {"num_cpus": "option", "grace": "variable"}
    found = look_around(
        settings, {"TMPDIR": str(tmp_path)}, tmp_path, lambda name: given.get(name, "default")
    )
    assert found.problems == []
    by_name = {one.name: one for one in found.settings}
    assert (by_name["num_cpus"].value, by_name["num_cpus"].source) == (1, "option --num-cpus")
    assert by_name["grace"].source == "variable RAYCLUSTER_GRACE"
    assert by_name["timeout"].source == "default"
    assert by_name["memory"].source.startswith("this node (")
    assert by_name["state_dir"].value == str(tmp_path)
    text = "\n".join(as_lines(found, 100))
    for title in (
        "This process",
        "Granted on this node",
        "Given to Ray",
        "Ports",
        "Versions",
        "Limits",
        "Settings",
    ):
        assert title in text
    assert json.loads(json.dumps(as_json(found)))["schema"] == 1
    assert [
        path for path in Path("/tmp").glob("rc-*/about.json") if '"role": "env"' in path.read_text()
    ] == []


@pytest.mark.parametrize("width", [80, 100])
def test_on_a_terminal_no_row_is_longer_than_the_screen(tmp_path: Path, width: int) -> None:
    found = look_around(Settings(), TASK, tmp_path, lambda _: "default")
    found.warnings = []
    whole, wrapped = as_lines(found, width), as_lines(found, width, wrap=True)
    assert " ".join(whole).split() == " ".join(wrapped).split()
    assert max(map(len, whole)) > width
    assert all(len(line) <= width or len(line.split()) <= 2 for line in wrapped)


def test_what_a_job_gets_from_files_is_shown_in_words(tmp_path: Path) -> None:
    found = look_around(Settings(), {"TMPDIR": str(tmp_path)}, tmp_path, lambda _: "default")
    found.submit = [Value("setup", ["ulimit -c 0", "export A=1"], "x.toml, [defaults]")]
    lines = as_lines(found, 100)
    row = lines[lines.index("A job of `raycluster submit`") + 1]
    assert row.split("  ")[1:] == ["setup", "ulimit -c 0; export A=1", "x.toml, [defaults]"]
    assert as_json(found)["submit"][0]["value"] == ["ulimit -c 0", "export A=1"]


def test_in_a_task(tmp_path: Path) -> None:
    found = look_around(Settings(), TASK, tmp_path, lambda _: "default")
    by_name = {one.name: one for one in found.settings}
    assert (by_name["expected_workers"].value, by_name["expected_workers"].source) == (
        1,
        "Slurm (SLURM_STEP_NODELIST)",
    )
    assert by_name["master_ip"].value == "n1"
    assert found.job["where"].startswith("task 1")
    assert found.facts is not None
    assert found.facts.cpus.value == 1
    assert found.facts.memory_bytes.value == 3000 * 2**20


def test_what_cannot_work_is_a_problem(tmp_path: Path) -> None:
    settings = Settings(interface="nosuch0", temp_dir="/proc")
    found = look_around(settings, {}, tmp_path, lambda _: "default")
    assert len(found.problems) == 2
    assert any("nosuch0" in problem for problem in found.problems)


@pytest.mark.parametrize("name", ["settings", "granted", "plan", "ports", "limits", "warnings", "problems"])
def test_json_page_tells_of(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
    assert f"`{name}`" in page
