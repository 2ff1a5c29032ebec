"""Single TCP ports of this node: whether a server could take one, and which process holds it."""

from __future__ import annotations

import errno
import os
import pwd
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from .proctree import PROC, Stat, read_stat


def tcp_socket() -> socket.socket:
    """A TCP socket whose wildcard address covers both families, where there are both."""
    if socket.has_ipv6:
        try:
            both = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            return both
        except OSError:
            pass
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def any_address(sock: socket.socket) -> str:
    return "::" if sock.family == socket.AF_INET6 else "0.0.0.0"


def port_error(port: int) -> OSError | None:
    """Why a server could not listen on this port of this node; None when it could."""
    sock = tcp_socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((any_address(sock), port))
        return None
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or sock.family == socket.AF_INET:
            return error
    finally:
        sock.close()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:  # IPv6 is switched off
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plain.bind(("0.0.0.0", port))
            return None
        except OSError as error:
            return error


def port_holder(port: int, proc: Path = PROC) -> str:
    """Which process has a TCP port, or at least which user's; empty when that cannot be seen from here.

    From /proc/self/net/tcp and tcp6 (local port, uid, inode), then the descriptors of the processes that this
    user may inspect.
    """
    inodes = _inodes(port, proc)
    for pid in _processes_with(inodes, proc):
        stat = read_stat(pid)
        return f"{stat.name if stat else 'a process'} (pid {pid})"
    for uid in inodes.values():
        try:
            return f"a process of user {pwd.getpwuid(uid).pw_name}"
        except KeyError:
            return f"a process of uid {uid}"
    return ""


def port_processes(port: int, proc: Path = PROC) -> list[Stat]:
    """The processes that have a TCP port, of those that this user may inspect."""
    return [stat for pid in _processes_with(_inodes(port, proc), proc) if (stat := read_stat(pid))]


def _inodes(port: int, proc: Path) -> dict[str, int]:
    """The sockets at a local TCP port, as links of descriptors show them, with the uid of each."""
    return {
        f"socket:[{parts[9]}]": int(parts[7])
        for parts in _tcp_rows(proc)
        if int(parts[1].rpartition(":")[2], 16) == port and parts[9] != "0"
    }


def _processes_with(inodes: Collection[str], proc: Path) -> Iterator[int]:
    for pid in (entry for entry in proc.iterdir() if inodes and entry.name.isdigit()):
        try:
            if any(os.readlink(fd) in inodes for fd in (pid / "fd").iterdir()):
                yield int(pid.name)
        except OSError:
            continue


def connected_users(port: int, proc: Path = PROC) -> set[int]:
    """The users (uid) whose processes on this node are connected to a TCP port of it.

    From /proc/self/net/tcp and tcp6, where a connection within the node has a row for either end.
    """
    return {
        int(uid)
        for _, _, remote, state, _, _, _, uid, *_ in _tcp_rows(proc)
        if state == "01" and int(remote.rpartition(":")[2], 16) == port  # 01: established
    }


def listening_users(port: int, proc: Path = PROC) -> set[int]:
    """The users (uid) whose processes listen on a TCP port of this node, at any of its addresses."""
    return {
        int(uid)
        for _, local, _, state, _, _, _, uid, *_ in _tcp_rows(proc)
        if state == "0A" and int(local.rpartition(":")[2], 16) == port  # 0A: listening
    }


def _tcp_rows(proc: Path) -> Iterator[list[str]]:
    """The words of each row of /proc/self/net/tcp and tcp6; none of a table that cannot be read."""
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / "self" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        yield from (line.split() for line in lines)


def first_ephemeral_port(proc: Path) -> int:
    """The first port that the kernel gives to outgoing connections (net.ipv4.ip_local_port_range)."""
    try:
        return int((proc / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
