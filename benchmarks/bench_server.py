"""What a server stands: ten annotators, a kill in the middle of saves, a thousand patients; and what it costs to start.

Run: ``python benchmarks/bench_server.py annotators`` (ten annotators for two minutes: next, infer, save, review, and
one training that ends; wanted: no error, p95 of ``/info/`` under 0.3 s, memory flat), ``… kill`` (kill −9 in the middle
of 200 saves of 8 clients, five rounds; wanted: nothing acknowledged is lost, nothing half-written, nothing left over)
``… start`` (wanted: a first segmentation 20 s after the start, on two idle processors, and 2.5 GB when idle)
or ``… scale`` (1000 patients, 4000 CTs, ten versions each; wanted: ``/info/`` under 0.1 s, the first look at the disk
under 5 s, a new folder noticed within 2 s). Each prints its figures as JSON, with how busy the processors were
meanwhile (1.0: all of them, all the time).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.study import Study
from doselabel.submitted import hash_of
from doselabel.wire import LabelVersion
from monailabel_app.cases import cases_of
from monailabel_app.conf import STATE
from monailabel_app.launch import Running, running
from monailabel_app.metrics import resident_bytes

GRID = Geometry((24, 48, 48), (5.0, 8.0, 8.0), (-188.0, -188.0, -60.0))
PATIENCE_S = 600.0
Json = dict[str, Any]


def organs() -> LabelMap:
    """Two kidneys and a liver as boxes."""
    array = np.zeros(GRID.shape, np.uint8)
    array[8:16, 26:32, 30:35], array[8:16, 26:32, 13:18], array[4:14, 14:24, 8:24] = 1, 2, 3
    return LabelMap(array, GRID)


def make_patient(folder: Path, time_points: int = 3) -> Study:
    """A box-shaped patient."""
    labels = organs().array
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[:, 6:42, 4:44] = 20
    ct[labels > 0] = 60
    write_image(folder / "ct.nii.gz", Volume(ct, GRID))
    points = []
    for number in range(1, time_points + 1):
        write_image(folder / f"ct_tp{number}.nii.gz", Volume(ct, GRID))
        write_image(folder / f"spect_tp{number}.nii.gz", Volume((labels > 0).astype(np.float32) * 1e6, GRID))
        points.append({"time_h": 24.0 * number, "ct": f"ct_tp{number}.nii.gz", "spect": f"spect_tp{number}.nii.gz"})
    content = {"schema": "doselabel.study/1", "patient_id": folder.name, "nuclide": "Lu-177"}
    content |= {"injected_activity_mbq": 7400, "ct": "ct.nii.gz", "time_points": points}
    study = Study.model_validate(content)
    study.save(folder)
    return study


def save(client: httpx.Client, image: str, label: bytes, **fields: Any) -> Json:
    """Submit a label map."""
    reply = client.post(
        f"/doselabel/labels/{image}",
        files={"file": ("label.nii.gz", label)},
        data={"params": json.dumps(fields)},
    )
    reply.raise_for_status()
    return dict(reply.json())


# ---- kill −9 in the middle of saves


def kill_rounds(root: Path, *, rounds: int = 5, clients: int = 8, saves: int = 200, conf: Json | None = None) -> Json:
    """Kill the server in the middle of saves, and see what is there afterwards."""
    make_patient(root / "P-001")
    label = write_labels(root.parent / "label.nii.gz", organs()).read_bytes()
    images = [f"P-001__{name}" for name in ("ct", "ct_tp1", "ct_tp2", "ct_tp3")]
    acknowledged: list[Json] = []
    for number in range(rounds):
        with running(root, conf=conf, timeout_s=PATIENCE_S) as server:
            acknowledged += _saves_until_killed(server, images, label, number, clients, saves)
    with running(root, conf=conf, timeout_s=PATIENCE_S) as server:
        with _client(server) as client:
            save(client, images[0], label, author="after")
            listed = {image: client.get(f"/doselabel/labels/{image}").json() for image in images}
        left_over = [str(p) for p in (root / STATE / "tmp").glob("doselabel-*")]
    there = {(image, v["version"]): v for image, versions in listed.items() for v in versions}
    lost = [a for a in acknowledged if there.get((a["image_id"], a["version"]), {}).get("sha256") != a["sha256"]]
    twice = len(acknowledged) - len({(a["image_id"], a["version"]) for a in acknowledged})
    return {
        "acknowledged": len(acknowledged),
        "lost": len(lost),
        "numbers_given_twice": twice,
        "damaged": sum(v["error"] is not None for v in there.values()),
        "left_over": left_over,
    }


def _saves_until_killed(
    server: Running, images: list[str], label: bytes, number: int, clients: int, saves: int
) -> list[Json]:
    """What was acknowledged before the server died; each round it dies a little later."""
    left, lock, enough = itertools.count(), threading.Lock(), threading.Event()
    acknowledged: list[Json] = []

    def save_on(who: int) -> None:
        with _client(server) as client, suppress(httpx.HTTPError):
            while (n := next(left)) < saves:
                told = save(client, images[n % len(images)], label, author=f"user{who}", key=f"{number}-{n}")
                with lock:
                    acknowledged.append(told)
                if n >= saves * (0.3 + 0.1 * number):
                    enough.set()
        enough.set()

    with ThreadPoolExecutor(clients) as pool:
        for who in range(clients):
            pool.submit(save_on, who)
        enough.wait(PATIENCE_S)
        server.process.kill()
        server.process.wait()
    return acknowledged


def _client(server: Running) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False)


# ---- ten annotators


def annotators(root: Path, *, patients: int, people: int, seconds: float, steps: int, conf: Json | None = None) -> Json:
    """Have people work on a server, and measure what they wait for."""
    for number in range(1, patients + 1):
        make_patient(root / f"P-{number:03}")
    label = write_labels(root.parent / "label.nii.gz", organs()).read_bytes()
    waits: dict[str, list[float]] = {}
    errors: list[str] = []
    lock = threading.Lock()
    with running(root, conf=conf, timeout_s=PATIENCE_S) as server:
        end = float("inf")  # it counts from when the server is warm

        def timed(what: str, call: Callable[[], Any]) -> Any:
            began = time.monotonic()
            try:
                return call()
            except httpx.HTTPStatusError as error:
                with lock:
                    errors.append(f"{what}: {error.response.status_code} {error.response.text[:200]}")
            except Exception as error:
                with lock:
                    errors.append(f"{what}: {error!r}")
            finally:
                with lock:
                    waits.setdefault(what, []).append(time.monotonic() - began)

        def get(client: httpx.Client, path: str, **params: Any) -> Any:
            return client.get(path, params=params).raise_for_status().json()

        def annotate(who: int) -> None:
            chance = random.Random(who)
            with _client(server) as client:
                while time.monotonic() < end:
                    timed("/info/", lambda: get(client, "/info/"))
                    found = timed("next", lambda: get(client, "/doselabel/next", user=f"user{who}"))
                    image = (found or {}).get("image_id") or f"P-{1 + who % patients:03}__ct"
                    query = {"image": image, "output": "json"}
                    timed("infer", lambda q=query: client.post("/infer/kidney_liver", params=q).raise_for_status())
                    told = timed("save", lambda i=image: save(client, i, label, author=f"user{who}"))
                    if told:
                        path, review = f"/doselabel/labels/{image}/{told['version']}/review", {"approved": True}
                        timed("review", lambda p=path, r=review: client.put(p, json=r).raise_for_status())
                    time.sleep(chance.uniform(0.2, 1.0))

        with (
            _client(server) as client,
            ThreadPoolExecutor(people) as pool,
        ):
            save(client, "P-001__ct", label, author="first")
            client.post("/infer/kidney_liver", params={"image": "P-001__ct", "output": "json"}).raise_for_status()
            memory, end = [_memory_mb(server.process.pid)], time.monotonic() + seconds
            training = client.post("/jobs/train", json={"params": {"steps": steps}}).raise_for_status().json()["id"]
            for who in range(people):
                pool.submit(annotate, who)
            while time.monotonic() < end:
                time.sleep(min(5.0, seconds / 6))
                memory.append(_memory_mb(server.process.pid))
            pool.shutdown()
            while not (job := client.get(f"/jobs/{training}").json())["ended"]:
                time.sleep(0.5)
    return {
        "errors": errors,
        "training": job["state"],
        "server_memory_mb": memory,
        "count": {what: len(values) for what, values in waits.items()},
        "p50_s": {what: round(statistics.median(values), 3) for what, values in waits.items()},
        "p95_s": {what: round(float(np.percentile(values, 95)), 3) for what, values in waits.items()},
    }


def _memory_mb(pid: int) -> int:
    return round(resident_bytes(pid) / 2**20)


# ---- the start


def start(root: Path, *, conf: Json | None = None) -> Json:
    """Start a server, have one CT segmented, and see what both cost and what memory it has then."""
    make_patient(root / "P-001")
    began = time.monotonic()
    with running(root, conf=conf, timeout_s=PATIENCE_S) as server, _client(server) as client:
        answers_s = time.monotonic() - began
        client.post("/infer/kidney_liver", params={"image": "P-001__ct", "output": "json"}).raise_for_status()
        first_s = time.monotonic() - began
        own = psutil.Process(server.process.pid)
        children = [child for child in own.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
        processes = [own, *children]
        spent = {" ".join(p.cmdline()[2:3]): round(sum(p.cpu_times()[:2]), 1) for p in processes}
        memory = {" ".join(p.cmdline()[2:3]): _memory_mb(p.pid) for p in processes}
    return {
        "answers_s": round(answers_s, 1),
        "first_segmentation_s": round(first_s, 1),
        "cpu_s": spent,
        "memory_mb": memory,
        "memory_in_all_mb": sum(memory.values()),
    }


# ---- a thousand patients


def make_cohort(root: Path, patients: int, versions: int) -> None:
    """Many patients with four CTs each and as many label versions; the files of all are the same few, linked."""
    first = root / "P-0001"
    study = make_patient(first)
    label = write_labels(root.parent / "label.nii.gz", organs())
    digest = hash_of(label)
    for number in range(1, patients + 1):
        folder = root / f"P-{number:04}"
        if number > 1:
            folder.mkdir()
            for _, name in study.files():
                os.link(first / name, folder / name)
            manifest = json.loads((first / "study.json").read_text("utf-8")) | {"patient_id": folder.name}
            (folder / "study.json").write_text(json.dumps(manifest), "utf-8")
        for name in ("ct", "ct_tp1", "ct_tp2", "ct_tp3"):
            own, final = folder / "labels" / "versions" / name, folder / "labels" / "final"
            own.mkdir(parents=True)
            final.mkdir(exist_ok=True)
            os.link(label, final / f"{name}.nii.gz")
            for version in range(1, versions + 1):
                os.link(label, own / f"v{version:04d}.nii.gz")
                known = LabelVersion(
                    image_id=f"{folder.name}__{name}", version=version, created=datetime.now(UTC), sha256=digest
                )
                (own / f"v{version:04d}.json").write_text(known.model_dump_json(), "utf-8")


def scale(root: Path, *, patients: int = 1000, versions: int = 10, conf: Json | None = None) -> Json:
    """Serve a large cohort, and measure what its size costs."""
    make_cohort(root, patients, versions)
    from monailabel_app.datastore import StudyDatastore

    began, spent = time.monotonic(), time.process_time()
    store = StudyDatastore(root)
    look_s, look_cpu_s = time.monotonic() - began, time.process_time() - spent
    began = time.monotonic()
    store.refresh()
    again_s = time.monotonic() - began
    assert len(store.cases()) == 4 * patients, len(store.cases())
    assert len(list(cases_of(store.study("P-0001")))) == 4
    with (
        running(root, conf=conf, timeout_s=PATIENCE_S) as server,
        _client(server) as client,
    ):
        waits, cpu_s, own = {}, {}, psutil.Process(server.process.pid)
        for path in ("/info/", "/doselabel/next?user=ada", "/doselabel/studies", "/datastore/?output=all"):
            seconds = []
            times, before = 20 if path == "/info/" else 2, sum(own.cpu_times()[:2])
            for _ in range(times):
                began = time.monotonic()
                client.get(path).raise_for_status()
                seconds.append(time.monotonic() - began)
            waits[path] = round(statistics.median(seconds), 3)
            cpu_s[path] = round((sum(own.cpu_times()[:2]) - before) / times, 3)
        shutil.copytree(root / "P-0001", root.parent / "new", ignore=shutil.ignore_patterns("labels"))
        manifest = root.parent / "new" / "study.json"
        manifest.write_text(manifest.read_text("utf-8").replace("P-0001", "P-new"), "utf-8")
        began = time.monotonic()
        (root.parent / "new").rename(root / "P-new")
        while client.get("/datastore/image/info", params={"image": "P-new__ct"}).status_code != 200:
            time.sleep(0.05)
        noticed_s = time.monotonic() - began
    return {
        "cts": 4 * patients,
        "first_look_s": round(look_s, 2),
        "first_look_cpu_s": round(look_cpu_s, 2),
        "look_again_s": round(again_s, 3),
        "answer_s": waits,
        "answer_cpu_s": cpu_s,
        "new_folder_noticed_s": round(noticed_s, 2),
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("annotators", "kill", "scale", "start"))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patients", type=int, default=0, help="default: 12, or 1000 for scale")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="doselabel-bench-") as folder:
        root, conf = Path(folder) / "studies", {"replay": "none"}
        root.mkdir()
        before = psutil.cpu_times()
        if given.what == "kill":
            found = kill_rounds(root, rounds=given.rounds, conf=conf)
        elif given.what == "start":
            found = start(root, conf=conf)
        elif given.what == "scale":
            found = scale(root, patients=given.patients or 1000, conf=conf)
        else:
            patients = given.patients or 12
            found = annotators(root, patients=patients, people=given.people, seconds=given.seconds, steps=40, conf=conf)
        now = psutil.cpu_times()
    idle = (now.idle - before.idle) / max(1e-9, sum(now) - sum(before))
    print(json.dumps(found | {"processors_busy": round(1 - idle, 2)}, indent=2))


if __name__ == "__main__":
    main()
