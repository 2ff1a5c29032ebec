"""Keys made by the real openssl, and what they let in."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.rayproc.health import HealthChannel, frame
from raycluster_cli.rayproc.plan import TlsFiles
from raycluster_cli.rayproc.tls import client_context, files_in, make_authority, make_certificate
from raycluster_cli.system.process import Reaper
from tests.unit.rayproc.test_health import SERVING, answering, data

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes keys with openssl")


def run(scene: Callable[[Reaper], Awaitable[None]]) -> None:
    async def within() -> None:
        reaper = Reaper()
        reaper.attach(asyncio.get_running_loop())
        await asyncio.wait_for(scene(reaper), 60)

    asyncio.run(within())


def path_env() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


async def node_files(authority: str, directory: Path, reaper: Reaper) -> TlsFiles:
    return await make_certificate(
        authority, directory, host="n1", ip="127.0.0.1", env=path_env(), reaper=reaper
    )


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Of a server that wants the client's certificate, as Ray does."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.load_cert_chain(files.cert, files.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    return context


async def connects(server: TlsFiles, client: ssl.SSLContext) -> bool:
    """Whether a server and this client agree."""
    context = server_context(server)

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    try:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        line = await reader.readline()
        writer.close()
        return line == b"hello\n"
    except (ssl.SSLError, ConnectionError):
        return False
    finally:
        listener.close()


@needs_openssl
def test_the_health_check_over_tls(tmp_path: Path) -> None:
    async def scene(reaper: Reaper) -> None:
        ours, theirs = [await make_authority(tmp_path / "tls", path_env(), reaper) for _ in range(2)]
        one, two = [await node_files(ours, tmp_path / name, reaper) for name in ("one", "two")]
        stranger = await node_files(theirs, tmp_path / "three", reaper)
        connections: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.append(writer)
            await answering(data(SERVING), extra=frame(6, 0, 0, b"12345678") * 3000)(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(one))
        port = server.sockets[0].getsockname()[1]

        async def connect(files: TlsFiles) -> HealthChannel:
            return await HealthChannel.connect("127.0.0.1", port, timeout_s=20, context=client_context(files))

        channel = await connect(two)
        assert [await channel.check(20.0) for _ in range(3)] == [True] * 3
        for writer in connections:
            writer.close()
        assert await channel.closed_within(20.0)
        assert not await channel.check(20.0)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(stranger)
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await connect(two)

    run(scene)


@needs_openssl
def test_nodes_of_one_authority_accept_each_other_and_no_one_else(tmp_path: Path) -> None:
    async def scene(reaper: Reaper) -> None:
        ours, theirs = [await make_authority(tmp_path / "tls", path_env(), reaper) for _ in range(2)]
        assert not (tmp_path / "tls").exists()
        one, two = [await node_files(ours, tmp_path / name, reaper) for name in ("one", "two")]
        stranger = await node_files(theirs, tmp_path / "three", reaper)
        assert await connects(one, client_context(two))
        assert not await connects(one, client_context(stranger))
        assert not await connects(one, ssl.create_default_context(cafile=one.ca))

    run(scene)


@needs_openssl
def test_the_authoritys_key_does_not_stay_on_the_node(tmp_path: Path) -> None:
    async def scene(reaper: Reaper) -> None:
        authority = await make_authority(tmp_path / "tls", path_env(), reaper)
        files = await node_files(authority, tmp_path / "tls", reaper)
        assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
        assert "PRIVATE KEY" in authority
        key = authority[: authority.index("-----BEGIN CERTIFICATE")]
        for path in (tmp_path / "tls").iterdir():
            if path.is_file():
                assert key.strip() not in path.read_text()
        assert "PRIVATE KEY" not in (tmp_path / "tls" / "ca.pem").read_text()
        assert files.ca == str(tmp_path / "tls" / "ca.pem")
        again = await node_files(authority, tmp_path / "tls", reaper)  # a second start of the node
        assert again == files

    run(scene)


def test_without_openssl_the_option_is_named(tmp_path: Path) -> None:
    async def scene(reaper: Reaper) -> None:
        with pytest.raises(UsageError, match=r"--tls needs the program `openssl`"):
            await make_authority(tmp_path / "tls", {"PATH": str(tmp_path)}, reaper)

    run(scene)


def test_what_a_failing_openssl_prints_is_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "openssl").write_text("#!/bin/sh\necho one >&2; echo unknown option -newkey >&2; exit 3\n")
    (tmp_path / "openssl").chmod(0o755)

    async def scene(reaper: Reaper) -> None:
        with pytest.raises(
            RayclusterError, match="ended with 3; it printed: unknown option -newkey"
        ) as caught:
            await make_authority(tmp_path / "tls", {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, reaper)
        assert "OpenSSL 1.1.1" in caught.value.hint

    run(scene)


@pytest.mark.parametrize("on", ["1", "true", "True"])
def test_the_files_of_a_client_are_named_by_its_environment(on: str) -> None:
    env = {
        "RAY_USE_TLS": on,
        "RAY_TLS_SERVER_CERT": "/c",
        "RAY_TLS_SERVER_KEY": "/k",
        "RAY_TLS_CA_CERT": "/a",
    }
    assert files_in(env) == TlsFiles("/c", "/k", "/a")
    assert files_in({**env, "RAY_USE_TLS": "0"}) is None
    assert files_in({}) is None
