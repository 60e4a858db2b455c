"""Uploads are read in a process that may die without harm."""

import threading

import numpy as np
import psutil
import pytest

from doselabel.errors import GeometryError, LabelError
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, read_labels, write_labels
from monailabel_app.checking import Checker, Upload, check
from monailabel_app.refusals import Refused


@pytest.fixture
def checker():
    checker = Checker(children=1)
    yield checker
    checker.close()


@pytest.fixture
def upload(tmp_path, boxes, label_file):
    boxes.make_patient(tmp_path / "P-001", "P-001", times_h=(24.0,))

    def make(file=label_file, **fields):
        return Upload(str(file), str(tmp_path / "P-001"), "ct.nii.gz", "P-001__ct", **fields)

    return make


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "monailabel_app.checking" in p.cmdline()]


def test_a_child_finds_what_is_found_here_and_writes_it(checker, upload, tmp_path, boxes):
    out = tmp_path / "out.nii.gz"
    assert checker(upload(out=str(out))) == check(upload(out=str(tmp_path / "again.nii.gz")))
    assert (read_labels(out).array == boxes.organs()).all()
    first = children()
    checker(upload(out=str(out)))
    assert children() == first, "a child is used again"


def test_what_is_wrong_is_told_as_if_it_had_been_read_here(checker, upload, tmp_path, boxes):
    other = Geometry((24, 48, 48), (5.0, 8.0, 9.0), boxes.grid.origin_mm)
    elsewhere = write_labels(tmp_path / "elsewhere.nii.gz", LabelMap(boxes.organs(), other))
    with pytest.raises(LabelError, match="grid of P-001__ct"):
        checker(upload(elsewhere, out=str(tmp_path / "out.nii.gz")))
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    with pytest.raises(GeometryError, match="The label map") as refusal:
        checker(upload(tmp_path / "bad.nii.gz", out=str(tmp_path / "out.nii.gz")))
    assert str(tmp_path) not in str(refusal.value)
    assert not (tmp_path / "out.nii.gz").exists()


def test_a_child_that_dies_is_no_more_than_a_refusal(checker, upload, tmp_path):
    good = upload(out=str(tmp_path / "out.nii.gz"))
    checker(good)
    (child,) = children()
    child.suspend()  # so that it dies at work
    threading.Timer(0.2, child.kill).start()
    with pytest.raises(Refused, match="ended"):
        checker(good)
    checker(good)


def test_a_file_that_takes_for_ever_is_given_up(checker, upload, tmp_path):
    good = upload(out=str(tmp_path / "out.nii.gz"))
    checker(good)
    children()[0].suspend()
    checker._patience_s = 0.2
    with pytest.raises(Refused, match="longer than"):
        checker(good)
    assert not children()


def test_more_memory_than_an_upload_may_take_is_refused_and_the_next_one_is_served(checker, upload, tmp_path):
    checker(upload(out=str(tmp_path / "out.nii.gz")))
    used = children()[0].memory_info().vms
    checker.close()
    grid = Geometry((64, 512, 512), (5.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    write_image(tmp_path / "P-001" / "ct.nii.gz", Volume(np.zeros(grid.shape, np.int16), grid))
    wide = np.zeros(grid.shape, np.float64)
    wide[0, 0, 0] = 1
    write_image(tmp_path / "wide.nii.gz", Volume(wide, grid))
    bounded = Checker(children=1, memory_bytes=used + (32 << 20))
    for _ in range(2):
        with pytest.raises(Refused, match=r"more memory|ended"):
            bounded(upload(tmp_path / "wide.nii.gz", out=str(tmp_path / "out.nii.gz")))
    bounded.close()
