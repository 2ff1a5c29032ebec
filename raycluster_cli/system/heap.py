"""Memory of a supervisor: one heap for all threads, and what its imports leave."""

from __future__ import annotations

import ctypes
import gc

_M_ARENA_MAX = -8  # <malloc.h>


def use_one_heap() -> None:
    """Threads that begin from now on take memory from the heap of the main thread.

    glibc gives threads heaps of their own, which keep what a short call needed: some 0.6 MB in a supervisor,
    whose calls on file systems have a thread each.  With another C library nothing is done.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the system what was freed in the middle of the heap, too.  Does nothing without glibc."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def settle() -> None:
    """What was imported stays: the collection of garbage, off until now (__main__), need not look at it."""
    give_back()
    gc.freeze()
    gc.enable()
