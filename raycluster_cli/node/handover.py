"""The node's directory on its way from the thread that makes it to the event loop."""

from __future__ import annotations

import threading

from .directory import NodeRoot


class Handover:
    """A new directory on its way from the thread that makes it to the event loop: one of the two has it.

    The loop may have given up (a deadline, a signal) before the thread is done: then it is removed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused = False
        self._root: NodeRoot | None = None

    def give(self, root: NodeRoot) -> NodeRoot:
        with self._lock:
            self._root = root
            if self._refused:
                root.remove()
        return root

    def refuse(self) -> None:
        with self._lock:
            self._refused = True
            if self._root is not None:
                self._root.remove()
