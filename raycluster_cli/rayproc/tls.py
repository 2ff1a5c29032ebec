"""TLS between the nodes of a cluster (--tls): an authority of the cluster's own, a certificate for each node.

Ray checks both ends of every gRPC connection, and the address of the server, against one authority
(RAY_USE_TLS, RAY_TLS_*).  The head makes the authority: its certificate and key are one PEM text, which
is in the record beside the token and as secret as that.  Each node makes its own key, which never leaves
the node, and signs a certificate for its own address with the authority's.

Made by the `openssl` program: see docs/decisions/0007.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.errors import RayclusterError, UsageError
from ..system.process import Reaper
from ..system.removal import remove_tree
from ..system.waiting import find_within
from .plan import TlsFiles

if TYPE_CHECKING:
    import ssl

#: How long one call of openssl may take; it needs some milliseconds, more where the kernel lacks entropy.
OPENSSL_TIMEOUT_S = 30.0

#: Certificates begin a day back, for clocks that differ, and outlast any job.
BEGIN_S, END_S = -86400, 400 * 86400

_CERTIFICATE = "-----BEGIN CERTIFICATE-----"

_CONFIGURATION = """\
[ca]
default_ca = own
[own]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = none
prompt = no
[none]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[node]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


def alternative_names(host: str, ip: str) -> str:
    """The names and addresses that a node's certificate is for, in openssl's syntax.

    >>> alternative_names("gpu01", "10.1.0.7")
    'IP:10.1.0.7, IP:127.0.0.1, IP:::1, DNS:gpu01, DNS:localhost'
    """
    return ", ".join(dict.fromkeys([f"IP:{ip}", "IP:127.0.0.1", "IP:::1", f"DNS:{host}", "DNS:localhost"]))


def key_command(name: str, subject: str) -> list[str]:
    """A new key and a request for a certificate: NAME.key, NAME.req.

    >>> key_command("node", "n1")[-1]
    'node.req'
    """
    return [
        *("openssl", "req", "-new", "-config", "openssl.cnf", "-newkey", "ec"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={subject}"),
        *("-keyout", f"{name}.key", "-out", f"{name}.req"),
    ]


def sign_command(name: str, extensions: str, signer: Sequence[str], now: float) -> list[str]:
    """A certificate NAME.pem for the request NAME.req."""
    begin, end = (time.strftime("%Y%m%d%H%M%SZ", time.gmtime(now + s)) for s in (BEGIN_S, END_S))
    return [
        *("openssl", "ca", "-batch", "-notext", "-config", "openssl.cnf", "-extensions", extensions),
        *("-startdate", begin, "-enddate", end, *signer),
        *("-in", f"{name}.req", "-out", f"{name}.pem"),
    ]


async def make_authority(directory: Path, env: Mapping[str, str], reaper: Reaper) -> str:
    """A new authority, key and certificate in PEM.  Works in ``directory``, which it removes again.

    Raises RayclusterError, UsageError without `openssl`.
    """
    _prepare(directory, "DNS:localhost")
    signer = ("-selfsign", "-keyfile", "authority.key")
    await _openssl(key_command("authority", "raycluster authority"), directory, env, reaper)
    await _openssl(sign_command("authority", "authority", signer, time.time()), directory, env, reaper)
    text = (directory / "authority.key").read_text() + (directory / "authority.pem").read_text()
    _remove(directory)
    return text


async def make_certificate(
    authority: str, directory: Path, *, host: str, ip: str, env: Mapping[str, str], reaper: Reaper
) -> TlsFiles:
    """This node's key and certificate, signed by the authority.  Raises RayclusterError.

    In ``directory`` are then node.key, node.pem and ca.pem; the authority's key is not.
    """
    _prepare(directory, alternative_names(host, ip))
    ca, key, cert = (directory / name for name in ("ca.pem", "node.key", "node.pem"))
    ca.write_text(authority[authority.index(_CERTIFICATE) :])
    secret = directory / "authority.key"
    secret.touch(mode=0o600)
    secret.write_text(authority)
    try:
        await _openssl(key_command("node", "raycluster node"), directory, env, reaper)
        signer = ("-cert", "ca.pem", "-keyfile", secret.name)
        await _openssl(sign_command("node", "node", signer, time.time()), directory, env, reaper)
    finally:
        secret.unlink()
    return TlsFiles(cert=str(cert), key=str(key), ca=str(ca))


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For a client of the cluster's gRPC ports: shows our certificate, checks theirs."""
    import ssl  # 1.3 MB, for those who use it

    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.cert, files.key)
    return context


def files_in(env: Mapping[str, str]) -> TlsFiles | None:
    """The files that a client's environment names; None where TLS is off.

    >>> files_in({"RAY_USE_TLS": "0"}) is None
    True
    """
    if env.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
    cert, key, ca = (env.get(name, "") for name in names)
    return TlsFiles(cert, key, ca)


def _prepare(directory: Path, names: str) -> None:
    _remove(directory)
    directory.mkdir(mode=0o700)
    (directory / "openssl.cnf").write_text(_CONFIGURATION.format(names=names))
    (directory / "index").touch()


def _remove(directory: Path) -> None:
    if left := remove_tree(directory):
        raise RayclusterError(f"the keys of a cluster before this one could not be removed: {left[0]}.")


async def _openssl(command: list[str], directory: Path, env: Mapping[str, str], reaper: Reaper) -> None:
    """Run one openssl in ``directory``.  Not by subprocess.run: every child is the reaper's."""
    program = await find_within("openssl", env)
    if program is None:
        raise UsageError(
            "--tls needs the program `openssl`, which makes the cluster's keys; it was not found in PATH.",
            "Install it on the nodes, or leave --tls out: connections without the token are refused anyway.",
        )
    log = directory / "log"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = reaper.spawn(
            [program, *command[1:]],
            "openssl",
            cwd=directory,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
        )
    finally:
        os.close(fd)
    code = await child.stop(OPENSSL_TIMEOUT_S, ask=0)
    if code != 0:
        printed = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        ended = f"ended with {code}" if code is not None else f"did not end within {OPENSSL_TIMEOUT_S:g} s"
        raise RayclusterError(
            f"the keys for --tls could not be made: `{' '.join(command[:2])}` {ended}; "
            f"it printed: {printed[0]}",
            "OpenSSL 1.1.1 or newer is needed.",
        )
