"""What a submitted job is told about its worker jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.settings import Settings
from raycluster_cli.ops.elastic_submit import elastic_options


def test_options_of_the_line_the_template_and_the_environment(tmp_path: Path) -> None:
    template = "#SBATCH -p gpu -C a100\n#SBATCH --time=10  # short\n@SBATCH@\nsrun @DRIVER@\n#SBATCH -q x"
    found = elastic_options(
        Settings(max_nodes=4),
        ["-t", "60", "-N", "1", "--comment=two words"],
        {"SBATCH_ACCOUNT": "me"},
        here=tmp_path,
        template=template,
    )
    assert found == [
        "--worker-sbatch=--partition=gpu --constraint=a100 --time=60 '--comment=two words' --account=me"
    ]


def test_options_of_ones_own(tmp_path: Path) -> None:
    assert elastic_options(Settings(max_nodes=4, worker_sbatch="-p x"), ["-p", "y"], {}, here=tmp_path) == []


@pytest.mark.parametrize("given", ["-N 4", "--array=1-4", "-n 2", "--wait"])
def test_options_that_change_which_jobs_there_are(tmp_path: Path, given: str) -> None:
    with pytest.raises(UsageError, match=r"--worker-sbatch: --[a-z]+ cannot be given for a worker group"):
        elastic_options(Settings(max_nodes=4, worker_sbatch=given), [], {}, here=tmp_path)


def test_the_file_by_its_full_path(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("[workers.gpu]\nmax = 2\n")
    for given in ("cluster.toml", str(path)):
        assert elastic_options(Settings(config=given), [], {}, here=tmp_path) == [f"--config={path}"]


def test_a_wrong_file_is_refused_before_the_queue(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text("[workers.gpu]\nmaxx = 2\n")
    with pytest.raises(UsageError, match="no key 'maxx'"):
        elastic_options(Settings(config="cluster.toml"), [], {}, here=tmp_path)
