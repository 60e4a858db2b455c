"""The life of a label map against a real server process: CTs of P-004."""

import io
import json
import zipfile

from doselabel.wire import LabelEvent, LabelSubmission, LabelVersion

CT = "P-004__ct_tp3"


def submit(http, path, **fields) -> LabelVersion:
    with path.open("rb") as file:
        params = LabelSubmission(**fields).model_dump_json()
        reply = http.post(f"/doselabel/labels/{CT}", files={"file": (path.name, file)}, data={"params": params})
    assert reply.status_code == 200, reply.text
    return LabelVersion.model_validate(reply.json())


def labelled(http) -> int:
    return http.get("/datastore/").json()["completed"]


def test_from_a_draft_to_an_approved_label_map_and_back_to_work(http, label_file, served_root):
    before = labelled(http)
    draft = submit(http, label_file, author="ada", draft=True)
    assert (draft.state, labelled(http)) == ("draft", before)
    first = submit(http, label_file, author="ada", seen=0)
    assert (first.state, labelled(http)) == ("submitted", before + 1)
    blind = submit(http, label_file, author="ben", seen=0)
    assert blind.conflicts == [first.version]
    review = {"approved": True, "reviewer": "eva", "comment": "good"}
    assert http.put(f"/doselabel/labels/{CT}/{first.version}/review", json=review).json()["state"] == "approved"
    versions = [LabelVersion.model_validate(row) for row in http.get(f"/doselabel/labels/{CT}").json()]
    assert [(v.state, v.author, v.conflicts) for v in versions] == [
        ("submitted", "ben", [first.version]),
        ("approved", "ada", [blind.version]),
    ]
    assert http.get("/datastore/label/info", params={"label": CT, "tag": "final"}).json()["version"] == first.version
    reopened = http.put(f"/doselabel/labels/{CT}/reopen", json={"by": "eva", "comment": "liver cut"})
    assert LabelEvent.model_validate(reopened.json()).version == blind.version
    drawn = (http.get("/doselabel/next", params={"strategy": "random"}).json() for _ in range(500))  # for nobody
    assert next(found for found in drawn if found["image_id"] == CT)["reason"].startswith("reopened by eva: liver cut")
    history = [LabelEvent.model_validate(row) for row in http.get(f"/doselabel/labels/{CT}/history").json()]
    assert [(event.what, event.by) for event in history] == [
        ("submitted", "ada"),
        ("submitted", "ben"),
        ("approved", "eva"),
        ("reopened", "eva"),
    ]
    listed = (image for study in http.get("/doselabel/studies").json() for image in study["images"])
    told = next(image for image in listed if image["image_id"] == CT)
    assert (told["state"], told["authors"]) == ("submitted", ["ben", "ada"])
    packed = zipfile.ZipFile(io.BytesIO(http.get("/doselabel/export", params={"approved": True}).content))
    row = next(row for row in json.loads(packed.read("index.json"))["label_maps"] if row["image_id"] == CT)
    assert (row["version"], row["review"]["comment"]) == (first.version, "good")
    assert packed.read(f"label/{CT}.nii.gz") == http.get(f"/doselabel/labels/{CT}/{first.version}").content

    file = served_root / "P-004" / "labels" / "versions" / "ct_tp3" / f"v{first.version:04d}.nii.gz"
    file.write_bytes(file.read_bytes()[:-3])
    reply = http.get(f"/doselabel/labels/{CT}/{first.version}")
    assert (reply.status_code, reply.json()["code"]) == (422, "label")
    assert reply.json()["request_id"] == reply.headers["X-Request-ID"]
    newest, damaged = http.get(f"/doselabel/labels/{CT}").json()
    assert "not the one that was submitted" in damaged["error"]["message"]
    assert newest["error"] is None
    stock = http.get("/datastore/label", params={"label": CT, "tag": "final"})
    assert stock.content == http.get(f"/doselabel/labels/{CT}/{blind.version}").content, "the next best counts"
