"""What is installed, what is missing, and how to mend it. It looks and tells; it changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from doselabel import __version__
from doselabel.errors import DoselabelError

State = Literal["ok", "absent", "broken"]
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)""")
_SETUP = "run `make setup` in the checkout, or install with `-c constraints.txt`"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``absent`` is a part that was not installed, ``broken`` one that will not work."""

    what: str
    state: State
    found: str
    remedy: str = ""

    @property
    def mark(self) -> str:
        """Four characters for the start of a line."""
        return {"ok": "ok  ", "absent": "—   ", "broken": "BAD "}[self.state]


def examine(port: int = 8000, app_dir: Path | None = None) -> list[Finding]:
    """Look at everything a user's installation needs."""
    return [
        _python(),
        Finding("doselabel", "ok", __version__),
        *(_package(name, extra) for name, extra in _PARTS),
        _qt(),
        _pydicom(),
        _torch(),
        _launcher(),
        _screen(),
        _gl(),
        _port(port),
        _app_dir(app_dir),
        _starter(),
    ]


_PARTS = (
    ("numpy", ""),
    ("SimpleITK", ""),
    ("napari", "napari"),
    ("monai", "server"),
    ("monailabel", "server"),
    ("torch", "server"),
    ("torchvision", "server"),
    ("dask", "cluster"),
)


def version_of(name: str) -> str | None:
    """Version of an installed distribution, None when it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def need(*modules: str) -> None:
    """Raise DoselabelError when a module of an extra is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing(module)


def missing(module: str) -> DoselabelError:
    """Say that a module is not installed, and which extra of doselabel brings it."""
    name = module.partition(".")[0]
    extras: dict[str, list[str]] = {}
    for row in importlib.metadata.requires("doselabel") or []:
        needed, _, marker = row.partition(";")
        if extra := _EXTRA.search(marker):
            extras.setdefault(extra[1], []).append(re.split(r"[^\w-]", needed)[0].lower().replace("-", "_"))
    bring = [extra for extra, parts in extras.items() if name.lower() in parts]
    smallest = min(bring, key=lambda extra: len(extras[extra]), default="server")
    return DoselabelError(
        f"This needs '{name}', which is not installed.",
        f"pip install 'doselabel[{smallest}]'; `doselabel doctor` says more.",
    )


def _python() -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}"
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("Python", "ok", found)
    return Finding("Python", "broken", found, "monailabel's pins need Python 3.11 or 3.12; make a new environment")


def _package(name: str, extra: str) -> Finding:
    version = version_of(name)
    if version:
        return Finding(name, "ok", version)
    if not extra:
        return Finding(name, "broken", "not installed", _SETUP)
    return Finding(name, "absent", "not installed", f"part of the extra '{extra}': install doselabel[{extra}]")


def _qt() -> Finding:
    version = version_of("PySide6") or version_of("PySide6-Essentials")
    if version is None:
        return Finding("PySide6", "absent", "not installed", "part of the extra 'napari': install doselabel[napari]")
    if version.startswith("6.12.0"):
        return Finding("PySide6", "broken", f"{version}; it aborts any window within minutes", "install 'pyside6<6.12'")
    return Finding("PySide6", "ok", version)


def _pydicom() -> Finding:
    version = version_of("pydicom")
    if version is None:
        return Finding("pydicom", "absent", "not installed", "part of the extra 'server'")
    if int(version.split(".")[0]) >= 3 and version_of("monailabel"):
        return Finding("pydicom", "broken", f"{version}; MONAI Label 0.8 needs < 3", "install 'pydicom>=2.4,<3'")
    return Finding("pydicom", "ok", version)


def _torch() -> Finding:
    """In a process of its own: a mismatched pair fails while importing, and torch is slow to import."""
    if version_of("torch") is None or version_of("torchvision") is None:
        return Finding("torch + torchvision", "absent", "not installed", "part of the extra 'server'")
    code = "import torch, torchvision; torch.ops.torchvision.nms; print(torch.__version__, torchvision.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )
    if done.returncode == 0:
        return Finding("torch + torchvision", "ok", done.stdout.strip() + " work together")
    reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding(
        "torch + torchvision",
        "broken",
        reason,
        "they come from different builds (a CPU build of one with the default build of the other): "
        "uninstall both and install both from the same place, as constraints.txt pins them",
    )


def _launcher() -> Finding:
    if version_of("monailabel") is None:
        return Finding("monailabel launcher", "absent", "not installed", "part of the extra 'server'")
    beside = Path(sys.executable).with_name("monailabel")
    found = beside if beside.exists() else shutil.which("monailabel")
    if found:
        return Finding("monailabel launcher", "ok", str(found))
    return Finding(
        "monailabel launcher",
        "absent",
        "not on PATH (uv leaves it out of monailabel 0.8.5)",
        "start the server with `doselabel serve DIR`, or run `make setup`, which adds it",
    )


def _screen() -> Finding:
    if platform.system() != "Linux":
        return Finding("screen", "ok", platform.system())
    display = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    if display:
        return Finding("screen", "ok", display)
    if shutil.which("xvfb-run"):
        return Finding("screen", "ok", "none, but xvfb-run can make a virtual one")
    return Finding("screen", "absent", "no display and no Xvfb", "apt-get install xvfb xauth, then use `xvfb-run -a`")


def _gl() -> Finding:
    if platform.system() != "Linux":
        return Finding("OpenGL", "ok", "comes with the system")
    import ctypes.util

    missing = [name for name in ("GL", "EGL", "xkbcommon-x11", "xcb-cursor") if not ctypes.util.find_library(name)]
    if not missing:
        return Finding("OpenGL and X libraries", "ok", "found")
    packages = {"GL": "libgl1", "EGL": "libegl1", "xkbcommon-x11": "libxkbcommon-x11-0", "xcb-cursor": "libxcb-cursor0"}
    return Finding(
        "OpenGL and X libraries",
        "broken" if version_of("napari") else "absent",
        "missing: " + ", ".join(missing),
        "apt-get install " + " ".join(packages[name] for name in missing),
    )


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding(
                f"port {port}",
                "broken",
                f"taken ({error.strerror})",
                "stop what uses it, or `doselabel serve --port N`",
            )
    return Finding(f"port {port}", "ok", "free")


def _app_dir(app_dir: Path | None) -> Finding:
    if app_dir is None:
        spec = importlib.util.find_spec("monailabel_app")
        if spec is None or spec.origin is None:
            return Finding("app folder", "broken", "monailabel_app is not installed", _SETUP)
        app_dir = Path(spec.origin).parent
    if os.access(app_dir, os.W_OK):
        return Finding("app folder", "ok", f"{app_dir} is writable")
    return Finding(
        "app folder",
        "broken",
        f"{app_dir} is not writable, and MONAI Label writes model/ and logs/ there",
        "start the server with `doselabel serve DIR`, which uses a writable copy",
    )


def _starter() -> Finding:
    path = Path(__file__).parent / "model" / "starter.safetensors"
    if path.is_file():
        return Finding("starter model", "ok", f"{path.stat().st_size / 1e6:.0f} MB")
    return Finding("starter model", "broken", "not there", "train one with `doselabel train`, or install again")
