"""Whether the call that this thread makes for an event loop was cancelled: waits look at it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

#: For calls that cannot be cancelled.
_NEVER = threading.Event()

_cancelled: ContextVar[threading.Event] = ContextVar("cancelled", default=_NEVER)


def cancelled() -> threading.Event:
    """Set when the present call was cancelled.

    >>> cancelled().is_set()
    False
    """
    return _cancelled.get()


def call_with(event: threading.Event, call: Callable[[], T]) -> T:
    """Make a call, in a thread of its own, that is cancelled when ``event`` is set."""
    _cancelled.set(event)
    return call()
