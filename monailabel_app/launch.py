"""Starting the server safely: checks first, then `monailabel_app.serving` in its own process. Knows no HTTP routes.

The app folder is made in ``<studies>/.doselabel/app``: MONAI Label writes logs into its app folder, and the installed
package need not be writable.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from doselabel.errors import ServerError
from monailabel_app.conf import ORIGINS, PARENT, STATE, TOKEN, USERS, Conf, take_over
from monailabel_app.startup import PROFILE


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


def serve(
    studies: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    app_dir: str | Path | None = None,
    conf: Mapping[str, str] | None = None,
    origins: tuple[str, ...] = (),
    tls: Tls | None = None,
    verbose: str = "INFO",
    stop: threading.Event | None = None,
) -> int:
    """Serve a folder of patients until interrupted.

    Parameters
    ----------
    studies : path
        Folder of patient folders.
    host, port
        Where to listen; by default this machine alone can reach it.
    app_dir : path, optional
        Folder with the app's ``main.py``, writable.
    conf : dict, optional
        See `monailabel_app.conf.Conf`.
    origins : tuple of str
        Web origins that may call the server, e.g. of a viewer on another host.
    tls : Tls, optional
        Certificate and key: the server then speaks HTTPS only.
    verbose : str
        "DEBUG", "INFO", "WARNING" or "ERROR".
    stop : threading.Event, optional
        Ends the server when it is set.

    Returns
    -------
    int
        Exit code of the server.

    Raises
    ------
    ServerError
        When the port is taken, the folder is missing or not writable, or an option is wrong.
    """
    process = _start(studies, host, port, app_dir, conf or {}, origins, tls, verbose, None)
    try:
        while process.poll() is None and not (stop and stop.is_set()):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        return process.poll() or 0
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(process)


@dataclass(frozen=True)
class Tls:
    """Files of a certificate and its key (PEM)."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raise ServerError unless the two can be used together."""
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ServerError(
                f"{self.certificate}, {self.key}: can't be used for TLS ({error}).",
                "Give a PEM certificate (with its chain) and the key that belongs to it, without a password.",
            ) from error


@contextmanager
def running(
    studies: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    app_dir: str | Path | None = None,
    conf: Mapping[str, str] | None = None,
    origins: tuple[str, ...] = (),
    tls: Tls | None = None,
    log: Path | None = None,
    timeout_s: float = 900.0,
) -> Iterator[Running]:
    """Have a server in the background for the length of a ``with`` block; a free port is taken when none is given.

    Raises
    ------
    ServerError
        See `serve`; also when the server ends or does not answer in time, with the end of its log.
    """
    port = port or free_port(host)
    log = log or Path(studies) / STATE / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = _start(studies, host, port, app_dir, conf or {}, origins, tls, "INFO", out)
    try:
        url = f"{'https' if tls else 'http'}://{host}:{port}"
        _await(url, process, log, timeout_s)
        yield Running(url, process, log)
    finally:
        _stop(process)


def command(
    studies: Path,
    host: str,
    port: int,
    app_dir: Path,
    conf: Mapping[str, str],
    verbose: str,
    tls: Tls | None = None,
) -> list[str]:
    """Command line of the server."""
    line = [sys.executable, "-m", "monailabel_app.serving", "start_server", "--app", str(app_dir)]
    line += ["--studies", str(studies), "--host", host, "--port", str(port), "--verbose", verbose]
    for key, value in conf.items():
        line += ["--conf", key, str(value)]
    if tls:
        line += ["--ssl_certfile", str(tls.certificate), "--ssl_keyfile", str(tls.key)]
    return line


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise ServerError when a port can't be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServerError(
                f"Port {port} of {host} can't be used: {error.strerror}.",
                f"Stop what runs there, or choose another one (--port {port + 1}).",
            ) from error


def check_workers(address: str) -> None:
    """Raise ServerError when jobs are to be done by Dask workers and none can be."""
    if not address:
        return
    try:
        from monailabel_app.jobs.remote import check

        found = check(address)
    except ImportError as error:
        raise ServerError("--workers needs Dask.", "Install it: pip install 'doselabel[cluster]'.") from error
    except OSError as error:
        raise ServerError(f"{address}: no Dask scheduler answers.", "Start it: dask scheduler.") from error
    if not found:
        raise ServerError(
            f"{address}: has no workers.", f"Start some where doselabel is installed: dask worker {address}."
        )


def make_app_dir(state: Path) -> Path:
    """Make the folder MONAI Label calls the app, with our one-line ``main.py`` in it.

    Raises
    ------
    ServerError
        When the studies folder is not writable.
    """
    folder = state / "app"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name("main.py"), folder / "main.py")
    except OSError as error:
        raise ServerError(
            f"{folder}: can't be written ({error.strerror}).",
            "Label maps, models and logs are kept in the studies folder: make it writable or copy it.",
        ) from error
    return folder


def _start(studies, host, port, app_dir, conf, origins, tls, verbose, out) -> subprocess.Popen[bytes]:
    studies = Path(studies).resolve()
    if tls:
        tls.check()
    if not studies.is_dir():
        raise ServerError(f"{studies}: there is no such folder.", "Make sample patients with `doselabel sample DIR`.")
    check_workers(Conf.read(str(studies), conf).workers)
    check_port(host, port)
    app = Path(app_dir).resolve() if app_dir else make_app_dir(studies / STATE)
    take_over(studies / STATE).release()
    environment = os.environ.copy()
    environment["MONAI_LABEL_SESSION_PATH"] = str(studies / STATE / "sessions")
    environment[PARENT] = str(os.getpid())
    if origins:
        environment[ORIGINS] = ",".join(origins)
    environment.setdefault("PYTHONUNBUFFERED", "1")
    return subprocess.Popen(
        command(studies, host, port, app, conf, verbose, tls),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT if out else None,
    )


def _await(url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    with httpx.Client(trust_env=False, timeout=5, verify=False) as client:  # it asks only whether somebody answers
        while time.monotonic() < end:
            if process.poll() is not None:
                raise ServerError(f"The server ended with code {process.returncode}:\n{_tail(log)}")
            try:
                if client.get(f"{url}/health").status_code == 200:
                    return
            except (httpx.ConnectError, httpx.TimeoutException):
                pass
            time.sleep(0.3)
    raise ServerError(f"The server did not answer within {timeout_s:.0f} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-20:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _say_what_is_open(given: argparse.Namespace, tls: Tls | None) -> None:
    state = Path(given.studies) / STATE
    if "oidc_issuer" not in dict(given.conf) and not (state / USERS).exists() and not os.environ.get(TOKEN):
        sys.stderr.write(
            "There are no users yet: this machine alone is answered. "
            f"Add some: doselabel users add {given.studies} NAME.\n"
        )
    if tls is None:
        sys.stderr.write(
            f"Whoever listens on the network of {given.host} can read passwords and patients: "
            "give --ssl-certfile and --ssl-keyfile, or put a proxy with TLS in front.\n"
        )


def main(arguments: list[str] | None = None) -> int:
    """Entry of ``python -m monailabel_app.launch`` (and of `doselabel serve`)."""
    parser = argparse.ArgumentParser(prog="python -m monailabel_app.launch", description="Serve a folder of patients.")
    parser.add_argument("--studies", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--app-dir")
    parser.add_argument("--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"))
    parser.add_argument("--origin", action="append", default=[], help="web origin that may call the server")
    parser.add_argument("--ssl-certfile", type=Path, help="certificate (PEM): the server then speaks HTTPS only")
    parser.add_argument("--ssl-keyfile", type=Path, help="key of the certificate (PEM)")
    parser.add_argument("--workers", metavar="tcp://HOST:PORT", help="Dask scheduler whose workers do the jobs")
    parser.add_argument("--profile-start", action="store_true", help="print what the start spends its time on")
    parser.add_argument("--verbose", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    given = parser.parse_args(arguments)
    if bool(given.ssl_certfile) != bool(given.ssl_keyfile):
        parser.error("--ssl-certfile and --ssl-keyfile go together")
    if given.profile_start:
        os.environ.setdefault(PROFILE, str(time.time()))
    tls = Tls(given.ssl_certfile, given.ssl_keyfile) if given.ssl_certfile else None
    if given.host not in ("127.0.0.1", "localhost", "::1"):
        _say_what_is_open(given, tls)
    stop, received = threading.Event(), []

    def end(number: int, _: object) -> None:
        # Nothing is raised here: in the moment a process is started, it would be lost from sight and go on alone.
        received.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        code = serve(
            given.studies,
            host=given.host,
            port=given.port,
            app_dir=given.app_dir,
            conf=dict(given.conf) | ({"workers": given.workers} if given.workers else {}),
            origins=tuple(given.origin),
            tls=tls,
            verbose=given.verbose,
            stop=stop,
        )
        return 143 if signal.SIGTERM in received else code
    except ServerError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
