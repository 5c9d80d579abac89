"""HTTPS: whose certificates are trusted, for which names, and that nothing is said to anybody else."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from gateway.config import ImagesConfig
from gateway.images.fetch import Fetcher
from gateway.values import Seconds

from .conftest import Origin
from .network import BODY, PARAM, FakeDns, answer, assert_unreachable, redirect

NAME = "good.example"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
SIGNED_WITH_SHA256, SIGNED_WITH_SHA1 = (bytes.fromhex(f"2a864886f70d0101{last}") for last in ("0b", "05"))


class Authority:
    """Signs certificates, into files of a folder. `trusting` is the context of a client that trusts it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = (
            self._builder("ours", self._key).add_extension(constraints, critical=True).sign(self._key, hashes.SHA256())
        )
        pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.trusting = ssl.create_default_context(cadata=pem)

    def context(
        self, *, name: str = NAME, age: timedelta = DAY, sha1: bool = False, self_signed: bool = False
    ) -> ssl.SSLContext:
        """A server's context, with a certificate for that name, valid for two days and `age` old."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = self._builder(name, key, age).add_extension(names, critical=False)
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        if sha1:
            certificate = self._signed_with_sha1(certificate)
        file = self._folder / "server.pem"
        private = serialization.PrivateFormat.PKCS8
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")  # it takes part in anything: refusing is the client's
        context.load_cert_chain(file)
        return context

    def _signed_with_sha1(self, certificate: x509.Certificate) -> x509.Certificate:
        """The library makes none any more: the names of the algorithm, as long as each other, are exchanged."""
        signed = certificate.tbs_certificate_bytes.replace(SIGNED_WITH_SHA256, SIGNED_WITH_SHA1)
        whole = certificate.public_bytes(serialization.Encoding.DER).replace(SIGNED_WITH_SHA256, SIGNED_WITH_SHA1)
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA1())
        return x509.load_der_x509_certificate(whole[: -len(signature)] + signature)

    @staticmethod
    def _builder(name: str, key: Key, age: timedelta = DAY) -> x509.CertificateBuilder:
        issuer, subject = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("ours", name))
        return (
            x509.CertificateBuilder()
            .issuer_name(issuer)
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - age)
            .not_valid_after(NOW - age + 2 * DAY)
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Ours, which the fetchers under test trust alone."""
    return Authority(tmp_path_factory.mktemp("authority"))


def settings(origin: Origin) -> ImagesConfig:
    """Opens that server, and soon gives up dialling what cannot be trusted."""
    return ImagesConfig(allowed_networks=("127.0.0.1/32",), allowed_ports=(origin.port,), connect_timeout=Seconds(2))


@asynccontextmanager
async def serving(context: ssl.SSLContext, authority: Authority) -> AsyncIterator[tuple[Origin, Fetcher]]:
    """A server with that context, and a fetcher to which it is known as `NAME` and as `other.example`."""
    async with Origin("127.0.0.1").running(context) as origin:
        origin.answers["/"] = answer()
        dns = FakeDns({NAME: [["127.0.0.1"]], "other.example": [["127.0.0.1"]]})
        async with Fetcher(settings(origin), lookup=dns, tls=authority.trusting) as fetcher:
            yield origin, fetcher


async def test_the_name_is_asked_for_and_proven(authority: Authority) -> None:
    """What is dialled is an address; what the server is asked for, and has to prove to be, is the name."""
    context, asked = authority.context(), []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with serving(context, authority) as (origin, fetcher):
        assert await fetcher.fetch(f"https://{NAME}:{origin.port}/", param=PARAM) == BODY
        assert asked == [NAME]
        await assert_unreachable(fetcher, f"https://other.example:{origin.port}/")
        await assert_unreachable(fetcher, f"https://127.0.0.1:{origin.port}/")
        assert len(origin.heads) == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"age": 3 * DAY}, id="expired"),
        pytest.param({"age": -DAY}, id="not yet valid"),
        pytest.param({"name": "other.example"}, id="for another name"),
        pytest.param({"name": "*.example"}, id="for a whole top-level domain, under another name"),
        pytest.param({"self_signed": True}, id="signed by itself"),
    ],
)
async def test_certificates_are_verified(authority: Authority, fault: dict[str, Any]) -> None:
    """One that does not hold is refused like any failure, before the request is sent."""
    async with serving(authority.context(**fault), authority) as (origin, fetcher):
        url = f"https://{NAME}:{origin.port}/"
        if fault.get("name") == "*.example":
            url = url.replace(NAME, f"www.{NAME}")
        error = await assert_unreachable(fetcher, url)
        assert isinstance(error.__cause__, aiohttp.ClientConnectorError)
        assert origin.heads == []


async def test_strangers_are_not_trusted(authority: Authority) -> None:
    """By default, it is the operating system that knows whom to trust."""
    context = authority.context()
    async with Origin("127.0.0.1").running(context) as origin:
        async with Fetcher(settings(origin), lookup=FakeDns({NAME: [["127.0.0.1"]]})) as fetcher:
            error = await assert_unreachable(fetcher, f"https://{NAME}:{origin.port}/")
        assert isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError)
        assert origin.heads == []


async def test_weak_signatures_are_refused(authority: Authority) -> None:
    """SHA-1 proves nothing any more."""
    async with serving(authority.context(sha1=True), authority) as (origin, fetcher):
        error = await assert_unreachable(fetcher, f"https://{NAME}:{origin.port}/")
        assert "too weak" in str(error.__cause__)
        assert origin.heads == []


async def test_old_versions_are_refused(authority: Authority) -> None:
    """Nothing below TLS 1.2 is spoken."""
    context = authority.context()
    with pytest.deprecated_call():
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1
    async with serving(context, authority) as (origin, fetcher):
        await assert_unreachable(fetcher, f"https://{NAME}:{origin.port}/")
        assert origin.heads == []


async def test_no_redirect_leads_out_of_encryption(authority: Authority) -> None:
    """What was asked for over HTTPS is not taken over HTTP."""
    async with serving(authority.context(), authority) as (origin, fetcher):
        origin.answers["/"] = redirect(f"http://{NAME}:{origin.port}/")
        error = await assert_unreachable(fetcher, f"https://{NAME}:{origin.port}/")
        assert "from https to http" in str(error.__cause__)
        assert origin.connections == 1


async def test_encryption_is_not_mistaken(authority: Authority) -> None:
    """HTTP on a port for HTTPS and HTTPS on a port for HTTP are failures like any other; only HTTP/1.1 is offered."""
    context = authority.context()
    context.set_alpn_protocols(["h2"])
    async with serving(context, authority) as (origin, fetcher):
        await assert_unreachable(fetcher, f"http://{NAME}:{origin.port}/")
        assert origin.heads == []
        assert await fetcher.fetch(f"https://{NAME}:{origin.port}/", param=PARAM) == BODY
