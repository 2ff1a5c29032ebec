"""What configuration files add to a job that is submitted."""

from __future__ import annotations

import pytest

from raycluster_cli.config.profiles import Configuration, merge
from raycluster_cli.model.settings import Settings
from raycluster_cli.ops.job_profile import job_options, job_values, options_of_files, with_sources
from raycluster_cli.ops.submit import environment_lines

FOUND = merge(
    [
        (
            "x.toml",
            {
                "defaults": {
                    "sbatch": "-p cpu -t 60 --mem=4G --exclusive",
                    "timeout": 90,
                    "tls": True,
                    "modules": ["cuda/12"],
                }
            },
        )
    ]
)
SETTINGS = Settings(timeout=90, tls=True)


@pytest.mark.parametrize(
    ("words", "env", "left"),
    [
        ([], {}, ["--partition", "--time", "--mem", "--exclusive"]),
        (["-pgpu", "-t", "5"], {}, ["--mem", "--exclusive"]),
        (["--partition=gpu"], {}, ["--time", "--mem", "--exclusive"]),
        (["--mem-per-cpu=1G"], {}, ["--partition", "--time", "--exclusive"]),
        (["--oversubscribe"], {"SBATCH_PARTITION": "x"}, ["--time", "--mem"]),
    ],
)
def test_typed_options_and_variables_replace_those_of_files(
    words: list[str], env: dict[str, str], left: list[str]
) -> None:
    assert [name for name, _ in job_options(FOUND, words, env)] == left


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], ["--no-config-files", "--timeout=90", "--tls"]),
        (["--timeout=3"], ["--no-config-files", "--tls"]),
        (["--no-tls"], ["--no-config-files", "--timeout=90"]),
    ],
)
def test_settings_travel_as_options_and_the_job_reads_no_files(given: list[str], options: list[str]) -> None:
    assert options_of_files(FOUND, SETTINGS, given) == options


def test_without_files_nothing_is_added() -> None:
    assert options_of_files(Configuration(), Settings(), []) == []
    assert options_of_files(Configuration(), Settings(config_files=False), []) == ["--no-config-files"]
    assert job_options(Configuration(), [], {}) == job_values(Configuration()) == []


def test_each_value_has_its_source() -> None:
    sources = {"timeout": "variable", "tls": "x.toml, [defaults]"}
    rows = with_sources(
        FOUND,
        SETTINGS,
        ["-N", "2", "-pgpu"],
        {"SBATCH_TIMELIMIT": "5", "SBATCH_PARTITION": "cpu"},
        lambda name: sources.get(name, "default"),
    )
    assert rows == [
        ("--nodes", "2", "option"),
        ("--partition", "gpu", "option"),
        ("--time", "5", "variable SBATCH_TIMELIMIT"),
        ("--mem", "4G", "x.toml, [defaults]"),
        ("--exclusive", "", "x.toml, [defaults]"),
        ("--timeout", "90", "variable RAYCLUSTER_TIMEOUT"),
        ("--tls", "", "x.toml, [defaults]"),
        ("modules", "cuda/12", "x.toml, [defaults]"),
    ]


def test_modules_are_loaded_before_the_python_is_chosen_and_setup_comes_last() -> None:
    begin, load, *rest = environment_lines({}, "/v/bin/python", ("a/1", "b c"), ("source x",))
    assert begin == "command -v module >/dev/null || . /etc/profile"
    assert load.startswith("module load a/1 'b c' || { echo 'raycluster: error: `module load a/1 ")
    assert load.endswith("failed on this node. `module avail` lists the modules.' >&2; exit 2; }")
    assert rest == ['export PATH=/v/bin:"$PATH"', "source x"]
