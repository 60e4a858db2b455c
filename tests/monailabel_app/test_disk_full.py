"""A disk that is full, or that nobody may write to, under a real server: said as such, the old kept, the lane alive."""

import hashlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from monailabel_app.conf import STATE
from monailabel_app.launch import Running, running

PATIENCE_S = 500
IMAGE = "P-001__ct"
PAGE = 4096


def mount(*arguments: object) -> bool:
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def disk(tmp_path_factory, boxes) -> Iterator[Path]:
    """A small disk of its own, with one patient."""
    place = tmp_path_factory.mktemp("small disk")
    if not mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", place):
        pytest.skip("this account may not mount a small disk")
    try:
        boxes.make_patient(place / "P-001", "P-001", times_h=(24.0,))
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def server(disk, untrained) -> Iterator[Running]:
    with running(disk, conf={"checkpoint": str(untrained), "replay": "none", "memory_gb": "0"}) as found:
        yield found


@pytest.fixture
def http(server, label_file) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as client:
        save(client, label_file).raise_for_status()
        assert job(client)["state"] == "done"
        yield client


def save(http, file: Path) -> httpx.Response:
    with file.open("rb") as content:
        return http.post(f"/doselabel/labels/{IMAGE}", files={"file": content})


def job(http) -> dict:
    reply = http.post("/jobs/kidney_liver", json={"image_id": IMAGE})
    assert reply.status_code == 202, reply.text
    return over(http, reply.json()["id"])


def over(http, name: str) -> dict:
    end = time.monotonic() + PATIENCE_S
    while not (status := http.get(f"/jobs/{name}").json())["ended"]:
        assert time.monotonic() < end, status
        time.sleep(0.05)
    return status


def fill(disk: Path, but_pages: int = 0) -> Path:
    """Write a file until nothing more fits, then give back some pages."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            size = max(0, file.tell() // PAGE - but_pages) * PAGE
        file.truncate(size)
    return filler


def whole(http) -> dict[int, str]:
    """Every version that is listed, after looking at the file behind it."""
    listed = http.get(f"/doselabel/labels/{IMAGE}").json()
    for version in listed:
        assert version["error"] is None, version
        content = http.get(f"/doselabel/labels/{IMAGE}/{version['version']}").content
        assert hashlib.sha256(content).hexdigest() == version["sha256"]
    return {version["version"]: version["sha256"] for version in listed}


def told(reply: httpx.Response) -> None:
    assert (reply.status_code, reply.json()["code"]) == (507, "disk"), reply.text
    assert "Free space" in reply.json()["hint"]


def test_a_disk_that_fills_up_at_any_point_of_a_save_never_lets_answer_and_disk_disagree(http, disk, label_file):
    kept = whole(http)
    answers = []
    for pages in range(16):
        filler = fill(disk, pages)
        reply = save(http, label_file)
        filler.unlink()
        answers.append(reply.status_code)
        if reply.status_code == 200:
            kept[reply.json()["version"]] = reply.json()["sha256"]
        else:
            told(reply)
        assert whole(http) == kept, pages
    assert answers[0] == 507
    assert answers[-1] == 200
    assert save(http, label_file).status_code == 200
    assert not list(disk.rglob(".writing-*"))


def test_a_job_on_a_full_disk_fails_as_such_and_the_lane_lives(http, disk):
    before = http.get("/datastore/label", params={"label": IMAGE, "tag": "original"}).content
    failed, refused = [], 0
    for pages in range(12):
        filler = fill(disk, pages)
        reply = http.post("/jobs/kidney_liver", json={"image_id": IMAGE})
        if reply.status_code == 202:
            status = over(http, reply.json()["id"])
            failed += [status["error"]] if status["state"] == "failed" else []
        else:
            told(reply)
            refused += 1
        assert http.get("/info/").status_code == 200
        filler.unlink()
        assert http.get("/datastore/label", params={"label": IMAGE, "tag": "original"}).content == before
    assert refused
    assert failed
    assert {error["code"] for error in failed} == {"disk"}
    assert job(http)["state"] == "done"


def test_every_route_that_writes_says_that_the_disk_is_full(http, disk, label_file):
    save(http, label_file).raise_for_status()
    version = max(whole(http))
    content = label_file.read_bytes()
    filler = fill(disk)
    try:
        for reply in (
            http.put("/datastore/label", params={"image": IMAGE}, files={"label": ("l.nii.gz", content)}),
            http.put("/datastore/label", params={"image": IMAGE, "tag": "x"}, files={"label": ("l.nii.gz", content)}),
            http.put(f"/doselabel/labels/{IMAGE}/{version}/review", json={"approved": True}),
            http.put(f"/doselabel/labels/{IMAGE}/reopen", json={"comment": "again"}),
            http.put("/session/", files={"files": ("scan.nii.gz", content)}),
            http.post("/infer/kidney_liver", params={"image": IMAGE}),
            http.post("/doselabel/draft", files={"files": (f"{IMAGE}.nii.gz", content)}),
            http.get("/doselabel/export"),
        ):
            told(reply)
        assert http.get("/doselabel/next", params={"user": "ada"}).status_code == 200, "choosing needs no disk"
    finally:
        filler.unlink()
    (newest,) = [v for v in http.get(f"/doselabel/labels/{IMAGE}").json() if v["version"] == version]
    assert not newest["approved"]


def test_a_disk_that_became_read_only_is_told_and_what_is_there_is_still_given_out(http, disk, label_file):
    kept = whole(http)
    # Files are open for writing on it, so the kernel would refuse to remount it: another mount, read-only, covers it.
    assert mount("--bind", disk, disk)
    try:
        assert mount("-o", "remount,ro,bind", disk)
        with pytest.raises(OSError, match="Read-only"):
            (disk / "x").touch()
        for reply in (save(http, label_file), http.post("/jobs/kidney_liver", json={"image_id": IMAGE})):
            assert (reply.status_code, reply.json()["code"]) == (500, "disk"), reply.text
            assert "Read-only" in reply.json()["message"]
            assert "permissions" in reply.json()["hint"]
        assert whole(http) == kept
        assert http.get("/health").status_code == 200
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert save(http, label_file).status_code == 200
    assert job(http)["state"] == "done"


def test_a_start_on_a_full_or_read_only_disk_says_so(boxes, tmp_path):
    from doselabel.errors import ServerError

    root = tmp_path / "studies"
    root.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", root):
        pytest.skip("this account may not mount a small disk")
    try:
        boxes.make_patient(root / "P-001", "P-001", times_h=(24.0,))
        assert mount("-o", "remount,ro", root)
        with pytest.raises(ServerError, match=r"can't be written \(Read-only"), running(root, log=tmp_path / "log"):
            pass
        assert mount("-o", "remount,rw", root)
        fill(root)
        with (
            pytest.raises(ServerError, match=r"can't be written \(No space|No space left"),
            running(root, log=tmp_path / "log"),
        ):
            pass
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
    assert not (root / STATE).exists()
