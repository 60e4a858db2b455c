"""Whom a PACS client trusts, and what it does when a PACS is busy: against an HTTPS server of the tests' own."""

from __future__ import annotations

import base64
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import keyring
import keyring.backends.fail
import keyring.credentials
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from keyring.backend import KeyringBackend

from doselabel.cli import main
from doselabel.dicom import pacs as module
from doselabel.dicom.pacs import PASSWORD, TOKEN, USER, Pacs
from doselabel.errors import ServerError


def certificate(folder, *names):
    """A certificate that signs itself, and its key, in one PEM."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a hospital's own")])
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(made.public_bytes(form[0]) + key.private_bytes(*form))
    return file


class Busy(ThreadingHTTPServer):
    """Answers with the statuses that are left, then with an empty list; keeps who asked."""

    def __init__(self, certificate=None):
        self.asked, self.statuses = [], []
        super().__init__(("127.0.0.1", 0), Answer)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_port}/dicom-web"

    def handle_error(self, request, client_address):
        """A client that hangs up is what is tested."""


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers.get("Authorization"))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    started = []

    def start(certificate=None):
        started.append(Busy(certificate))
        return started[-1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def nothing_of_this_user(monkeypatch):
    for name in (USER, PASSWORD, TOKEN, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


LOOPBACK = x509.IPAddress(ip_address("127.0.0.1"))
DOCTOR = "Basic " + base64.b64encode(b"doctor:no-real-secret").decode()


def test_a_certificate_is_believed_when_its_authority_is_named(serve, tmp_path, monkeypatch, capsys):
    server = serve(file := certificate(tmp_path, LOOPBACK))
    monkeypatch.setenv(USER, "doctor")
    monkeypatch.setenv(PASSWORD, "no-real-secret")
    pull = ["pull", server.url, str(tmp_path / "out"), "--patient-id", "x"]
    assert main(pull) == 2
    said = capsys.readouterr().err
    assert "its certificate can't be trusted" in said
    assert "REQUESTS_CA_BUNDLE" in said
    assert server.asked == []  # neither password nor patient has left
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    assert main(pull) == 2
    assert "nothing with PatientID x" in capsys.readouterr().err
    assert server.asked == [DOCTOR]


def test_a_certificate_of_another_host_is_refused(serve, tmp_path, monkeypatch):
    server = serve(file := certificate(tmp_path, x509.DNSName("pacs.example")))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    with pytest.raises(ServerError, match="can't be trusted"):
        Pacs(server.url).instances(PatientID="x")
    assert server.asked == []


def test_a_busy_pacs_is_asked_again_and_a_refusal_is_not(serve, monkeypatch):
    server, waits = serve(), []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    server.statuses = [503, 429]
    assert Pacs(server.url, {TOKEN: "t"}).instances(PatientID="x") == []
    assert waits == [1.0, 2.0]
    assert server.asked == ["Bearer t"] * 3
    server.statuses = [503] * 9
    with pytest.raises(ServerError, match="HTTP 503"):
        Pacs(server.url, {TOKEN: "t"}).instances(PatientID="x")
    assert waits == [1.0, 2.0, 1.0, 2.0, 4.0]
    server.statuses = [400, 503]
    with pytest.raises(ServerError, match="HTTP 400"):
        Pacs(server.url, {TOKEN: "t"}).instances(PatientID="x")
    assert server.statuses == [503]


class Kept(KeyringBackend):
    """The simplest of keyrings: it gives a password to who knows the user."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.kept = {}

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def get_password(self, service, username):
        return self.kept.get((service, username))


class Whole(Kept):
    """One that knows the user, too, as those of Windows, macOS and desktops do."""

    def get_credential(self, service, username):
        users = [user for of, user in self.kept if of == service and username in (None, user)]
        return keyring.credentials.SimpleCredential(users[0], self.kept[service, users[0]]) if users else None


@pytest.fixture
def keep():
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


@pytest.mark.parametrize(
    ("backend", "environ", "told"),
    [
        (Kept, {USER: "doctor"}, DOCTOR),
        (Kept, {}, None),
        (Whole, {}, DOCTOR),
        (Whole, {TOKEN: "t"}, "Bearer t"),  # the environment counts more
        (keyring.backends.fail.Keyring, {USER: "doctor"}, "Basic " + base64.b64encode(b"doctor:").decode()),
    ],
)
def test_without_an_environment_the_keyring_says_who_we_are(serve, keep, backend, environ, told):
    server = serve()
    keep(backend())
    if backend is not keyring.backends.fail.Keyring:
        keyring.set_password(server.url, "doctor", "no-real-secret")  # keyring set URL doctor
        keyring.set_password("https://other.example", "nobody", "another")
    Pacs(f"{server.url}/", environ).instances(PatientID="x")
    assert server.asked == [told]
