"""Certificates: what the development CA makes, and with what a node refuses to start."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from seamfill.errors import InvalidInput
from seamfill_coordinator.cli import main
from seamfill_coordinator.raft.certs import (
    RENEW_DAYS,
    VALID_DAYS,
    files_of,
    init_certificates,
    is_development,
)
from seamfill_coordinator.raft.credentials import Credentials, load_credentials

NOW = datetime.now(UTC)
"""OpenSSL has its own clock: certificates that a handshake accepts are valid really now."""


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    init_certificates(tmp_path / "certs", ["n1", "n2"], now=NOW)
    return tmp_path / "certs"


def load(
    directory: Path, node_id: str = "n1", *, prod: bool = False, now: datetime = NOW
) -> Credentials:
    return load_credentials(directory, node_id=node_id, refuse_development=prod, now=now)


def refusal(
    directory: Path, node_id: str = "n1", *, prod: bool = False, now: datetime = NOW
) -> str:
    """Return why the node does not start; every refusal names the flag."""
    with pytest.raises(InvalidInput) as refused:
        load(directory, node_id, prod=prod, now=now)
    assert refused.value.field == "certs"
    return refused.value.message


def everything(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["certs", "init", *map(str, arguments)])


# Making them


def test_what_is_made_can_be_used_by_every_node(certs: Path) -> None:
    for node_id in ("n1", "n2"):
        assert load(certs, node_id).expires.date() == (NOW + timedelta(days=VALID_DAYS)).date()


def test_keys_are_only_for_their_owner(certs: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in certs.glob("*.key")}
    assert modes == {"ca.key": 0o600, "n1.key": 0o600, "n2.key": 0o600}


def test_repeating_adds_missing_nodes_and_keeps_everything_else(certs: Path) -> None:
    before = everything(certs)
    written = init_certificates(certs, ["n2", "n3", "n3"], now=NOW)
    assert [path.name for path in written] == ["n3.key", "n3.crt"]
    assert {name: everything(certs)[name] for name in before} == before
    assert init_certificates(certs, ["n1", "n3"], now=NOW) == []


def test_a_certificate_that_ends_soon_is_made_again_by_the_same_ca(certs: Path) -> None:
    before = everything(certs)
    late = NOW + timedelta(days=VALID_DAYS - RENEW_DAYS, hours=1)
    written = init_certificates(certs, ["n1"], now=late)
    assert [path.name for path in written] == ["n1.key", "n1.crt"]
    after = everything(certs)
    assert after["n1.crt"] != before["n1.crt"]
    assert after["ca.crt"] == before["ca.crt"]


def test_a_crash_between_key_and_certificate_is_mended(certs: Path) -> None:
    (certs / "n1.crt").unlink()
    (certs / "n2.key").unlink()
    init_certificates(certs, ["n1", "n2"], now=NOW)
    load(certs, "n1")
    load(certs, "n2")


def test_an_operators_own_ca_is_not_extended(tmp_path: Path) -> None:
    own_certificates(tmp_path)
    with pytest.raises(InvalidInput, match="no development CA"):
        init_certificates(tmp_path, ["n2"], now=NOW)


def test_nodes_are_added_only_where_the_ca_was_made(certs: Path) -> None:
    (certs / "ca.key").unlink()
    with pytest.raises(InvalidInput, match=r"ca\.key is missing"):
        init_certificates(certs, ["n3"], now=NOW)


def test_a_ca_that_ends_before_its_nodes_would_is_refused(certs: Path) -> None:
    with pytest.raises(InvalidInput, match="make another CA"):
        init_certificates(certs, ["n3"], now=NOW + timedelta(days=3_000))


def test_a_foreign_nodes_certificate_is_not_replaced(certs: Path, tmp_path: Path) -> None:
    init_certificates(tmp_path / "other", ["n1"], now=NOW)
    (certs / "n1.crt").write_bytes((tmp_path / "other" / "n1.crt").read_bytes())
    with pytest.raises(InvalidInput, match="not from this directory's CA"):
        init_certificates(certs, ["n1"], now=NOW)


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "certs"
    names = ["ca.key", "ca.crt", "n1.key", "n1.crt", "n2.key", "n2.crt"]
    first = run("--dir", directory, "--node", "n1", "--node", "n2")
    assert first.stdout.splitlines() == [f"wrote {directory / name}" for name in names]
    again = run("--dir", directory, "--node", "n1")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "nothing written" in again.stderr
    assert "PRIVATE" not in first.output + again.output


@pytest.mark.parametrize("node", ["../n1", "", "ca", "n1,n2", "a/b"])
def test_the_command_refuses_what_is_no_nodes_id(tmp_path: Path, node: str) -> None:
    result = run("--dir", tmp_path / "certs", "--node", node)
    assert result.exit_code == 2
    assert "node: " in result.stderr
    assert not (tmp_path / "certs").exists()


def test_the_help_tells_how_long_certificates_live() -> None:
    text = " ".join(run("--help").stdout.split())
    assert f"valid for {VALID_DAYS} days" in text
    assert f"less than {RENEW_DAYS} days" in text


# Refusing them


def test_prod_refuses_the_development_ca_and_takes_another(certs: Path, tmp_path: Path) -> None:
    assert "is a development CA" in refusal(certs, prod=True)
    own = tmp_path / "own"
    own.mkdir()
    own_certificates(own)
    load(own, prod=True)
    bundle = (own / "ca.crt").read_bytes() + (certs / "ca.crt").read_bytes()
    (own / "ca.crt").write_bytes(bundle)
    assert "is a development CA" in refusal(own, prod=True)


@pytest.mark.parametrize("name", ["ca.crt", "n1.crt", "n1.key"])
def test_a_file_that_is_missing_or_no_pem_is_refused_by_name(certs: Path, name: str) -> None:
    (certs / name).write_text("hello")
    assert f"{name} holds no" in refusal(certs)
    (certs / name).unlink()
    assert f"{name} can not be read: No such file" in refusal(certs)
    (certs / name).mkdir()
    assert f"{name} can not be read" in refusal(certs)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_can_read_is_refused(certs: Path, mode: int) -> None:
    (certs / "n1.key").chmod(mode)
    assert f"n1.key is open to others (mode {mode:04o})" in refusal(certs)


def test_an_encrypted_key_is_refused_instead_of_waiting_for_a_password(certs: Path) -> None:
    path = certs / "n1.key"
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "n1.key is encrypted" in refusal(certs)


def test_a_certificate_outside_its_dates_is_refused(certs: Path) -> None:
    late = NOW + timedelta(days=VALID_DAYS, minutes=1)
    assert "n1.crt expired on " in refusal(certs, now=late)
    assert "n1.crt is not valid before " in refusal(certs, now=NOW - timedelta(hours=2))


def test_another_nodes_certificate_is_refused(certs: Path) -> None:
    (certs / "n1.crt").write_bytes((certs / "n2.crt").read_bytes())
    assert "n1.crt is for n2, not for node n1" in refusal(certs)


def test_a_key_of_another_certificate_is_refused(certs: Path) -> None:
    (certs / "n1.key").write_bytes((certs / "n2.key").read_bytes())
    assert "n1.crt and n1.key do not work together" in refusal(certs)


def test_a_certificate_of_another_ca_is_refused(certs: Path, tmp_path: Path) -> None:
    init_certificates(tmp_path / "other", ["n1"], now=NOW)
    (certs / "ca.crt").write_bytes((tmp_path / "other" / "ca.crt").read_bytes())
    assert "n1.crt is not accepted by ca.crt" in refusal(certs)


@pytest.mark.parametrize("role", ["SERVER_AUTH", "CLIENT_AUTH"])
def test_a_certificate_for_one_role_only_is_refused(tmp_path: Path, role: str) -> None:
    """A node is dialed by some peers and dials others."""
    usage = getattr(ExtendedKeyUsageOID, role)
    own_certificates(tmp_path, extension=x509.ExtendedKeyUsage([usage]))
    assert "n1.crt is not accepted by ca.crt" in refusal(tmp_path)


def test_the_names_are_the_alternative_ones_and_the_common_one_only_without_them(
    tmp_path: Path,
) -> None:
    own_certificates(tmp_path, common_name="n1")
    load(tmp_path)
    other = x509.SubjectAlternativeName([x509.DNSName("n2"), x509.DNSName("*")])
    own_certificates(tmp_path, common_name="n1", extension=other)
    assert "is for n2, *, not for node n1" in refusal(tmp_path)
    both = x509.SubjectAlternativeName([x509.DNSName("n7"), x509.DNSName("n1")])
    own_certificates(tmp_path, common_name="cluster", extension=both)
    load(tmp_path)


def test_no_refusal_shows_a_key(certs: Path) -> None:
    path = certs / "n1.key"
    marker = path.read_text().splitlines()[1][:20]
    path.write_text(path.read_text().replace("BEGIN", "BEGAN"))
    assert marker not in refusal(certs)


def own_certificates(
    directory: Path, *, common_name: str = "n1", extension: x509.ExtensionType | None = None
) -> None:
    """Make an operator's CA and a certificate for n1 as an operator might have them."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Our own CA")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    ca_constraints = x509.BasicConstraints(ca=True, path_length=None)
    ca = _signed(issuer, issuer, ca_key.public_key(), ca_key, ca_constraints)
    assert not is_development(ca)
    certificate = _signed(subject, issuer, key.public_key(), ca_key, extension)
    files = files_of(directory, "n1")
    files.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.touch(mode=0o600)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType | None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=90))
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256())
