"""LocalCluster: a head and workers on this machine, as SlurmCluster has them in a job."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..model.cluster_status import ClusterStatus
from ..model.errors import RayclusterError, UsageError
from ..model.settings import Settings
from ..rayproc.boot import raycluster_command
from ..state.catalogue import record_of
from ..supervisor.parent_link import ParentLink
from ..system.report import say
from .child import KILL_WAIT_S, ended
from .cluster import ERRORS, Cluster
from .options import check_command, run_words, settings_dictionary, settings_with_files

#: The sockets by which clusters see the end of this program.
_links: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_links() -> None:
    """In a process that this one forks: with its copies a cluster would live as long as that process."""
    for link in _links:
        link.close()


os.register_at_fork(after_in_child=_close_links)


class LocalCluster(Cluster):
    """A head and ``workers`` workers on this machine, without Slurm, for tests and for trying things out.

    ```python
    with LocalCluster(workers=2) as cluster:
        cluster.run(["python", "driver.py"])
    ```

    It is `raycluster run --local` in a child process, and ends with this program, however that ends.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        profile: str = "",
        service: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        state_dir: str | Path | None = None,
        start_timeout_s: float | None = 300.0,
        stop_timeout_s: float = 60.0,
        progress: Callable[[str], object] | None = say,
    ) -> None:
        """Nothing is started before :meth:`start`, or `with`.  The arguments are those of SlurmCluster.

        Raises UsageError.
        """
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise UsageError(f"workers is {workers!r}; it must be a whole number, 0 or more.")
        given = settings_dictionary(settings)
        env = dict(os.environ)
        chosen = settings_with_files(given, "run", env, profile=profile, service=bool(service))
        super().__init__(
            state_dir=state_dir or env.get("RAYCLUSTER_STATE_DIR") or chosen.values.get("state_dir", ""),
            progress=progress,
            start_timeout_s=start_timeout_s,
        )
        self._has_client_server = Settings(**chosen.values).client_server
        if profile:
            given["profile"] = profile
        given.setdefault("name", f"py-{os.urandom(4).hex()}")
        self._given_name = str(given["name"])
        driver = check_command(service, "service") if service else ()
        options = [*self._where_words, *run_words(given), *(["--service"] if service else [])]
        self._argv = raycluster_command("run", f"--local={workers}", *options, "--", *driver)
        self._stop_timeout_s = stop_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._output: IO[bytes] | None = None

    def _begin(self) -> None:
        try:
            self._output = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the cluster is
        except OSError as error:
            raise RayclusterError(
                f"a temporary file for the cluster's output cannot be made: {error.strerror or error}.",
                "TMPDIR chooses another directory for it.",
            ) from error
        ours, theirs = socket.socketpair()
        try:
            self._child = subprocess.Popen(
                self._argv,
                env={**self._env, ParentLink.VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise RayclusterError(f"{self._argv[0]} cannot be started: {error.strerror}.") from error
        finally:
            theirs.close()
        _links.add(ours)
        self._link = ours
        self._name = self._given_name

    def _look(self) -> ClusterStatus | None:
        has_ended = self._child is not None and self._child.poll() is not None  # asked first
        found = super()._look()
        if found is None and has_ended:
            assert self._child is not None
            kind = ERRORS.get(self._child.returncode, RayclusterError)
            raise kind(f"the local cluster ended: {self._last_message()}")
        return found

    def _last_message(self) -> str:
        """What the child reported of its end, else the last line of its output, else its code."""
        assert self._child is not None
        assert self._link is not None
        text = b""
        with contextlib.suppress(OSError):
            self._link.setblocking(False)
            while chunk := self._link.recv(65536):
                text += chunk
        for line in reversed(text.splitlines()):
            with contextlib.suppress(ValueError):
                if message := json.loads(line).get("message"):
                    return str(message)
        lines = self._text().splitlines()
        code = f"its exit code is {self._child.returncode}."
        return lines[-1].removeprefix("raycluster: ").removeprefix("error: ") if lines else code

    def _text(self) -> str:
        if self._output is None:
            return ""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode("utf-8", "replace")

    @property
    def job_id(self) -> str:
        """The name that raycluster's commands take for it.  Raises UsageError before the start."""
        return record_of(self._where, super().job_id).path.name

    def logs(self, component: str = "", *, node: str = "", lines: int = 100) -> str:
        """The last lines of the cluster's output, or of a component: driver, raycluster, raylet, gcs.

        ``node``: head, worker-1 …, for raylet.  ``lines``: -1 gives all.
        """
        if component in ("raylet", "gcs"):
            return super().logs(component, node=node, lines=lines)
        ours = {"raycluster": True, "driver": False}.get(component)
        if component and ours is None:
            raise UsageError(f"{component!r} is no component; there are driver, raycluster, raylet and gcs.")
        text = self._text().splitlines(keepends=True)
        wanted = [line for line in text if ours is None or line.startswith("raycluster: ") == ours]
        return "".join(wanted if lines < 0 else wanted[len(wanted) - min(lines, len(wanted)) :])

    def _end(self) -> None:
        child, link = self._child, self._link
        if child is None or link is None:
            return
        with contextlib.suppress(OSError):
            link.setblocking(True)
            link.sendall(ParentLink.DONE)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if ended(child, self._stop_timeout_s):
                break
            self._tell(f"{self._title} did not end within {self._stop_timeout_s:g} s: {number.name}")
            child.send_signal(number)  # after SIGKILL of the keeper its supervisor ends all
        if not ended(child, KILL_WAIT_S):
            raise RayclusterError(
                f"{self._title} (process {child.pid}) was killed and has not ended: it hangs in a "
                "system call.",
                "A file system or a device may not respond.",
            )
        link.close()

    def _end_at_once(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
