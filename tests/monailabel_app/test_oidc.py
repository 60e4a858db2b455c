"""Users of an OpenID Connect issuer: a small one on this machine, with RSA keys of its own, before a real server."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from doselabel.errors import ServerError
from monailabel_app import oidc
from monailabel_app.conf import Conf
from monailabel_app.launch import running
from monailabel_app.oidc import Issuer, NoRole
from monailabel_app.users import User, WrongLogin

PASSWORDS = {"ada": "ada's password"}


class Realm:
    """An issuer: its keys, what it tells of itself, and the tokens it gives."""

    def __init__(self) -> None:
        self.keys = {"first": rsa.generate_private_key(65537, 2048)}
        self.asked = 0
        self.says: dict = {}
        self.tokens = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                if self.path.endswith("/openid-configuration"):
                    self.answer(
                        {"issuer": outer.url, "jwks_uri": f"{outer.url}/keys", "token_endpoint": f"{outer.url}/token"}
                        | outer.says
                    )
                else:
                    self.answer({"keys": [public(name, key) for name, key in outer.keys.items()]})

            def do_POST(self):
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                name = form["username"][0]
                assert form["grant_type"] == ["password"]
                if PASSWORDS.get(name) != form["password"][0]:
                    self.answer({"error": "invalid_grant", "error_description": "Invalid user credentials"}, 401)
                else:
                    self.answer({"access_token": outer.token(name, "doselabel-reviewer"), "expires_in": 300})

            def answer(self, content, status=200):
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/realms/hospital"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, name: str, *roles: str, key: str = "first", alg: str = "RS256", **claims) -> str:
        now = time.time()
        content = {"iss": self.url, "sub": f"id-of-{name}", "exp": now + 300, "aud": ["account"], "azp": "doselabel"}
        content |= {"preferred_username": name, "realm_access": {"roles": list(roles)}} | claims
        content = {k: v for k, v in content.items() if v is not None}
        return jwt.encode(content, self.keys[key], algorithm=alg, headers={"kid": key})


def public(name: str, key: rsa.RSAPrivateKey) -> dict:
    return json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": name, "use": "sig"}


@pytest.fixture(scope="module")
def realm() -> Iterator[Realm]:
    found = Realm()
    yield found
    found.server.shutdown()


@pytest.fixture(scope="module")
def issuer(realm) -> Issuer:
    return Issuer(realm.url, "doselabel", "realm_access.roles")


@pytest.mark.parametrize(
    ("roles", "role"),
    [
        (["doselabel-annotator"], "annotator"),
        (["monailabel-reviewer", "offline_access"], "reviewer"),
        (["doselabel-annotator", "doselabel-admin"], "admin"),
    ],
)
def test_a_token_says_who_and_as_what_the_highest_role_counts(realm, issuer, roles, role):
    assert issuer.bearer(realm.token("ada", *roles)) == User("ada", role)
    assert issuer.bearer(realm.token("ada", *roles, azp=None, aud="doselabel")) == User("ada", role)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": time.time() - 60}, "run out"),
        ({"exp": None}, "exp"),
        ({"nbf": time.time() + 3600}, "not yet valid"),
        ({"iss": "http://127.0.0.1:1/realms/other"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"sub": None}, "sub"),
        ({"azp": "mail"}, "another program"),
        ({"azp": None, "aud": ["mail", "account"]}, "another program"),
        ({"azp": None, "aud": None}, "another program"),
    ],
)
def test_a_token_that_is_not_for_here_and_now_is_refused(realm, issuer, claims, said):
    with pytest.raises(WrongLogin, match=said):
        issuer.bearer(realm.token("ada", "doselabel-admin", **claims))


@pytest.mark.parametrize(
    "access",
    [
        {"roles": []},
        {"roles": ["admin"]},
        {"roles": ["doselabel-Admin", "xdoselabel-admin"]},
        {"roles": "doselabel-admin"},
        {"roles": [["doselabel-admin"]]},
        "doselabel-admin",
        None,
    ],
)
def test_a_token_without_a_role_of_this_server_opens_nothing(realm, issuer, access):
    with pytest.raises(NoRole, match="ada has no role"):
        issuer.bearer(realm.token("ada", realm_access=access))


def test_a_token_that_somebody_made_up_is_refused(realm, issuer):
    good = realm.token("ada", "doselabel-admin")
    head, body, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    other = rsa.generate_private_key(65537, 2048)
    pem = (
        realm.keys["first"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "eve"}).encode()).rstrip(b"=").decode()
    for token in (
        f"{head}.{forged}.{signature}",
        f"{head}.{body}.",
        jwt.encode(claims, None, algorithm="none", headers={"kid": "first"}),
        jwt.encode(claims, other, algorithm="RS256", headers={"kid": "first"}),
        jwt.encode(claims, other, algorithm="RS256", headers={"kid": "other"}),
        hs256(claims, pem),
        "",
        "x.y.z",
    ):
        with pytest.raises(WrongLogin):
            issuer.bearer(token)


def hs256(claims: dict, secret: bytes) -> str:
    """A token signed with the issuer's public key as if it were a secret, which libraries refuse to make."""
    import hashlib
    import hmac

    parts = [{"alg": "HS256", "typ": "JWT", "kid": "first"}, claims]
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    mark = base64.urlsafe_b64encode(hmac.new(secret, text, hashlib.sha256).digest()).rstrip(b"=")
    return (text + b"." + mark).decode()


def test_new_keys_of_the_issuer_are_known_soon_and_made_up_ones_ask_it_seldom(realm, monkeypatch):
    monkeypatch.setattr(oidc, "AGAIN_S", 0.5)
    own = Issuer(realm.url, "doselabel", "realm_access.roles")
    before, began = realm.asked, time.monotonic()
    stranger = jwt.encode({"sub": "x"}, "k" * 32, algorithm="HS256", headers={"kid": "made up"})
    for _ in range(500):
        with pytest.raises(WrongLogin):
            own.bearer(stranger)
    times = 2 + (time.monotonic() - began) / 0.5
    assert realm.asked - before <= 2 * times, "two requests each time, at most every half a second"
    realm.keys["second"] = rsa.generate_private_key(65537, 2048)
    try:
        token, end = realm.token("ada", "doselabel-annotator", key="second"), time.monotonic() + 300
        while True:
            try:
                assert own.bearer(token).name == "ada"
                break
            except WrongLogin:
                assert time.monotonic() < end
                time.sleep(0.1)
    finally:
        del realm.keys["second"]


def test_an_issuer_that_calls_itself_otherwise_or_does_not_answer_opens_nothing(realm, caplog):
    realm.says = {"issuer": "https://evil.example"}
    try:
        strange = Issuer(realm.url, "doselabel", "realm_access.roles")
    finally:
        realm.says = {}
    silent = Issuer("http://127.0.0.1:9", "doselabel", "realm_access.roles")
    assert "can't be fetched" in caplog.text
    for found in (strange, silent):
        assert found.any
        assert not found.is_known
        with pytest.raises(WrongLogin):
            found.bearer(realm.token("ada", "doselabel-admin"))
        with pytest.raises(ServerError, match="does not answer"):
            found.grant("ada", PASSWORDS["ada"])


@pytest.mark.parametrize("url", ["http://hospital.example/realm", "hospital.example", "file:///etc"])
def test_an_issuer_without_tls_is_refused_unless_it_is_this_machine(tmp_path, url):
    with pytest.raises(ServerError, match="https://"):
        Conf.read(str(tmp_path), {"oidc_issuer": url})
    assert Conf.read(str(tmp_path), {"oidc_issuer": "https://kc.example/realms/x"}).oidc_client == "doselabel"


def test_passwords_are_not_sent_where_an_issuer_says_that_they_go_without_tls(realm):
    realm.says = {"token_endpoint": "http://evil.example/token"}
    try:
        own = Issuer(realm.url, "doselabel", "realm_access.roles")
    finally:
        realm.says = {}
    with pytest.raises(ServerError):
        own.grant("ada", PASSWORDS["ada"])


def test_a_real_server_lets_the_issuer_s_users_in_and_nobody_else(realm, tmp_path, boxes):
    boxes.make_patient(tmp_path / "studies" / "P-001", "P-001", times_h=(24.0,))
    with (
        running(tmp_path / "studies", conf={"oidc_issuer": realm.url}) as server,
        httpx.Client(base_url=server.url, timeout=600, trust_env=False) as http,
    ):
        assert http.get("/auth/").json()["enabled"] is True
        assert http.get("/info/").status_code == 401, "also on the server's own machine"
        refused = http.post("/auth/token", data={"username": "ada", "password": "guess"})
        assert (refused.status_code, refused.json()["hint"]) == (401, "Invalid user credentials")
        told = http.post("/auth/token", data={"username": "ada", "password": PASSWORDS["ada"]}).json()
        ada = {"Authorization": f"Bearer {told['access_token']}"}
        valid = http.get("/auth/token/valid", headers=ada).json()
        assert (valid["username"], valid["role"]) == ("ada", "reviewer")
        assert http.get("/info/", headers=ada).status_code == 200
        assert http.get("/logs/", headers=ada).json()["code"] == "role"
        nobody = {"Authorization": f"Bearer {realm.token('guest')}"}
        assert (http.get("/info/", headers=nobody).status_code, http.get("/info/").status_code) == (403, 401)
        late = {"Authorization": f"Bearer {realm.token('ada', 'doselabel-admin', exp=time.time() - 60)}"}
        assert http.get("/info/", headers=late).status_code == 401
        assert http.get("/health").status_code == 200
