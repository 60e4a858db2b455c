"""Passwords and tokens."""

import io
import json
import stat

import jwt
import pytest

from doselabel.errors import ServerError
from monailabel_app.conf import STATE
from monailabel_app.users import TRIES, TooManyTries, User, Users, WrongLogin, main


@pytest.fixture
def users(tmp_path) -> Users:
    users = Users(tmp_path)
    users.put("ada", "correct horse", "reviewer")
    return users


def test_a_password_is_kept_as_a_hash_only_in_a_file_that_is_its_owner_s(users, tmp_path):
    text = (tmp_path / "users.json").read_text("utf-8")
    assert "correct horse" not in text
    assert json.loads(text)["users"]["ada"]["password"].startswith("$argon2id$")
    users.token("ada")
    for name in ("users.json", "token.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_who_knows_the_password_gets_a_token_that_is_good_for_a_while(users, tmp_path):
    assert users.login("ada", "correct horse") == User("ada", "reviewer")
    assert users.bearer(users.token("ada")) == User("ada", "reviewer")
    with pytest.raises(WrongLogin, match="do not fit"):
        users.login("ada", "wrong")
    with pytest.raises(WrongLogin, match="do not fit"):
        users.login("nobody", "correct horse")
    with pytest.raises(WrongLogin, match="run out"):
        users.bearer(Users(tmp_path, lifetime_s=-1).token("ada"))


def test_a_token_of_another_server_or_without_signature_is_no_good(users, tmp_path):
    other = Users(tmp_path / "other")
    other.put("ada", "correct horse", "admin")
    with pytest.raises(WrongLogin, match="not one of this server's"):
        users.bearer(other.token("ada"))
    claims = jwt.decode(users.token("ada"), options={"verify_signature": False})
    with pytest.raises(WrongLogin, match="not one of this server's"):
        users.bearer(jwt.encode(claims, None, algorithm="none"))
    del claims["exp"]
    with pytest.raises(WrongLogin):
        users.bearer(jwt.encode(claims, (tmp_path / "token.key").read_bytes(), algorithm="HS256"))


def test_a_token_is_void_when_its_user_is_gone_or_has_another_password(users):
    token = users.token("ada")
    users.put("ada", "another one", "admin")
    with pytest.raises(WrongLogin, match="another password"):
        users.bearer(token)
    token = users.token("ada")
    users.remove("ada")
    with pytest.raises(WrongLogin, match="gone"):
        users.bearer(token)


def test_guessing_is_stopped_also_for_the_right_password(users):
    for _ in range(TRIES):
        with pytest.raises(WrongLogin):
            users.login("ada", "guess")
    with pytest.raises(TooManyTries):
        users.login("ada", "correct horse")


@pytest.mark.parametrize(
    ("name", "password", "role", "said"),
    [
        ("a/b", "long enough", "admin", "no user name"),
        ("ada", "short", "admin", "5 characters"),
        ("ada", "long enough", "boss", "no role"),
    ],
)
def test_a_user_that_can_t_be_is_refused(tmp_path, name, password, role, said):
    with pytest.raises(ServerError, match=said):
        Users(tmp_path).put(name, password, role)


def test_the_command_adds_lists_and_removes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("a long password\n"))
    assert main(["add", str(tmp_path), "eva", "--role", "admin"]) == 0
    assert Users(tmp_path / STATE).login("eva", "a long password").role == "admin"
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "eva\tadmin\n"
    assert main(["remove", str(tmp_path), "eva"]) == 0
    assert main(["remove", str(tmp_path), "eva"]) == 2
    assert "no user 'eva'" in capsys.readouterr().err
