"""Which lines of logs count as errors, and which exception ended a program."""

# ruff: noqa: E501  (texts as they are written)

from __future__ import annotations

import pytest

from raycluster_cli.model.cause_search import find_causes
from raycluster_cli.model.log_lines import find_said, is_failure, shortened, written_at
from raycluster_cli.model.tracebacks import last_exception

TEXT = "Address already in use"

LEVELS = [
    ("[2026-11-23 04:45:00,123 E 1 1] (raylet) a.cc:1: " + TEXT, True),
    ("[2026-11-23 04:45:00,123 C 1 1] (raylet) a.cc:1: " + TEXT, True),
    ("[2026-11-23 04:45:00,123 W 1 1] (raylet) a.cc:1: " + TEXT, False),
    ("[2026-11-23 04:45:00,123 I 1 1] (raylet) a.cc:1: " + TEXT, False),
    ("(raylet) [2026-11-23 04:45:00,123 W 1 1] (raylet) a.cc:1: " + TEXT, False),
    ("\x1b[36m(work pid=12, ip=10.0.0.2)\x1b[0m WARNING 11-28 19:08:15 [a.py:1] " + TEXT, False),
    ("2026-11-23 04:45:00,123\tWARNING worker.py:2072 -- " + TEXT, False),
    ("2026-11-23 04:45:00,123\tERROR worker.py:2072 -- " + TEXT, True),
    ("2026-11-23 04:45:00,123 - train - WARNING - " + TEXT, False),
    ("(EngineCore_DP0 pid=7) ERROR 11-28 19:08:15 [core.py:708] " + TEXT, True),
    ("W1123 04:45:00.123456 140 init.py:5] " + TEXT, False),
    ("[rank0]:[W1123 04:45:00.123 ProcessGroupNCCL.cpp:1] " + TEXT, False),
    ("E1123 04:45:00.123456 140 init.py:5] " + TEXT, True),
    ("/opt/x.py:12: UserWarning: " + TEXT, False),
    ("slurmstepd-n1: error: " + TEXT, True),
    ("srun: warning: " + TEXT, False),
    ("0: WARNING: " + TEXT, False),
    ("[WARNING] " + TEXT, False),
    ("OSError: [Errno 98] " + TEXT, True),
    ("information: " + TEXT, True),
    ("", True),
]


@pytest.mark.parametrize(("line", "counts"), LEVELS, ids=[line[:50] for line, _ in LEVELS])
def test_a_warning_is_no_error(line: str, counts: bool) -> None:
    assert is_failure(line) is counts
    assert bool(find_causes([("x", line)])) is (counts and TEXT in line)


SAID = [
    ("bind: Address already in use", True),
    ("The port may be taken (Address already in use)", False),
    ("This can cause errors like `Address already in use`.", False),
    ("Use another port if you see Address already in use", False),
    ("Common problems, e.g. Address already in use", False),
    ("Address already in use may occur", False),
    ("Some of it may fail. bind: Address already in use", True),
    ("I can't go on: Address already in use", True),
    ("It died. There are some potential root causes. (1) Address already in use", False),
    ("It might work; Address already in use", True),
]


@pytest.mark.parametrize(("line", "said"), SAID, ids=[line for line, _ in SAID])
def test_what_may_happen_has_not_happened(line: str, said: bool) -> None:
    assert (find_said(TEXT, line) is not None) is said


def test_causes_in_their_order() -> None:
    """What was written after the end is a consequence; of the rest the earlier comes first."""
    ended = written_at("[2026-11-23 04:45:10,000 E")
    assert ended is not None
    texts = [
        ("n1/raylet.err", "[2026-11-23 04:45:09,001 E 1 1] x: Too many open files\n"),
        ("n1/gcs_server.out", "[2026-11-23 04:45:08,001 E 1 1] x: No space left on device\n"),
        ("n1/raylet.out", "[2026-11-23 04:45:20,001 E 1 1] x: Address already in use\n"),
        ("n2/raylet.out", "[2026-11-23 04:45:01,001 E 1 1] x: CUDA out of memory\n"),
    ]
    found = find_causes(texts, host="n1", ended=ended)
    assert [one.cause.name for one in found] == ["disk full", "open files", "GPU memory"]
    assert find_causes(texts)[0].cause.name == "GPU memory"


def test_shortened_texts_end_with_a_whole_word() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    short = shortened(text, 100)
    assert len(short) <= 102 and short.endswith(" …")
    assert set(short.split()[:-1]) <= set(text.split())


EXCEPTIONS = [
    ("no exception", "epoch 1\nepoch 2\n", None),
    ("no end of it", "Traceback (most recent call last):\n  File 'a'\n", None),
    ("chained", "Traceback (most recent call last):\n  File 'a'\nKeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File 'b'\nValueError: bad\n", "ValueError: bad"),
    ("the last of two", "Traceback (most recent call last):\n  File 'a'\nKeyError: 1\nepoch 2\nTraceback (most recent call last):\n  File 'b'\nValueError: bad\n", "ValueError: bad"),
    ("a worker's after the driver's", "Traceback (most recent call last):\n  File 'a'\nKeyError: 1\n(work pid=7) Traceback (most recent call last):\n(work pid=7)   File 'b'\n(work pid=7) ValueError: bad\n", "KeyError: 1"),
    ("without a message", "Traceback (most recent call last):\n  File 'a'\nAssertionError\n", "AssertionError"),
    ("a class of its own", "Traceback (most recent call last):\n  File 'a'\nmy.module.Broken: it is\n", "my.module.Broken: it is"),
    ("several lines", "Traceback (most recent call last):\n  File 'a'\nValueError: one\ntwo\n", "ValueError: one two"),
    ("with srun's labels", "0: Traceback (most recent call last):\n0:   File 'a'\n0: ValueError: bad\n", "ValueError: bad"),
    ("our line after it", "Traceback (most recent call last):\n  File 'a'\nValueError: bad\nraycluster: the driver ended with code 1\n", "ValueError: bad"),
    ("a group of exceptions", "  + Exception Group Traceback (most recent call last):\n  |   File 'a', line 3, in <module>\n  |     main()\n  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n  +-+---------------- 1 ----------------\n    | Traceback (most recent call last):\n    |   File 'a', line 7\n    |     x\n    | ValueError: bad\n    +------------------------------------\n", "ValueError: bad"),
    ("drawn by rich", "╭──────────── Traceback (most recent call last) ─────────────╮\n│ /home/ada/train.py:12 in main                              │\n│ ❱ 12 raise ValueError('bad')                               │\n╰────────────────────────────────────────────────────────────╯\nValueError: bad\n", "ValueError: bad"),
    ("drawn by rich, chained", "╭─── Traceback (most recent call last) ───╮\n│ a │\n╰───╯\nKeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\n╭─── Traceback (most recent call last) ───╮\n│ b │\n╰───╯\nValueError: bad\n", "ValueError: bad"),
    ("vLLM's dead engine", "(EngineCore pid=3) Traceback (most recent call last):\n(EngineCore pid=3)   File 'a'\n(EngineCore pid=3) RuntimeError: misaligned\n(APIServer pid=2) Traceback (most recent call last):\n(APIServer pid=2)   File 'b'\n(APIServer pid=2) vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.\n", "RuntimeError: misaligned"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "summary"), [case[1:] for case in EXCEPTIONS], ids=[case[0] for case in EXCEPTIONS]
)
def test_the_last_exception(text: str, summary: str | None) -> None:
    found = last_exception(text)
    assert (found.summary if found is not None else None) == summary


def test_a_long_traceback_keeps_both_ends() -> None:
    frames = "".join(f"  File '{number}'\n" for number in range(100))
    found = last_exception(f"Traceback (most recent call last):\n{frames}ValueError: bad\n")
    assert found is not None
    assert found.lines[0].startswith("Traceback") and found.lines[-1] == "ValueError: bad"
    assert "  …" in found.lines and len(found.lines) <= 25
