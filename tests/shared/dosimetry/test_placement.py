"""Where a SPECT is put, and that a wrong one is left alone and named: turned, resized, far, of another patient."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from doselabel import cli_dose
from doselabel.alarms import SEVERITIES
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.alignment import placement
from doselabel.dosimetry.alignment.placement import Placement, compared, place
from doselabel.dosimetry.alignment.registration import Alignment
from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import RegistrationError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.labels import LabelMap, read_labels
from doselabel.study import Study

FWHM_MM = (12.0, 12.0, 12.0)


@pytest.fixture(scope="module")
def scan(three_organs: Study) -> tuple[Volume, LabelMap]:
    """The 6 h SPECT, which lies where it should, and the masks."""
    spect = read_image(three_organs.path(three_organs.time_points[1].spect))
    return spect, read_labels(three_organs.folder / "truth" / "ct.nii.gz")


def placed(spect: Volume, labels: LabelMap, **options) -> Placement:
    chosen = {"move": True, "smallest_shift_mm": 3.0} | options
    return place(spect, labels, 1, stored=np.eye(4), method="identity", **chosen)


def shifted(spect: Volume, mm: float) -> Volume:
    x, y, z = spect.geometry.origin_mm
    return Volume(spect.array, Geometry(spect.geometry.shape, spect.geometry.spacing_mm, (x, y, z + mm)))


def resized(spect: Volume, factor: float) -> Volume:
    """Another spacing in the file, the middle kept."""
    old = spect.geometry
    new = Geometry(old.shape, tuple(factor * s for s in old.spacing_mm))
    middle = (np.asarray(old.shape) - 1) / 2
    origin = old.index_to_lps(middle) - new.index_to_lps(middle)
    return Volume(spect.array, Geometry(old.shape, new.spacing_mm, tuple(float(v) for v in origin)))


def test_a_spect_in_its_place_is_left_there_without_a_word(scan):
    found = placed(*scan)
    assert found.findings == ()
    assert found.relative_sd == 0
    np.testing.assert_array_equal(found.alignment.matrix, np.eye(4))


def test_some_millimetres_are_mended_and_said(scan):
    found = placed(shifted(scan[0], 9.0), scan[1])
    (alarm,) = found.findings
    assert alarm.code == "place-moved"
    assert alarm.numbers["moved_mm"] == pytest.approx(9, abs=0.7)
    assert found.alignment.matrix[2, 3] == pytest.approx(-9, abs=0.7)


@pytest.mark.parametrize("mm", [22.0, 45.0])
def test_a_spect_far_off_is_left_and_named(scan, mm):
    found = placed(shifted(scan[0], mm), scan[1])
    assert [alarm.code for alarm in found.findings] == ["place-far"]
    np.testing.assert_array_equal(found.alignment.matrix, np.eye(4))
    assert found.relative_sd > 0.2


def test_a_mirrored_spect_is_left_and_named(scan):
    spect = Volume(np.flip(scan[0].array, 2).copy(), scan[0].geometry)
    found = placed(spect, scan[1])
    assert [alarm.code for alarm in found.findings] == ["place-turned"]
    assert "left and right" in found.findings[0].sentence
    np.testing.assert_array_equal(found.alignment.matrix, np.eye(4))


def test_a_wrong_spacing_is_named_with_its_factor(scan):
    found = placed(resized(scan[0], 0.8), scan[1])
    assert [alarm.code for alarm in found.findings] == ["place-size"]
    assert found.findings[0].numbers["factor"] == pytest.approx(1.25, abs=0.01)


def test_uptake_that_is_nowhere_near_the_organs_is_named(scan, known: SimpleNamespace):
    elsewhere = known.inside(scan[0].geometry, (-90, -60, 0), (20, 20, 60)).astype(np.float32) + 1e-3
    found = placed(Volume(1e5 * elsewhere, scan[0].geometry), scan[1])
    assert [alarm.severity for alarm in found.findings] == ["alarm"]
    np.testing.assert_array_equal(found.alignment.matrix, np.eye(4))


def test_a_stored_transform_is_looked_at_and_never_changed(scan):
    found = placed(shifted(scan[0], 9.0), scan[1], move=False)
    assert found.findings == ()
    np.testing.assert_array_equal(found.alignment.matrix, np.eye(4))


def test_who_insists_gets_the_best_place_or_an_error(scan):
    assert placed(shifted(scan[0], 20.0), scan[1], insist=True).alignment.shift_mm == pytest.approx(20, abs=1)
    with pytest.raises(RegistrationError, match="beyond the search"):
        placed(shifted(scan[0], 45.0), scan[1], insist=True)


def agreeing(*merits: float) -> list[Placement]:
    return [Placement(Alignment(np.eye(4), "identity", 0.0, m, m)) for m in merits]


def test_the_spect_that_agrees_far_less_than_the_others_is_named():
    found = compared(agreeing(0.7, 0.99, 0.8, 0.98), (0.5, 6, 24, 72))
    assert [[alarm.code for alarm in p.findings] for p in found] == [[], [], ["place-implausible"], []]
    assert found[2].relative_sd == placement.UNCERTAIN["place-implausible"]
    for even in ((0.4, 0.99, 0.98, 0.97), (0.3, 0.62, 0.7, 0.55), (0.9, 0.95, 0.5)):
        assert not any(p.findings for p in compared(agreeing(*even), (0.5, 6, 24, 72)[: len(even)]))


def test_a_dose_with_a_wrong_spect_says_so_first_and_widens_its_uncertainty(
    three_organs: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(three_organs.folder, tmp_path / "study"))
    path = folder / three_organs.time_points[1].spect
    spect = read_image(path)
    write_image(path, Volume(np.flip(spect.array, 0).copy(), spect.geometry))
    options = DoseOptions(organs=("left_kidney", "right_kidney", "liver"))
    results = pipeline.run(Study.load(folder), folder / "truth", options, out=tmp_path / "out")
    (turned,) = [alarm for alarm in results.alarms if alarm.time_point == 1 and alarm.code.startswith("place-")]
    assert turned.code == "place-turned"
    assert "upside down" in turned.sentence
    assert turned in results.grave()
    assert results.registration[1]["matrix"] == np.eye(4).tolist()
    severities = [alarm.severity for alarm in results.alarms]
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert set(results.warnings[: len(results.grave())]) == {alarm.sentence for alarm in results.grave()}
    for organ in results.organs.values():
        # Half of what one scan of four has in the curve; a SPECT in its place adds about 1 %.
        assert organ.uncertainty_percent["registration"] > 5
    written = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert written["alarms"][0]["severity"] == "alarm"
    cli_dose.print_doses(results)
    said = capsys.readouterr().out
    assert said.index("[place-turned]") < said.index("Left kidney")
