"""A case is opened through the same door as everywhere: values are looked at, and are in the unit that is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from doselabel.errors import DoselabelError
from doselabel.geometry import Volume, canonical, read_image, write_image
from doselabel.reading import bq_ml_per_value, read_spect
from doselabel.study import Study
from napari_plugin.session.case import Case, open_case
from napari_plugin.session.recovery import Recovery

IMAGE = "P-001__ct_tp2"


@pytest.fixture
def folder(make_patient, tmp_path) -> Path:
    return make_patient(tmp_path / "studies" / "P-001", "P-001").folder


def opened(folder: Path, tmp_path: Path) -> Case:
    """Open a case as the server's datastore tells of it, its files fetched by copying them."""
    datastore = pytest.importorskip("monailabel_app.datastore")

    def fetch(patient: str, name: str, to: Path, *_: object) -> Path:
        to.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(folder.parent / patient / name, to / name))

    client = SimpleNamespace(url="http://a", study_file=fetch, label_versions=lambda _: [])
    studies = datastore.StudyDatastore(folder.parent).studies()
    return open_case(client, studies, IMAGE, tmp_path / "fetched", Recovery(tmp_path / "drafts", client.url))


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        image = read_image(folder / name)
        write_image(folder / name, Volume(change(image.array), image.geometry))

    return spoil


def told(**fields: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "study.json").read_text("utf-8"))
        for point in content["time_points"]:
            point |= {"scan_duration_min": 30, "count_rate_cps": 2e6}
        (folder / "study.json").write_text(json.dumps(content | fields))

    return spoil


def counts(folder: Path, **measured: object) -> None:
    sensitivity = {"cps_per_mbq": 10.0, "sd_cps_per_mbq": 0.2}
    camera = {"schema": "doselabel.camera/1", "name": "A", "nuclide": "Lu-177", "sensitivity": sensitivity}
    (folder / "camera.json").write_text(json.dumps(camera | measured))
    told(camera="camera.json", spect_unit="counts")(folder)


def blind(folder: Path) -> None:
    counts(folder, dead_time={"tau_us": 1.0, "sd_us": 0.1, "model": "nonparalyzable"})


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (changed("ct_tp2.nii.gz", lambda ct: (ct > -500).astype(np.int16)), "P-001, ct_tp2.nii.gz: values run from 0"),
        (changed("spect_tp2.nii.gz", lambda spect: -spect), "P-001, spect_tp2.nii.gz: has .* negative values"),
        (changed("spect_tp2.nii.gz", lambda spect: 0 * spect + 5), "P-001, spect_tp2.nii.gz: is 5 everywhere"),
        (blind, "P-001, spect_tp2.nii.gz: its values can't be brought to Bq/mL"),
    ],
    ids=["a label map as CT", "a negative SPECT", "a SPECT of one value", "a rate beyond the camera's"],
)
def test_what_a_dose_would_refuse_is_refused_when_a_case_is_opened(folder, tmp_path, spoil, expected):
    spoil(folder)
    with pytest.raises(DoselabelError, match=expected) as caught:
        opened(folder, tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "spoil", [lambda _: None, told(decay_corrected_to="injection"), counts], ids=["Bq/mL", "decay-corrected", "counts"]
)
def test_a_spect_is_shown_in_the_unit_that_a_dose_is_computed_in(folder, tmp_path, spoil):
    spoil(folder)
    (frame,) = opened(folder, tmp_path).spects
    study = Study.load(folder)
    expected = canonical(read_spect(study, 1)).array
    np.testing.assert_allclose(frame.volume.array, expected, rtol=1e-6)
    assert (bq_ml_per_value(study, 1) == 1.0) == (study.spect_unit == "Bq/mL" and study.decay_corrected_to == "none")
