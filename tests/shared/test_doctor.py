"""The doctor: says what is wrong, and how to mend it."""

from __future__ import annotations

import socket

import pytest

from doselabel import doctor


def found(what: str, **arguments) -> doctor.Finding:
    return next(f for f in doctor.examine(**arguments) if what in f.what)


@pytest.fixture
def no_torch_import(monkeypatch):
    """Importing torch takes seconds; the other examinations don't need it."""
    monkeypatch.setattr(doctor, "_torch", lambda: doctor.Finding("torch + torchvision", "ok", ""))


@pytest.mark.parametrize(
    ("package", "version", "what", "remedy"),
    [("pydicom", "3.0.1", "pydicom", "<3"), ("PySide6", "6.12.0", "PySide6", "<6.12")],
)
def test_a_version_that_does_not_work_is_named(monkeypatch, no_torch_import, package, version, what, remedy):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: version if name == package else real(name))
    finding = found(what)
    assert finding.state == "broken"
    assert remedy in finding.remedy


def test_a_taken_port_is_named(no_torch_import):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = found(f"port {port}", port=port)
    assert finding.state == "broken"
    assert "--port" in finding.remedy


def test_an_app_folder_that_is_not_writable_is_named(monkeypatch, no_torch_import, tmp_path):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    finding = found("app folder", app_dir=tmp_path)
    assert finding.state == "broken"
    assert "doselabel serve" in finding.remedy


def test_torch_and_torchvision_of_one_build_work_together():
    assert doctor._torch().state == "ok"


def test_a_pair_that_does_not_fit_is_found_by_importing_it(monkeypatch, tmp_path):
    """A torchvision that fails as a mismatched build does, put before the real one."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor._torch()
    assert finding.state == "broken"
    assert "nms" in finding.found
    assert "different builds" in finding.remedy
