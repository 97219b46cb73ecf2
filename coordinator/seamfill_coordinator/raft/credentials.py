"""What this node shows its peers, and whom it believes: its certificate files, checked.

Owns every reason for which a node must not start with the certificates it was given. Must not know
connections (``tls.py``) or how development certificates are made (``certs.py``).

Invariants: ``Credentials`` that exist work: a handshake of this node with itself succeeded with
them, in both roles. Every refusal is an ``InvalidInput`` for ``certs`` that names the file and what
is wrong with it, and never what is in a key. Both profiles check the same; prod also refuses a
development CA.
"""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from seamfill.errors import InvalidInput
from seamfill_coordinator.raft.certs import CertificateFiles, files_of, is_development

__all__ = ["Credentials", "load_credentials", "names_of"]

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_ROUND_TRIPS: Final = 4
"""A TLS 1.3 handshake needs two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Contexts for both ends of a connection between peers: TLS 1.3, both show a certificate."""

    accepting: ssl.SSLContext
    dialing: ssl.SSLContext
    expires: datetime


def load_credentials(
    directory: Path, *, node_id: str, refuse_development: bool, now: datetime
) -> Credentials:
    """Read and check the files of ``node_id`` in a certificate directory (``certs.py``).

    Raises ``InvalidInput`` for ``certs``.
    """
    files = files_of(directory, node_id)
    authorities = _certificates(files.ca)
    certificate = _certificates(files.certificate)[0]
    _check_key_file(files.key)
    _check_name(files.certificate, certificate, node_id)
    _check_dates(files.certificate, certificate, now)
    if refuse_development and any(is_development(ca) for ca in authorities):
        raise _refusal(files.ca, "is a development CA, which the prod profile does not trust")
    accepting = _context(ssl.PROTOCOL_TLS_SERVER, files)
    dialing = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    # The peers keep their connections for weeks; resuming sessions would only add state.
    accepting.num_tickets = 0
    _check_handshake(files, accepting, dialing)
    return Credentials(
        accepting=accepting, dialing=dialing, expires=certificate.not_valid_after_utc
    )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the nodes that this certificate proves: its DNS names, or if none its common name."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        names: list[str] = []
    else:
        names = extension.value.get_values_for_type(x509.DNSName)
    if names:
        return tuple(names)
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return tuple(str(name.value) for name in common)


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as exc:
        raise _refusal(path, "holds no certificate in PEM") from exc


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise _refusal(path, f"can not be read: {exc.strerror}") from exc


def _check_key_file(path: Path) -> None:
    data = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        raise _refusal(path, f"is open to others (mode {mode:04o}); chmod 600 it")
    try:
        serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise _refusal(path, "is encrypted, and nobody is there to type its password") from None
    except ValueError:
        # Not chained: the library's message may quote what it could not read.
        raise _refusal(path, "holds no private key in PEM") from None


def _check_name(path: Path, certificate: x509.Certificate, node_id: str) -> None:
    names = names_of(certificate)
    if node_id not in names:
        raise _refusal(path, f"is for {', '.join(names) or 'nobody'}, not for node {node_id}")


def _check_dates(path: Path, certificate: x509.Certificate, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise _refusal(path, f"is not valid before {certificate.not_valid_before_utc:%F %T} UTC")
    if now >= certificate.not_valid_after_utc:
        raise _refusal(path, f"expired on {certificate.not_valid_after_utc:%F %T} UTC")


def _context(side: int, files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The name is a node id, not a host, and is compared exactly (``TlsNetwork.proves``): OpenSSL
    # would let wildcards match and would read an id like 10.0.0.1 as an address.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=files.ca)
        context.load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as exc:
        reason = f"and {files.key.name} do not work together: {exc.reason}"
        raise _refusal(files.certificate, reason) from exc
    return context


def _check_handshake(
    files: CertificateFiles, accepting: ssl.SSLContext, dialing: ssl.SSLContext
) -> None:
    """Prove in memory that a peer with the same CA would accept this node, in either role."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = accepting.wrap_bio(to_server, to_client, server_side=True)
    client = dialing.wrap_bio(to_client, to_server)
    waiting: list[ssl.SSLObject] = [client, server]
    try:
        for _ in range(_ROUND_TRIPS):
            waiting = [end for end in waiting if not _has_shaken(end)]
    except ssl.SSLCertVerificationError as exc:
        raise _refusal(
            files.certificate, f"is not accepted by {files.ca.name}: {exc.verify_message}"
        ) from exc
    except ssl.SSLError as exc:
        raise _refusal(files.certificate, f"can not be used for TLS 1.3: {exc.reason}") from exc
    assert not waiting, "the handshake did not end"


def _has_shaken(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _refusal(path: Path, what: str) -> InvalidInput:
    return InvalidInput("certs", f"{path} {what}")
