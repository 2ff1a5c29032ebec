"""Takes the place of one of a raylet's agents until a client needs it; then becomes it.

    python -I -S lazy_agent.py now -- COMMAND…                does not wait
    python -I -S lazy_agent.py port HOST PORT SOCKET -- COMMAND…   waits for the first request to HOST:PORT
    python -I -S lazy_agent.py socket FD PORT NICE -- COMMAND…     does not wait; its parent's socket listens

Ray starts two agents beside each raylet, 0.6 to 2 s of CPU and 80 MB each, at the very time at which the
driver starts.  Most clusters never ask them anything.  A shell holds their place until something connects
(node.stand_ins), then this process, 8 MB: the raylet watches its process id, which stays the same, since it
is replaced by `exec`.

With `port` only a request that carries the cluster's token starts the agent, as only such a one would be
served by it; others get 401.  (Whose process connects can be read in /proc/net/tcp, but not for a connection
from another node, where the dashboard may be.)  The listening socket comes from the supervisor, through the
Unix socket SOCKET.  It and the connection are kept over the exec: the agent gets the socket when it binds
that port, and serves the request that started it.

It ends when stdin, a pipe, ends: that is how a raylet tells its agents that it is gone.

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
import time
from _operator import _compare_digest  # hmac, which has it too, imports for milliseconds

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would take longer to import than all the rest
    from typing import NoReturn

_FD = "RAYCLUSTER_LAZY_FD"
_PORT = "RAYCLUSTER_LAZY_PORT"
_CLIENTS = "RAYCLUSTER_LAZY_CLIENT_FDS"
_ROOT = "RAYCLUSTER_NODE_ROOT"

#: The most connections that may wait for their request at a time, and how long each may.
MAX_CONNECTIONS, REQUEST_WITHIN_S = 32, 10.0

#: Headers longer than this are refused.
MAX_HEADERS_BYTES = 16384

REFUSAL = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Watch:
    """Waits for what can be read, and ends the process when stdin or the supervisor ends."""

    def __init__(self) -> None:
        self.poller = select.poll()
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            self.poller.register(0, select.POLLIN)
        self.alive = watch_supervisor()
        if self.alive >= 0:
            self.poller.register(self.alive, 0)  # POLLHUP and POLLERR are always reported

    def ready(self, timeout_s: "float | None" = None) -> list[int]:
        """The descriptors of others that can be read; empty after ``timeout_s``, and sometimes before."""
        found = []
        for fd, _ in self.poller.poll(None if timeout_s is None else timeout_s * 1000):
            if fd == self.alive:
                orphaned()
            elif fd != 0:
                found.append(fd)
            elif not os.read(0, 4096):
                sys.exit(0)
        return found


def wait_for_clients(server: socket.socket) -> list[socket.socket]:
    """The connections that there are once a request has come that the agent would serve.

    None of their bytes have been taken.  The agent judges the others itself: a raylet may send several
    requests at once, and would fail if one were dropped.
    """
    watch = Watch()
    watch.poller.register(server, select.POLLIN)
    server.setblocking(False)
    connections: dict[int, tuple[socket.socket, float]] = {}

    def close(fd: int) -> None:
        watch.poller.unregister(fd)
        connections.pop(fd)[0].close()

    while True:
        until = min((until for _, until in connections.values()), default=None)
        ready = watch.ready(None if until is None else max(until - time.monotonic(), 0.0))
        for fd in ready:
            if fd == server.fileno():
                try:
                    client, _ = server.accept()
                except OSError:
                    continue  # it has gone again
                client.setblocking(False)
                if len(connections) >= MAX_CONNECTIONS:
                    close(next(iter(connections)))
                connections[client.fileno()] = (client, time.monotonic() + REQUEST_WITHIN_S)
                watch.poller.register(client, select.POLLIN)
            elif fd in connections:
                client = connections[fd][0]
                verdict = judge(client)
                if verdict is None:
                    continue
                if verdict:
                    return [one for one, _ in connections.values()]
                close(fd)
        now = time.monotonic()
        for fd in [fd for fd, (_, until) in connections.items() if until <= now]:
            close(fd)


def judge(client: socket.socket) -> "bool | None":
    """Whether a client's request is one for the agent; None while it is not all there."""
    try:
        data = client.recv(MAX_HEADERS_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return False
    headers, complete, _ = data.partition(b"\r\n\r\n")
    if complete:
        if has_token(headers, expected_token()):
            return True
        try:
            client.recv(len(data))  # bytes that nobody has read would make close() drop the answer
            client.send(REFUSAL)
        except OSError:
            pass  # it has gone
        return False
    if len(data) >= MAX_HEADERS_BYTES or len(data) < client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT):
        return False  # too long, or it ended before it was complete
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(data) + 1)
    return None


def expected_token() -> "bytes | None":
    """The cluster's token; None where none is asked for (--no-auth)."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if os.environ.get("RAY_AUTH_MODE") != "token" or not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read().strip()
    except OSError:
        return b""  # the node ends


def has_token(headers: bytes, token: "bytes | None") -> bool:
    """Whether Ray's agents would serve a request with these headers."""
    if token is None:
        return True
    for line in headers.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        known = name.strip().lower() in (b"authorization", b"x-ray-authorization")
        if known and token and _compare_digest(value.strip(), b"Bearer " + token):
            return True
    return False


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
    """Start the command that waits behind a FIFO, or will.  False where nobody holds the FIFO."""
    try:
        fd = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(fd, "wb", buffering=0) as fifo:
        fifo.write(b"go\n")
    return True


def taken_over(path: str) -> "socket.socket | None":
    """The listening socket that the supervisor hands over; None where nobody hands one over.

    A supervisor that is stopped (SIGSTOP) does so once it goes on; until then the port is taken.
    """
    watch = Watch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as supervisor:
        try:
            supervisor.connect(path)
            watch.poller.register(supervisor, select.POLLIN)
            while not watch.ready():
                pass
            fds = socket.recv_fds(supervisor, 1, 1)[1]
        except OSError:
            return None
    return socket.socket(fileno=fds[0]) if fds else None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket as the agent itself would make it."""
    family, kind, protocol, _, address = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)[0]
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
        server = socket.socket(fileno=int(os.environ.pop(_FD)))
        for fd in os.environ.pop(_CLIENTS, "").split():
            client = socket.socket(fileno=int(fd))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            address = server.getsockname()[:2]
            threading.Thread(target=pass_on, args=(client, address), daemon=True).start()
        take_kept_socket(server.detach(), int(os.environ.pop(_PORT)))
    sys.argv = command
    # As `python SCRIPT` does: the script's directory comes first.
    sys.path[0] = os.path.dirname(command[0])
    runpy.run_path(command[0], run_name="__main__")


def pass_on(client: socket.socket, address: "tuple[str, int]") -> None:
    """All that a connection brings to the agent, and its answers, until both have ended.

    The agent accepts connections at its socket only, and may not accept any yet.
    """
    import threading

    try:
        agent = socket.create_connection(address)
    except OSError:
        client.close()
        return
    back = threading.Thread(target=copy, args=(agent, client), daemon=True)
    back.start()
    copy(client, agent)
    back.join()
    client.close()
    agent.close()


def copy(source: socket.socket, target: socket.socket) -> None:
    """What a connection brings, until it ends."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):  # one of them has gone, and the other is told
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


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
    if how in ("now", "port"):
        Watch().ready(0)  # the gate also opens when the supervisor or the raylet has ended
    if how == "port":
        server = taken_over(where[2]) or listen(where[0], int(where[1]))
        clients = wait_for_clients(server)
        for one in (server, *clients):
            one.setblocking(True)
            one.set_inheritable(True)
        os.environ[_CLIENTS] = " ".join(str(one.fileno()) for one in clients)
        os.environ.update({_FD: str(server.fileno()), _PORT: where[1]})
    elif how == "socket":
        os.nice(int(where[2]))
        os.environ.update({_FD: where[0], _PORT: where[1]})
    # The interpreter's own options come before the script.
    script = next(i for i, part in enumerate(command) if i and not part.startswith("-"))
    command = [*command[:script], os.path.abspath(__file__), "become", "--", *command[script:]]
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
