"""How pytest-xdist shares out tests among its processes (`--dist loadfile`)."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

#: Ports are the whole machine's: tests that count those in use must not run at a time.
TOGETHER = "system"


class ByModule(LoadFileScheduling):
    """A module's tests run in one process, one after the other; all of a directory `system` do."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """What runs together: a module, or all modules of a directory `system`."""
    module = nodeid.partition("::")[0]
    directory = module.rpartition("/")[0]
    return directory if directory.endswith(f"/{TOGETHER}") else module
