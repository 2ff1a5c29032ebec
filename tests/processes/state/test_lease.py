"""The head's lease, wanted by many processes at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from raycluster_cli.state.record import Record


def test_of_many_heads_at_once_exactly_one_gets_the_lease(record: Record) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from raycluster_cli.state.record import Record
        from raycluster_cli.model.errors import UsageError
        record = Record.open(Path(sys.argv[1]))
        print("ready", flush=True); sys.stdin.readline()
        try:
            record.take_lease(); print("head", flush=True); sys.stdin.readline()
        except UsageError:
            print("refused", flush=True)
    """
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(record.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(6)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
    said = [child.stdout.readline().strip() for child in children if child.stdout]
    assert sorted(said) == ["head"] + ["refused"] * 5
    winner = children[said.index("head")]
    winner.kill()  # without an end in the record
    for child in children:
        child.communicate()
    record.take_lease()  # its process has ended, so the lease is free at once
    assert len(list(record.path.glob("head.claim.*"))) == 2
