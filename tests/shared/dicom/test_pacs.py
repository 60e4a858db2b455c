"""A real Orthanc with DICOMweb that the tests start: loopback, passwords, empty storage, nothing of the machine's."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pydicom
import pytest

from doselabel.cli import main
from doselabel.dicom import pacs as module
from doselabel.dicom.pacs import PASSWORD, TOKEN, USER, Pacs
from doselabel.errors import ServerError
from doselabel.study import Study
from tests.shared.dicom import makers as make

ORTHANC = shutil.which("Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
NEEDED = pytest.mark.skipif(
    not (ORTHANC and PLUGIN.exists()), reason="Orthanc is not installed (Debian: orthanc, orthanc-dicomweb)"
)
REFUSED = "REFUSED"
"""Orthanc is told to take no object of this accession number."""
ENVIRON = {USER: "doctor", PASSWORD: "no-real-secret"}


def free_port() -> int:
    import socket

    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        return int(at.getsockname()[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    home, port = tmp_path_factory.mktemp("orthanc"), free_port()
    filtered = "function ReceivedInstanceFilter(dicom) return dicom.AccessionNumber ~= '{}' end"
    (home / "filter.lua").write_text(filtered.format(REFUSED))
    (home / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "doselabel-test",
                "StorageDirectory": str(home / "storage"),
                "IndexDirectory": str(home / "index"),
                "Plugins": [str(PLUGIN)],
                "HttpPort": port,
                "HttpBindAddresses": ["127.0.0.1"],
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True,
                "RegisteredUsers": {ENVIRON[USER]: ENVIRON[PASSWORD]},
                "DicomServerEnabled": False,
                "LuaScripts": [str(home / "filter.lua")],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
            }
        )
    )
    with (home / "log").open("w") as log:
        process = subprocess.Popen([str(ORTHANC), str(home / "orthanc.json")], stdout=log, stderr=log, cwd=home)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/system", auth=(ENVIRON[USER], ENVIRON[PASSWORD])).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (home / "log").read_text("utf-8")
                assert time.monotonic() < until, (home / "log").read_text("utf-8")
                time.sleep(0.1)
        yield f"{url}/dicom-web"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def credentials(monkeypatch):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)


def objects(folder: Path) -> dict[str, pydicom.Dataset]:
    return {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, folder.rglob("*.dcm"))}


@NEEDED
def test_a_patient_is_pulled_and_results_are_pushed_and_come_back_identical(
    orthanc, credentials, source, tmp_path, capsys
):
    assert main(["push", orthanc, str(source)]) == 0
    count = len(objects(source))
    pulled = tmp_path / "pulled"
    assert main(["pull", orthanc, str(pulled), "--patient-id", make.PATIENT_ID]) == 0
    assert objects(pulled) == objects(source)

    studies, key = tmp_path / "studies", ["--key", str(tmp_path / "key.json")]
    assert main(["import", str(pulled), str(studies), *key]) == 0
    (folder,) = Study.find(studies)
    drawn = folder / "labels" / "network" / "ct.nii.gz"
    assert main(["segment", str(folder / "ct.nii.gz"), "--out", str(drawn)]) == 0
    dose = ["dose", str(folder), "--labels", "network", "--out", str(tmp_path / "dose"), "--registration", "identity"]
    assert main(dose) == 0
    out = tmp_path / "results"
    assert main(["export", str(tmp_path / "dose"), str(folder), "--source", str(pulled), "--out", str(out), *key]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["pdf.dcm", "rtdose.dcm", "rtstruct.dcm", "seg.dcm", "sr.dcm"]
    assert main(["push", orthanc, str(out)]) == 0
    capsys.readouterr()
    assert main(["pull", orthanc, str(pulled), "--patient-id", make.PATIENT_ID]) == 0
    assert f"5 object(s) pulled, {count} were there, 0 failed" in capsys.readouterr().out
    back, sent = objects(pulled), objects(out)
    assert len(back) == count + 5
    assert {uid: back[uid] for uid in sent} == sent

    assert main(["push", orthanc, str(out)]) == 0
    assert "0 object(s) pushed, 5 were there, 0 failed" in capsys.readouterr().out


@NEEDED
def test_an_interrupted_pull_goes_on_and_a_half_file_counts_for_nothing(orthanc, credentials, source, tmp_path):
    assert main(["push", orthanc, str(source)]) == 0
    out = tmp_path / "out"

    def stop(stage, fraction):
        if fraction > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pacs(orthanc).pull(out, stop, PatientID=make.PATIENT_ID)
    before = set(objects(out))
    some = next(out.iterdir())
    (some / ".writing-half.dcm").write_bytes(b"half")
    done = Pacs(orthanc).pull(out, PatientID=make.PATIENT_ID)
    assert set(done.there) == before
    assert before
    assert not done.failed
    assert not set(done.moved) & before


@NEEDED
def test_one_object_that_is_refused_is_named_and_the_others_are_stored(orthanc, credentials, tmp_path, capsys):
    good, bad = (make.base(make.CT_SOP, None) for _ in range(2))
    make.save(tmp_path / "a", [good], "good")
    bad.AccessionNumber = REFUSED
    make.save(tmp_path / "a", [bad], "bad")
    assert main(["push", orthanc, str(tmp_path / "a")]) == 1
    said = capsys.readouterr().out
    assert "failed: bad_000.dcm" in said
    assert "1 object(s) pushed, 0 were there, 1 failed" in said


@NEEDED
def test_wrong_credentials_and_unknown_patients_are_told(orthanc, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(USER, "doctor")
    monkeypatch.setenv(PASSWORD, "wrong")
    assert main(["pull", orthanc, str(tmp_path), "--patient-id", "x"]) == 2
    assert "does not let us in (HTTP 401)" in capsys.readouterr().err
    monkeypatch.setenv(PASSWORD, ENVIRON[PASSWORD])
    assert main(["pull", orthanc, str(tmp_path), "--patient-id", "nobody"]) == 2
    assert "nothing with PatientID nobody" in capsys.readouterr().err


def test_addresses_that_would_give_patients_away_are_refused():
    for url, why in (
        ("http://pacs.example/dicom-web", "not encrypted"),
        ("https://me:secret@pacs.example/dicom-web", "holds a password"),
        ("pacs.example", "no address"),
    ):
        with pytest.raises(ServerError, match=why):
            Pacs(url, {})
    assert Pacs("https://pacs.example/dicom-web", {TOKEN: "t"})._client._session.verify is True


def test_a_pacs_that_does_not_answer_is_asked_again_and_then_named(monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    with pytest.raises(ServerError, match="does not answer"):
        Pacs(f"http://127.0.0.1:{free_port()}/dicom-web", {}).instances(PatientID="x")
    assert waits == [1.0, 2.0, 4.0]


def test_the_length_of_failed_sop_sequence_counts_and_not_that_it_is_there():
    reply = pydicom.Dataset()
    reply.FailedSOPSequence = []
    assert module._refused(reply, "1.2.3") == ""
    item = pydicom.Dataset()
    item.ReferencedSOPInstanceUID, item.FailureReason = "1.2.3", 0xA900
    reply.FailedSOPSequence = [item]
    assert "0xa900" in module._refused(reply, "1.2.3")
    assert module._refused(reply, "1.2.4") == ""


def test_a_folder_that_arrives_is_imported_once_and_a_broken_one_stops_nobody(source, tmp_path, capsys):
    inbox, studies = tmp_path / "inbox", tmp_path / "studies"
    shutil.copytree(source, inbox / "a")
    (inbox / "b").mkdir()
    (inbox / "b" / "notes").write_bytes(b"x" * 500)
    line = ["listen", str(inbox), str(studies), "--once", "--key", str(tmp_path / "key.json"), "--quiet-s"]
    assert main([*line, "3600"]) == 0  # still arriving
    assert not studies.exists()
    assert main([*line, "0"]) == 1
    said = capsys.readouterr().out
    assert "a: imported" in said
    assert "b: not imported (doselabel:" in said
    assert len(Study.find(studies)) == 1
    assert main([*line, "0"]) == 0  # nothing new
    assert capsys.readouterr().out == ""


def test_a_folder_whose_files_go_while_it_is_looked_at_waits_and_stops_nothing(tmp_path, monkeypatch, capsys):
    from doselabel.dicom import inbox

    there, content = tmp_path / "inbox" / "patient", inbox._content
    there.mkdir(parents=True)
    (there / "dangling").symlink_to(tmp_path / "nowhere")

    def renamed(path):
        monkeypatch.setattr(inbox, "_content", content)
        raise FileNotFoundError(path / "half.dcm")

    monkeypatch.setattr(inbox, "_content", renamed)
    for imported in (0, 1):  # the first look finds it unfinished, the second has it imported (and refused: it is empty)
        code = inbox.listen(tmp_path / "inbox", tmp_path / "studies", None, None, 0.0, once=True)
        assert code == imported
        assert capsys.readouterr().out.count("patient: not imported") == imported
