"""A development CA: certificates for members of a cluster that is not production.

Owns the layout of a certificate directory and what a development certificate looks like. Must not
know how certificates are used (``tls.py``) or who asks for them (``certs_cli.py``, ``dev.py``).

A directory holds ``ca.crt`` and, for each node, ``<node id>.crt`` and ``<node id>.key``; where it
was made also ``ca.key``, which no node needs. An operator's own CA uses the same layout.

Invariants: a key is 0600 from the moment it exists; a key is on the disk before its certificate;
what is there and good is never written again; the CA says in its name that it is for development,
which the prod profile refuses.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from seamfill.errors import InvalidInput
from seamfill_coordinator.data_dir import DirectoryLock

__all__ = [
    "RENEW_DAYS",
    "VALID_DAYS",
    "CertificateFiles",
    "files_of",
    "init_certificates",
    "is_development",
]

VALID_DAYS: Final = 825
"""As long as common TLS libraries accept for certificates of a private CA."""
RENEW_DAYS: Final = 30
"""A certificate with less to go is made anew by ``init_certificates``."""

_CA_VALID_DAYS: Final = 3_650
_CLOCK_SKEW: Final = timedelta(hours=1)
"""Machines whose clocks are behind must accept a certificate that was made just now."""
_DEVELOPMENT: Final = "seamfill development, not for production"
_CA: Final = "ca"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """Where one node finds what it needs to be a peer."""

    ca: Path
    certificate: Path
    key: Path


def files_of(directory: Path, node_id: str) -> CertificateFiles:
    """Return where a certificate directory keeps the files of ``node_id``."""
    return CertificateFiles(
        ca=directory / f"{_CA}.crt",
        certificate=directory / f"{node_id}.crt",
        key=directory / f"{node_id}.key",
    )


def is_development(ca: x509.Certificate) -> bool:
    """Whether this CA was made by ``init_certificates``."""
    names = ca.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return any(name.value == _DEVELOPMENT for name in names)


def init_certificates(directory: Path, node_ids: Sequence[str], *, now: datetime) -> list[Path]:
    """Make what is missing or about to expire for these nodes; return the files written.

    Raises ``InvalidInput`` naming ``dir`` or ``node``, ``DataDirInUse``.
    """
    if _CA in node_ids:
        raise InvalidInput("node", f"{_CA} is the name of the CA's own files")
    try:
        lock = DirectoryLock(directory)
        try:
            ca, written = _ca(directory, now)
            for node_id in dict.fromkeys(node_ids):
                written += _node(directory, node_id, ca, now)
        finally:
            lock.release()
    except OSError as exc:
        raise InvalidInput("dir", f"{exc.filename or directory}: {exc.strerror}") from exc
    return written


@dataclass(frozen=True, slots=True)
class _Ca:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _ca(directory: Path, now: datetime) -> tuple[_Ca, list[Path]]:
    """Return the directory's CA, making one if there is none, and the files written for it."""
    certificate_file, key_file = directory / f"{_CA}.crt", directory / f"{_CA}.key"
    if not certificate_file.exists():
        # A key alone is what a crash left of an earlier try; nothing was signed with it.
        return _made_ca(certificate_file, key_file, now), [key_file, certificate_file]
    certificate = _read_certificate(certificate_file)
    if not is_development(certificate):
        raise InvalidInput("dir", f"{certificate_file} is no development CA; it can not add nodes")
    if not key_file.exists():
        raise InvalidInput("dir", f"{key_file} is missing; add nodes where the CA was made")
    if certificate.not_valid_after_utc <= now + timedelta(days=VALID_DAYS):
        raise InvalidInput(
            "dir",
            f"{certificate_file} ends on {certificate.not_valid_after_utc:%Y-%m-%d}, before its "
            "nodes' certificates would; make another CA in another directory",
        )
    key = _read_key(key_file)
    if certificate.public_key() != key.public_key():
        raise InvalidInput("dir", f"{key_file} is not the key of {certificate_file}")
    return _Ca(certificate, key), []


def _made_ca(certificate_file: Path, key_file: Path, now: datetime) -> _Ca:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("seamfill development CA")
    certificate = (
        _builder(name, name, key.public_key(), now, _CA_VALID_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(_identifier(key), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(key_file, key)
    _write_certificate(certificate_file, certificate)
    return _Ca(certificate, key)


def _node(directory: Path, node_id: str, ca: _Ca, now: datetime) -> list[Path]:
    files = files_of(directory, node_id)
    if _is_good(files, ca, now):
        return []
    key = ec.generate_private_key(ec.SECP256R1())
    both_roles = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name(node_id), ca.certificate.subject, key.public_key(), now, VALID_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both_roles), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(node_id)]), critical=False)
        .add_extension(_identifier(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False
        )
        .sign(ca.key, hashes.SHA256())
    )
    # In between, a crash leaves a key without its certificate, which the next run replaces.
    files.certificate.unlink(missing_ok=True)
    _write_key(files.key, key)
    _write_certificate(files.certificate, certificate)
    return [files.key, files.certificate]


def _is_good(files: CertificateFiles, ca: _Ca, now: datetime) -> bool:
    if not files.certificate.exists() or not files.key.exists():
        return False
    certificate = _read_certificate(files.certificate)
    try:
        certificate.verify_directly_issued_by(ca.certificate)
    except (ValueError, TypeError, InvalidSignature) as exc:
        raise InvalidInput("dir", f"{files.certificate} is not from this directory's CA") from exc
    return certificate.not_valid_after_utc > now + timedelta(days=RENEW_DAYS)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _DEVELOPMENT),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _identifier(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as exc:
        raise InvalidInput("dir", f"{path} is no certificate") from exc


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as exc:
        raise InvalidInput("dir", f"{path} is no key, or an encrypted one") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput("dir", f"{path} is not a key that this command makes")
    return key


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(path, data, mode=0o600)


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """Write a whole file or none; nobody else can read it before it has its mode."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
