"""Takes the place of one of a raylet's agents until a client needs it; then becomes it.

    python -I -S lazy_agent.py now -- COMMAND…                does not wait
    python -I -S lazy_agent.py gate FIFO -- COMMAND…          waits until something is written to FIFO
    python -I -S lazy_agent.py port HOST PORT -- COMMAND…     waits for the first connection to HOST:PORT

Ray starts two agents beside each raylet, 0.6 to 2 s of CPU and 80 MB each, at the very time at which the
driver starts.  Most clusters never ask them anything.  This process, 8 MB, holds their place: the raylet
watches its process id, which stays the same, since it is replaced by `exec`.

With `port` the listening socket is kept over the exec and given to the agent when it binds that port, so
that the agent serves the connection that started it and no client is refused.  It ends when stdin, a pipe,
ends: that is how a raylet tells its agents that it is gone.

It also watches the node's supervisor, before and after it becomes the agent: the supervisor holds the FIFO
``alive`` in the node's directory open.  When that ends, the supervisor was killed.  Then this process starts
the command in the file ``orphaned.json`` beside it, which clears the node unless the keeper does, and ends.
A raylet ends with its agents, so no Ray node outlives both its supervisor and its keeper.

Runs by its path, alone: nothing of the package is imported, so that it starts in 10 ms.  The node's
supervisor imports :func:`wake`.
"""

import os
import select
import socket
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would take longer to import than all the rest
    from typing import NoReturn

_FD = "RAYCLUSTER_LAZY_FD"
_PORT = "RAYCLUSTER_LAZY_PORT"
_ROOT = "RAYCLUSTER_NODE_ROOT"


def wait(ready: int) -> None:
    """Until ``ready`` can be read.  Ends the process when stdin or the supervisor ends."""
    poller = select.poll()
    poller.register(ready, select.POLLIN)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        poller.register(0, select.POLLIN)
    alive = watch_supervisor()
    if alive >= 0:
        poller.register(alive, 0)  # POLLHUP and POLLERR are always reported
    while True:
        for fd, _ in poller.poll():
            if fd == ready:
                return
            if fd == alive:
                orphaned()
            elif not os.read(0, 4096):
                sys.exit(0)


def watch_supervisor() -> int:
    """A descriptor that hangs up (POLLHUP) when the supervisor ends; -1 where there is none."""
    try:
        alive = os.open(os.environ[_ROOT] + "/alive", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (KeyError, OSError):
        return -1
    try:
        os.read(alive, 1)
    except BlockingIOError:
        return alive
    return orphaned()  # nobody holds it any more; poll would report only an end that comes later


def orphaned() -> "NoReturn":
    """The supervisor was killed: start what clears the node, and end, so that the raylet ends too."""
    import json

    try:
        with open(os.environ[_ROOT] + "/orphaned.json", encoding="utf-8") as file:
            command = json.load(file)["command"]
        # Not by fork, since an agent has gRPC's threads.  It is no descendant of the raylet once this ends.
        os.posix_spawn(command[0], command, os.environ, setsid=True)
    finally:
        os._exit(1)


def end_with_supervisor(alive: int) -> "NoReturn":
    """For a thread of the agent."""
    poller = select.poll()
    poller.register(alive, 0)
    poller.poll()
    orphaned()


def wake(gate: str) -> bool:
    """Start the command that waits behind a FIFO.  False when none waits there."""
    try:
        fd = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(fd, "wb", buffering=0) as fifo:
        fifo.write(b"go\n")
    return True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket as the agent itself would make it."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    server = socket.socket(family, kind, protocol)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(address)
    server.listen(128)
    return server


def become(command: list[str]) -> None:
    """Run a Python script (argv after its interpreter and options), with the kept socket if there is one."""
    import runpy
    import threading

    alive = watch_supervisor()
    if alive >= 0:
        threading.Thread(target=end_with_supervisor, args=(alive,), daemon=True).start()
    if _FD in os.environ:
        take_kept_socket(int(os.environ.pop(_FD)), int(os.environ.pop(_PORT)))
    sys.argv = command
    # As `python SCRIPT` does: the script's directory comes first.
    sys.path[0] = os.path.dirname(command[0])
    runpy.run_path(command[0], run_name="__main__")


def take_kept_socket(kept: int, port: int) -> None:
    """Whoever binds this port gets the socket that listens there already."""
    bind = socket.socket.bind

    def bind_or_take(self, address):  # type: ignore[no-untyped-def]
        if isinstance(address, tuple) and address[1] == port:
            os.dup2(kept, self.fileno(), inheritable=False)
            return
        bind(self, address)

    socket.socket.bind = bind_or_take  # type: ignore[method-assign]


def main(arguments: list[str]) -> None:
    how, *where = arguments[: arguments.index("--")]
    command = arguments[arguments.index("--") + 1 :]
    if how == "become":
        become(command)
        return
    if how == "gate":
        if not os.path.exists(where[0]):
            os.mkfifo(where[0], 0o600)
        # For reading and writing: opening does not block, and the end of a writer is no end of file.
        wait(os.open(where[0], os.O_RDWR | os.O_NONBLOCK))
    elif how == "port":
        server = listen(where[0], int(where[1]))
        wait(server.fileno())
        server.set_inheritable(True)
        os.environ.update({_FD: str(server.fileno()), _PORT: where[1]})
    # The interpreter's own options come before the script.
    script = next(i for i, part in enumerate(command) if i and not part.startswith("-"))
    command = [*command[:script], os.path.abspath(__file__), "become", "--", *command[script:]]
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
