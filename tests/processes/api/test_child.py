"""Commands as children of the calling program: output, code, end."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from raycluster_cli import RayclusterError, UsageError
from raycluster_cli.api import child
from raycluster_cli.api.child import output_of, run_streamed
from raycluster_cli.ops.start_error import StartError, marked_line
from raycluster_cli.system.proctree import read_stat
from tests.waiting import wait_until

ENV = dict(os.environ)


def python(code: str, *words: str) -> list[str]:
    return [sys.executable, "-c", code, *words]


def test_output_goes_to_what_stdout_and_stderr_are_now() -> None:
    code = "import sys; print('out ä'); print('err', file=sys.stderr); sys.exit(3)"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert run_streamed(python(code), {**ENV, "PYTHONUTF8": "1"}, cancelled=threading.Event()) == 3
    assert (out.getvalue(), err.getvalue()) == ("out ä\n", "err\n")


def test_a_command_that_dies_of_a_signal() -> None:
    code = "import os; os.kill(os.getpid(), 9)"
    assert run_streamed(python(code), ENV, cancelled=threading.Event()) == 137


def test_a_closed_output_does_not_stop_the_command() -> None:
    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stdout(closed):
        assert run_streamed(python("print('x' * 1_000_000)"), ENV, cancelled=threading.Event()) == 0


HELD = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (pathlib.Path(sys.argv[1], "told").touch(), sys.exit(9)))
pathlib.Path(sys.argv[1], "up").touch()
time.sleep(600)
"""


def test_a_cancelled_command_gets_sigint_and_has_ended(tmp_path: Path) -> None:
    cancelled = threading.Event()
    codes: list[int] = []
    argv = python(HELD, str(tmp_path))
    thread = threading.Thread(target=lambda: codes.append(run_streamed(argv, ENV, cancelled=cancelled)))
    thread.start()
    wait_until((tmp_path / "up").exists, timeout_s=60, what="the command's start")
    cancelled.set()
    thread.join(60)
    assert codes == [9]
    assert (tmp_path / "told").exists()


def test_ctrl_c_reaches_the_command_once_and_goes_on(tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_until((tmp_path / "up").exists, timeout_s=60, what="the command's start")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_streamed(python(HELD, str(tmp_path)), ENV, cancelled=threading.Event())
    assert (tmp_path / "told").exists()


def test_a_process_that_it_leaves_behind_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "REST_S", 0.1)
    code = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run_streamed(python(code), ENV, cancelled=threading.Event()) == 0
        wait_until(lambda: out.getvalue().endswith("\n"), timeout_s=60, what="the output before its end")
        os.kill(int(out.getvalue()), signal.SIGKILL)


def test_the_message_of_a_command_that_fails_is_the_error() -> None:
    code = "import sys; sys.exit('raycluster: error: there are no logs.')"
    with pytest.raises(RayclusterError, match=r"^there are no logs\.$"):
        output_of(python(code), ENV)
    with pytest.raises(RayclusterError, match="/no/such cannot be started: No such file"):
        output_of(["/no/such"], ENV)


def test_a_command_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(RayclusterError, match=r"did not end within 3 s"):
        output_of(python(code), ENV, timeout_s=3)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


SHELL = """
trap 'echo told' INT
python3 -c 'import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.pause()' & echo $! > pid.new
mv pid.new pid
wait; wait
"""


def test_the_programs_of_a_shell_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the background ignores SIGINT."""
    monkeypatch.setattr(child, "INTERRUPT_S", 0.5)
    cancelled = threading.Event()
    argv = ["bash", "-c", f"cd {tmp_path} && {SHELL}"]
    thread = threading.Thread(target=lambda: run_streamed(argv, ENV, cancelled=cancelled))
    thread.start()
    wait_until((tmp_path / "pid").exists, timeout_s=60, what="the shell's program")
    program = int((tmp_path / "pid").read_text())
    assert read_stat(program) is not None
    cancelled.set()
    thread.join(60)
    assert not thread.is_alive()
    left = read_stat(program)
    assert left is None or left.state in "ZX"


def test_one_that_even_sigkill_does_not_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs in a call of the kernel; here no signal is sent to it."""
    for name in ("INTERRUPT_S", "TERM_S", "KILL_WAIT_S", "REAP_S", "REST_S"):
        monkeypatch.setattr(child, name, 0.05)
    sent: list[int] = []
    monkeypatch.setattr(child.os, "killpg", lambda pid, number: sent.append(pid))
    cancelled = threading.Event()
    cancelled.set()
    try:
        with pytest.raises(RayclusterError, match=r"^sleep \(process \d+\) was killed and has not ended"):
            run_streamed(["sleep", "600"], ENV, cancelled=cancelled)
        assert len(sent) == 3
    finally:
        os.kill(sent[0], signal.SIGKILL)
        os.waitpid(sent[0], 0)


def test_the_reason_why_it_did_not_start_is_taken_out_of_its_output() -> None:
    found = StartError("7f ")
    line = marked_line("7f ", RayclusterError("no such program.", "Install it."))
    code = f"import sys; print('a', file=sys.stderr); print({line!r}, file=sys.stderr); sys.exit('b')"
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert run_streamed(python(code), ENV, cancelled=threading.Event(), start_error=found) == 1
    assert err.getvalue() == "a\nb\n"
    error = found.error(UsageError)
    assert isinstance(error, UsageError)
    assert str(error) == "no such program. Install it."
