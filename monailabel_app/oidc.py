"""Users of an OpenID Connect issuer, such as a hospital's Keycloak, instead of a file of our own. Knows no routes.

A token counts when the issuer signed it (an asymmetric algorithm and a key of its JWKS), it is in time, and it was
given to this server's client (``aud`` or ``azp``; RFC 7519, OpenID Connect Core 1.0). What somebody may do is said by
roles such as ``doselabel-reviewer`` or ``monailabel-reviewer`` in it: a plain ``admin`` is somebody else's word.

Keys are fetched by a thread of its own: a request never waits for the issuer, and tokens with made-up keys ask it no
more than once in `AGAIN_S`. Logging in by name and password (3D Slicer, MONAI Label's client) is passed on
to the issuer.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt

from doselabel.errors import ServerError
from monailabel_app.conf import SAFE, Conf
from monailabel_app.users import ROLES, TooManyTries, User, Users, WrongLogin

logger = logging.getLogger(__name__)

SECRET = "DOSELABEL_OIDC_SECRET"
"""Environment variable: the client's secret, for an issuer that asks for one."""
PREFIXES = ("doselabel-", "monailabel-")
ALGORITHMS = tuple(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512))
REFRESH_S, AGAIN_S, PATIENCE_S = 300.0, 5.0, 10.0
LEEWAY_S = 30.0
"""Clocks of two machines differ."""
_LOGINS = 8


def accounts(conf: Conf) -> Users | Issuer:
    """Who may use a server: the users of an issuer where one is named, else those of the studies folder."""
    if conf.oidc_issuer:
        return Issuer(conf.oidc_issuer, conf.oidc_client, conf.oidc_roles)
    return Users(conf.state, conf.login_h * 3600)


class Issuer:
    """An OpenID Connect issuer.

    Parameters
    ----------
    url : str
        Its name; ``/.well-known/openid-configuration`` is below it.
    client_id : str
        What this server is called there.
    roles : str
        Where a token has its roles, with dots: ``realm_access.roles``.
    """

    any = True

    def __init__(self, url: str, client_id: str, roles: str) -> None:
        self.client_id = client_id
        self.kept_by = f"the issuer {url}"
        self._url = url.rstrip("/")
        self._roles = roles.split(".")
        self._http = httpx.Client(timeout=PATIENCE_S, follow_redirects=False)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._token_endpoint = ""
        self._wanted = threading.Event()
        self._logins = threading.BoundedSemaphore(_LOGINS)
        self._fetch()
        threading.Thread(target=self._follow, name="oidc-keys", daemon=True).start()

    @property
    def is_known(self) -> bool:
        """Whether its keys are there; without them nobody can log in."""
        return bool(self._keys)

    def bearer(self, token: str) -> User:
        """Whom a token was given to.

        Raises
        ------
        WrongLogin
            When it does not count.
        NoRole
            When it does, and says no role here.
        """
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                self._wanted.set()
                raise WrongLogin("The token is signed with a key that is not known.", "Log in again in a few seconds.")
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                issuer=[self._url, f"{self._url}/"],
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "sub"], "verify_aud": False, "verify_iat": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise WrongLogin("The login has run out.", "Log in again.") from error
        except (jwt.InvalidTokenError, TypeError) as error:
            raise WrongLogin(f"The token is no good: {error}", "Log in again.") from error
        audience = claims.get("aud") or []
        given_to = {*([audience] if isinstance(audience, str) else audience), claims.get("azp")}
        if self.client_id not in given_to:
            raise WrongLogin("The token was given to another program.", f"It must be for '{self.client_id}'.")
        name = str(claims.get("preferred_username") or claims["sub"])[:100]
        return User(name, self._role(claims, name))

    def grant(self, name: str, password: str) -> dict[str, Any]:
        """Log in by name and password at the issuer.

        Raises
        ------
        WrongLogin, TooManyTries, ServerError
        """
        if not self._token_endpoint:
            raise Unreachable(f"{self.kept_by} does not answer.", "Try again; an admin can read why in the log.")
        if not self._logins.acquire(blocking=False):
            raise TooManyTries("Too many log in at this moment.", "Try again in a few seconds.")
        form = {"grant_type": "password", "client_id": self.client_id, "username": name, "password": password}
        form |= {"scope": "openid"} | ({"client_secret": secret} if (secret := os.environ.get(SECRET)) else {})
        try:
            reply = self._http.post(self._token_endpoint, data=form)
            told = reply.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(f"{self.kept_by} does not answer.", "Try again in a minute.") from error
        finally:
            self._logins.release()
        if reply.status_code in (400, 401, 403):
            raise WrongLogin("Name and password do not fit.", str(told.get("error_description", "Try again."))[:200])
        if reply.status_code != 200 or not isinstance(told.get("access_token"), str):
            raise Unreachable(f"{self.kept_by} answers {reply.status_code} without a token.", "Ask an admin.")
        self.bearer(told["access_token"])
        return {"token_type": "bearer"} | {k: told[k] for k in ("access_token", "expires_in") if k in told}

    def _role(self, claims: Mapping[str, Any], name: str) -> str:
        found: Any = claims
        for part in self._roles:
            found = found.get(part) if isinstance(found, Mapping) else None
        said = set(found) if isinstance(found, list) and all(isinstance(role, str) for role in found) else set()
        own = [role for role in ROLES if said & {f"{prefix}{role}" for prefix in PREFIXES}]
        if not own:
            raise NoRole(
                f"{name} has no role on this server.",
                f"An admin of the issuer can give one: {', '.join(f'{PREFIXES[0]}{role}' for role in ROLES)}.",
            )
        return own[-1]

    def _follow(self) -> None:
        """Fetch the keys again from time to time, and soon when one is asked for that is not known."""
        while True:
            self._wanted.wait(REFRESH_S if self._keys else AGAIN_S)
            self._wanted.clear()
            self._fetch()
            time.sleep(AGAIN_S)

    def _fetch(self) -> None:
        try:
            about = self._get(f"{self._url}/.well-known/openid-configuration")
            if str(about["issuer"]).rstrip("/") != self._url:
                raise ValueError(f"it calls itself {about['issuer']}")
            keys = jwt.PyJWKSet.from_dict(self._get(about["jwks_uri"])).keys
            self._keys = {key.key_id or "": key for key in keys if key.public_key_use in (None, "sig")}
            self._token_endpoint = _safe(str(about.get("token_endpoint") or ""))
        except Exception as error:  # what is known so far still holds
            logger.warning("The issuer %s: its keys can't be fetched (%s)", self._url, error)

    def _get(self, url: str) -> dict[str, Any]:
        reply = self._http.get(_safe(url)).raise_for_status()
        return dict(reply.json())


class NoRole(ServerError):
    """Somebody whom the issuer knows, and who may do nothing here."""

    code = "role"
    status = 403


class Unreachable(ServerError):
    """The issuer does not answer."""

    code = "login"
    status = 503
    retry_after_s = 60


def _safe(url: str) -> str:
    """An address that is `SAFE`; or none."""
    if url and not SAFE.fullmatch(url):
        raise ServerError(f"{url}: passwords and keys are not sent without TLS.", "Give an https:// address.")
    return url
