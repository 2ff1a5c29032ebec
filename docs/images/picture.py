"""A picture of a screen, as SVG on stdout: a real cluster's record, drawn by the screen's own code.

    python docs/images/picture.py monitor JOB 100 24 > docs/images/monitor.svg
    python docs/images/picture.py timing JOB 100 24 > docs/images/timing.svg
    python docs/images/picture.py status "" 100 12 > docs/images/status.svg

While `raycluster monitor JOB` runs beside it, the picture shows resource use too.
"""

from __future__ import annotations

import io
import os
import re
import sys

from rich.console import Console

from raycluster_cli.cli import look
from raycluster_cli.cli.cluster_table import cluster_lines
from raycluster_cli.cli.look import state_dir
from raycluster_cli.cli.screen import View, live_screen
from raycluster_cli.cli.timeline import timing_lines
from raycluster_cli.ops.clusters import find_record, read_all
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.slurm.queue import query_jobs


def main(what: str, job: str, width: int, height: int) -> None:
    env = dict(os.environ)
    where = state_dir(env.get("RAYCLUSTER_STATE_DIR", ""), env)
    jobs = query_jobs(env)
    console = Console(
        record=True,
        width=width,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    if what == "status":
        waiting = look._without_record(where, jobs)
        lines = cluster_lines([*waiting, *read_all(where, jobs, limit=height - 2)], width)
    elif what == "timing":
        lines = timing_lines(read_cluster(find_record(where, job, env), jobs), width)
    else:
        status = read_cluster(find_record(where, job, env), jobs)
        lines = live_screen(status, width, height, View(keys=True))
    for line in lines:
        console.print(line, no_wrap=True, crop=False, overflow="ignore")
    words = {"status": "raycluster status", "timing": f"raycluster status {job} --timing"}
    svg = console.export_svg(title=words.get(what, f"raycluster monitor {job}".strip()))
    # Without fonts from other servers: the picture loads nothing.
    print(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
