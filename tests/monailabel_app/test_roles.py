"""Every route of a real server with users and TLS: without a token, with a wrong one, and with each role."""

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from doselabel.errors import ServerError
from monailabel_app.conf import STATE, Conf
from monailabel_app.launch import Tls, running
from monailabel_app.users import Users

PASSWORDS = {"annotator": "ann's password", "reviewer": "rev's password", "admin": "adm's password"}
ANYBODY = {("GET", "/"), ("GET", "/health"), ("GET", "/auth/"), ("GET", "/favicon.ico")}
LOGIN = ("POST", "/auth/token")
REVIEWERS = {
    ("PUT", "/doselabel/labels/{image_id}/{version}/review"),
    ("PUT", "/doselabel/labels/{image_id}/reopen"),
    ("GET", "/doselabel/export"),
    ("PUT", "/datastore/label/info"),
    ("PUT", "/datastore/updatelabelinfo"),
    ("POST", "/train/"),  # by an option of this server
    ("POST", "/train/{model}"),
    ("DELETE", "/train/"),
}
ADMINS = {
    ("POST", "/batch/infer/{model}"),
    ("DELETE", "/batch/infer"),
    ("DELETE", "/datastore/label"),
    ("GET", "/model/{model}"),
    ("GET", "/model/info/{model}"),
    ("GET", "/logs/"),
    ("POST", "/doselabel/model/rollback"),
    ("POST", "/doselabel/active/score"),
}
CLOSED = {
    ("POST", "/reload"),
    ("GET", "/proxy/dicom/wado/x"),
    ("POST", "/infer/wsi/x"),
    ("GET", "/ohif/index.html"),
}


@pytest.fixture(scope="module")
def tls(tmp_path_factory) -> Tls:
    """A certificate for 127.0.0.1 that vouches for itself."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return Tls(folder / "cert.pem", folder / "key.pem")


def test_a_certificate_without_its_key_is_refused_before_the_start(tls, tmp_path):
    other = ec.generate_private_key(ec.SECP256R1())
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "other.pem").write_bytes(other.private_bytes(serialization.Encoding.PEM, *private))
    for key in (tmp_path / "other.pem", tmp_path / "nothing.pem"):
        with pytest.raises(ServerError, match="can't be used for TLS"):
            Tls(tls.certificate, key).check()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, boxes, tls) -> Iterator[tuple[str, Path]]:
    """A server with one patient and three users."""
    root = tmp_path_factory.mktemp("guarded")
    boxes.make_patient(root / "P-001", "P-001", times_h=(4.0, 24.0, 72.0))
    users = Users(root / STATE)
    for role, password in PASSWORDS.items():
        users.put(f"the.{role}", password, role)
    with running(root, origins=("https://viewer.example",), tls=tls, conf={"train_role": "reviewer"}) as server:
        yield server.url, root


@pytest.fixture
def client(guarded, tls) -> Iterator[httpx.Client]:
    trusted = ssl.create_default_context(cafile=str(tls.certificate))
    with httpx.Client(base_url=guarded[0], timeout=600, trust_env=False, verify=trusted) as client:
        yield client


def login(client: httpx.Client, role: str) -> dict[str, str]:
    form = {"username": f"the.{role}", "password": PASSWORDS[role], "grant_type": "password"}
    token = client.post("/auth/token", data=form).json()
    return {"Authorization": f"{token['token_type']} {token['access_token']}"}


def all_routes(client: httpx.Client) -> set[tuple[str, str]]:
    paths = client.get("/openapi.json", headers=login(client, "annotator")).json()["paths"]
    found = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert {("POST", "/infer/{model}"), ("PUT", "/datastore/label"), ("POST", "/jobs/{task}")} <= found
    return found | {("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/favicon.ico"), ("GET", "/")} | CLOSED


def ask(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    for name in ("model", "image_id", "patient_id", "task", "name", "file", "strategy", "method", "session_id"):
        path = path.replace(f"{{{name}}}", "x").replace(f"{{{name}:path}}", "x")
    path = path.replace("{version}", "1").replace("{time_point}", "0")
    body = {"json": []} if method in ("POST", "PUT") else {}  # nothing that a route would act on
    return client.request(method, path, headers=headers, **body)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp4"}])
def test_without_a_good_token_nothing_is_answered_but_how_to_log_in(client, headers):
    for method, path in sorted(all_routes(client) - {LOGIN}):
        reply = ask(client, method, path, headers)
        if (method, path) in ANYBODY:
            assert reply.status_code not in (401, 403), (method, path)
        else:
            assert reply.status_code == 401, (method, path)
            if method != "HEAD":
                assert reply.json()["code"] == "login", (method, path)


@pytest.mark.parametrize("role", PASSWORDS)
def test_a_role_opens_what_is_its_own_and_what_is_below_it(client, role):
    headers = login(client, role)
    refused = {"annotator": REVIEWERS | ADMINS, "reviewer": ADMINS, "admin": set()}[role]
    found = all_routes(client)
    assert found >= REVIEWERS | ADMINS, "the tables above name what there is"
    for method, path in sorted(found - {LOGIN}):
        reply = ask(client, method, path, headers)
        assert reply.status_code != 401, (method, path)
        by_role = reply.status_code == 403 and method != "HEAD" and reply.json().get("code") == "role"
        assert by_role == ((method, path) in refused), (method, path, reply.status_code)
        if (method, path) in CLOSED:
            assert reply.status_code in (404, 405), (method, path)


def test_training_by_a_job_asks_for_the_same_role_which_is_the_admin_s_unless_told_otherwise(client):
    assert Conf("").train_role == "admin"
    reply = client.post("/jobs/train", json={}, headers=login(client, "annotator"))
    assert (reply.status_code, reply.json()["code"]) == (403, "role")
    reply = client.post("/jobs/train", json={}, headers=login(client, "reviewer"))
    assert reply.status_code == 202
    client.delete(f"/jobs/{reply.json()['id']}", headers=login(client, "reviewer")).raise_for_status()


def test_a_wrong_password_is_told_apart_from_nothing(client):
    for name in ("the.admin", "nobody"):
        reply = client.post("/auth/token", data={"username": name, "password": "guess"})
        assert reply.status_code == 401
        assert reply.json()["message"] == "Name and password do not fit."


def test_monai_label_s_own_client_logs_in_as_3d_slicer_does(guarded, label_file, tmp_path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from monailabel.client.client import MONAILabelClient

    client = MONAILabelClient(guarded[0], tmpdir=str(tmp_path), client_id="somebody else")
    assert client.auth_enabled()
    client.update_auth(client.auth_token("the.annotator", PASSWORDS["annotator"]))
    assert client.auth_valid_token()
    assert client.info()["models"]
    client.save_label("P-001__ct", str(label_file), params={"author": "forged"})
    final = client.datastore()["objects"]["P-001__ct"]["labels"]["final"]["info"]
    assert final["author"] == "the.annotator", "who logged in, not who the request says"


def test_a_viewer_of_a_named_origin_asks_first_and_is_answered(client):
    origin = {"Origin": "https://viewer.example"}
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    preflight = client.options("/infer/kidney_liver", headers=origin | wanted)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://viewer.example"
    reply = client.get("/info/", headers=origin | login(client, "annotator"))
    assert reply.headers["access-control-allow-origin"] == "https://viewer.example"
    assert client.get("/info/", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_user_that_is_removed_is_out_at_once(client, guarded):
    users = Users(guarded[1] / STATE)
    users.put("leaver", "leaver's password", "annotator")
    headers = {"Authorization": f"Bearer {users.token('leaver')}"}
    assert client.get("/info/", headers=headers).status_code == 200
    users.remove("leaver")
    assert client.get("/info/", headers=headers).status_code == 401


def test_where_files_lie_is_told_on_the_server_s_own_machine_only(client):
    """3D Slicer opens a path it is told when it finds a file there: on its own machine that is another patient's."""
    headers = login(client, "annotator")
    elsewhere = headers | {"X-Forwarded-For": "10.0.0.9"}
    for ask in (
        lambda h: client.get("/datastore/image/info", params={"image": "P-001__ct"}, headers=h).json(),
        lambda h: client.post("/activelearning/first", json={}, headers=h).json(),
        lambda h: client.get("/datastore/?output=all", headers=h).json()["objects"]["P-001__ct"]["image"]["info"],
    ):
        assert ask(headers)["path"].startswith("/")
        told = ask(elsewhere)
        assert told["name"].startswith("P-001__ct")
        assert "path" not in told
    assert client.get("/datastore/?output=train", headers=elsewhere).status_code == 403
