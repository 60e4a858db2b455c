"""Submissions wait on disk until their server has them: none is lost, none is sent elsewhere, none is stored twice."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from doselabel.labels import LabelMap, read_labels
from doselabel.wire import LabelSubmission, LabelVersion
from napari_plugin.client import Client
from napari_plugin.client.http import Unreachable
from napari_plugin.session.outbox import Outbox
from napari_plugin.session.recovery import content_of, now


@pytest.fixture
def labels(make_case, truth) -> LabelMap:
    return make_case().to_native(truth)


@pytest.fixture
def outbox(tmp_path) -> Outbox:
    return Outbox(tmp_path, "http://a")


def client(answer) -> Client:
    return Client("http://a", transport=httpx.MockTransport(answer))


def stored(request: httpx.Request) -> httpx.Response:
    version = LabelVersion(image_id="x", version=1, created=now())
    return httpx.Response(200, text=version.model_dump_json())


def gone(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def test_what_could_not_be_sent_waits_voxel_for_voxel_also_after_a_restart(outbox, labels, tmp_path):
    sealed = outbox.seal("P-001__ct", labels, LabelSubmission(author="ada", seen=3))
    with pytest.raises(Unreachable):
        outbox.deliver(client(gone))
    (waiting,) = Outbox(tmp_path, "http://a").waiting()
    assert waiting == sealed
    assert np.array_equal(read_labels(waiting.file).array, labels.array)
    assert waiting.content == content_of(labels)
    assert (waiting.submission.author, waiting.submission.seen) == ("ada", 3)
    (delivery,) = outbox.deliver(client(stored))
    assert delivery.version.version == 1
    assert outbox.waiting() == []


def test_a_parcel_keeps_its_key_so_that_it_is_stored_once(outbox, labels):
    outbox.seal("P-001__ct", labels, LabelSubmission())
    outbox.seal("P-001__ct", labels, LabelSubmission())
    first, second = (parcel.submission.key for parcel in outbox.waiting())
    assert first != second
    with pytest.raises(Unreachable):
        outbox.deliver(client(gone))
    assert [parcel.submission.key for parcel in outbox.waiting()] == [first, second]


def test_parcels_go_in_the_order_they_were_sealed_and_stop_at_a_server_that_is_gone(outbox, labels):
    answers = iter([stored, gone])
    for image_id in ("one", "two", "three"):
        outbox.seal(image_id, labels, LabelSubmission())
    done = outbox.deliver(client(lambda request: next(answers)(request)))
    assert [d.parcel.image_id for d in done] == ["one"]
    assert [parcel.image_id for parcel in outbox.waiting()] == ["two", "three"]


def test_what_the_server_refuses_is_put_aside_with_its_reason(outbox, labels):
    outbox.seal("P-001__ct", labels, LabelSubmission())
    refusal = httpx.Response(422, json={"code": "label", "message": "Not on its CT's grid.", "hint": ""})
    (delivery,) = outbox.deliver(client(lambda _: refusal))
    assert "grid" in str(delivery.error)
    assert outbox.waiting() == []
    assert len(list((outbox.folder / "refused").glob("*.nii.gz"))) == 1


def test_outboxes_of_two_servers_do_not_meet(outbox, labels, tmp_path):
    outbox.seal("P-001__ct", labels, LabelSubmission())
    assert Outbox(tmp_path, "http://b").waiting() == []
