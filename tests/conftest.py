"""What holds for every test: the process that runs them is afterwards as it was before."""

from __future__ import annotations

import ctypes
import signal
from typing import Any

import pytest

PR_GET_CHILD_SUBREAPER = 37  # <linux/prctl.h>

# A shell without a terminal ignores SIGINT for what it starts with `&`, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_PRCTL = ctypes.CDLL(None).prctl


@pytest.hookimpl(optionalhook=True)  # pytest-xdist is not there beside the oldest dependencies
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """As `make unit` and `make processes` share out their tests; another --dist is left as it is."""
    if config.getvalue("dist") != "loadfile":
        return None
    from .sharing import ByModule

    return ByModule(config, log)


@pytest.hookimpl(trylast=True)  # not a fixture: it would cost as much as the shortest tests
def pytest_runtest_teardown() -> None:
    """Fails a test that leaves this process a child subreaper.

    Orphans would come to it that it never reaps, and a PID namespace does not end while one of its
    processes is a zombie: no host of a bed could be powered off any more.
    """
    found = ctypes.c_int()
    _PRCTL(PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0)
    assert not found.value, "the test left the process of the test run a child subreaper"
