"""What a client may not do, against a real server process: nothing it names is used as a path."""

import io
import tarfile
from pathlib import Path

import pytest

from doselabel.wire import ErrorInfo


def refused(reply, *statuses) -> ErrorInfo:
    assert reply.status_code in statuses, (reply.status_code, reply.text)
    return ErrorInfo.model_validate(reply.json())


def everything(server) -> set[Path]:
    root = server.log.parents[2]
    return {path for path in root.rglob("*") if ".doselabel" not in path.parts}


@pytest.fixture(autouse=True)
def nothing_is_written(server):
    before = everything(server)
    yield
    assert everything(server) == before


@pytest.mark.parametrize("image", ["../x", "../../x", "/tmp/x", "P-004__new", ""])
def test_images_are_not_uploaded(http, image):
    for path in ("/datastore/image", "/datastore/"):
        refused(http.put(path, params={"image": image}, files={"file": ("x.nii.gz", b"x")}), 403)


def test_images_models_and_submissions_are_not_removed(http, server):
    refused(http.delete("/datastore/image", params={"id": "P-004__ct"}), 403)
    refused(http.delete("/model/kidney_liver"), 403)
    refused(http.put("/model/kidney_liver", files={"file": ("m.pt", b"x")}), 403)
    refused(http.delete("/datastore/label", params={"id": "P-004__ct", "tag": "final"}), 422)


@pytest.mark.parametrize("tag", ["../../x", "..", "a/b", "/tmp"])
def test_a_tag_does_not_lead_out_of_the_study(http, tag, label_file):
    params = {"image": "P-004__ct", "tag": tag}
    refused(http.put("/datastore/label", params=params, files={"label": ("l.nii.gz", label_file.read_bytes())}), 422)
    refused(http.get("/datastore/label", params={"label": "P-004__ct", "tag": tag}), 422)
    refused(http.get("/datastore/label/info", params={"label": "P-004__ct", "tag": tag}), 422)


def test_a_server_path_is_no_image(http, server, label_file):
    ct = server.log.parents[1] / "P-004" / "ct.nii.gz"
    for image in (str(ct), "../P-004/ct.nii.gz", "/etc/passwd"):
        assert refused(http.post("/infer/kidney_liver", params={"image": image}), 404).code == "not_found"
        refused(http.get("/datastore/image", params={"image": image}), 404)
        refused(http.post("/jobs/kidney_liver", json={"image_id": image}), 404)
        refused(http.get(f"/doselabel/labels/{image.replace('/', '%2F')}"), 404)


def test_params_do_not_override_what_the_server_sets(http, server):
    ct = str(server.log.parents[1] / "P-004" / "ct.nii.gz")
    form = {"params": f'{{"image": "{ct}", "model": "kidney_liver"}}'}
    assert refused(http.post("/infer/nothing", params={"image": "P-004__none"}, data=form), 404)
    for key in ("image", "out", "model", "progress", "label", "session"):
        reply = http.post("/jobs/kidney_liver", json={"image_id": "P-004__ct", "params": {key: "/tmp/x"}})
        assert key in refused(reply, 422).message


@pytest.mark.parametrize("name", ["../P-003/ct.nii.gz", "..%2F..%2Fx", "/etc/passwd", "labels/final/ct.nii.gz"])
def test_a_study_gives_out_no_other_file(http, name):
    refused(http.get(f"/doselabel/studies/P-004/file/{name}"), 404)


def test_archives_are_not_unpacked(http):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../slipped"), io.BytesIO())
    files = {"files": ("x.tar", archive.getvalue())}
    refused(http.put("/session/", params={"uncompress": "true"}, files=files), 403)


@pytest.mark.parametrize("session", ["../../x", "..", "nothing"])
def test_a_session_id_is_no_path(http, session):
    refused(http.post("/infer/kidney_liver", params={"session_id": session}), 404)


def test_doors_that_lead_elsewhere_are_closed(http):
    refused(http.post("/reload"), 404)
    refused(http.get("/proxy/dicom/wado/studies"), 404)
    refused(http.post("/infer/wsi/kidney_liver", json={}), 404)


def test_web_pages_of_others_and_rebound_names_are_refused(http):
    refused(http.get("/info/", headers={"Origin": "https://evil.example"}), 403)
    refused(http.get("/info/", headers={"Host": "evil.example"}), 403)
    assert http.get("/info/", headers={"Origin": str(http.base_url).rstrip("/")}).status_code == 200


def test_nonsense_is_refused_with_a_reason(http):
    assert "not JSON" in refused(http.post("/infer/kidney_liver?image=P-004__ct", data={"params": "{"}), 422).message
    assert "image_id" in refused(http.post("/jobs/kidney_liver", json={"image_id": 7}), 422).message
    refused(http.get("/jobs/..%2F..%2Fx"), 404)
    refused(http.get("/doselabel/labels/P-004__ct/99"), 422)
    refused(http.get("/doselabel/next", params={"strategy": "magic"}), 404)
    refused(http.get("/nothing"), 404)
