"""The checkup of one node: what its checks work with, and what they have found."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .._version import __version__
from ..model.errors import RayclusterError
from ..model.settings import Settings
from ..node.grants import HostFacts
from ..slurm.allocation import Allocation
from ..system.network import NodeAddress
from .findings import Finding, NodeFindings, Verdict


class Checkup:
    """One node's; a check is a function that takes it and calls :meth:`add`."""

    def __init__(self, settings: Settings, env: Mapping[str, str], state_dir: Path) -> None:
        self.settings = settings
        self.env = env
        self.state_dir = state_dir
        self.allocation = Allocation.from_environ(env)
        named = self.allocation.node_name if self.allocation else None
        self.host = named or socket.gethostname().partition(".")[0]
        self.facts: HostFacts | None = None
        self.num_cpus = 1
        """CPUs that Ray would be given here, once that has been checked."""
        self.address: NodeAddress | None = None
        self.versions = {"python": ".".join(map(str, sys.version_info[:3])), "raycluster": __version__}
        self.lookups = ThreadPoolExecutor(max_workers=16, thread_name_prefix="lookup")
        """For calls that cannot be given a deadline, such as name look-ups."""
        self.findings: list[Finding] = []
        self._check = ""
        self._made: list[Path] = []

    @property
    def others(self) -> list[str]:
        """The other nodes of the job."""
        nodes = self.allocation.job_nodes if self.allocation else ()
        return [node for node in nodes if node != self.host]

    def make_state_dir(self) -> None:
        """Make the state directory where there is none; :meth:`clean` removes it.  Raises OSError."""
        missing = [one for one in (self.state_dir, *self.state_dir.parents) if not one.exists()]
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._made += missing

    def clean(self) -> None:
        """Remove the directories that were made for the checks, unless something is in them."""
        for directory in self._made:
            with contextlib.suppress(OSError):
                directory.rmdir()

    def make(self, name: str, check: Callable[[Checkup], None]) -> None:
        """Run one check; an error becomes a finding."""
        self._check = name
        try:
            check(self)
        except RayclusterError as error:
            self.add(Verdict.FAIL, error.message, error.hint)
        except OSError as error:
            self.add(Verdict.WARNING, f"could not be checked: {error}")

    def add(
        self, verdict: Verdict, text: str, remedy: str = "", *, check: str = "", **numbers: float
    ) -> None:
        """Note what the running check has found.  ``import_s=1.2`` is shown as "import 1.2 s"."""
        measured = {name.replace("_", " "): round(value, 3) for name, value in numbers.items()}
        self.findings.append(Finding(check or self._check, verdict, text, remedy, measured))

    def report(self) -> NodeFindings:
        """All that was found; no check runs after this."""
        self.lookups.shutdown(wait=False, cancel_futures=True)
        return NodeFindings(self.host, self.versions, tuple(self.findings))
