"""What noise, place and spill do to an activity: stated beside what really happens when an image is disturbed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from doselabel.dosimetry.physics.spheres import sphere_recovery
from doselabel.dosimetry.uptake import voi
from doselabel.dosimetry.uptake.errors import errors_of, scan_model, unknown
from doselabel.geometry import Volume
from doselabel.labels import LabelMap

SIGMA_MM = 5.1
FWHM_MM = (SIGMA_MM * np.sqrt(8 * np.log(2)),) * 3
VOXEL_MM = 4.5
METHODS = ("gtm", "margin", "gaussian", "threshold")


@pytest.fixture(scope="module")
def kidney(known: SimpleNamespace) -> tuple[Volume, LabelMap]:
    """A kidney of 1 MBq/mL in a tepid body, without noise, and its mask."""
    grid = known.centred((36, 30, 30), (VOXEL_MM,) * 3)
    fine = grid.with_spacing((VOXEL_MM / 3,) * 3)
    part = known.inside(fine, (0, 0, 0), (52, 29, 26))
    image = ndimage.gaussian_filter(5e4 + 9.5e5 * part, SIGMA_MM / fine.spacing_mm[0], mode="nearest")
    seen = image.reshape(36, 3, 30, 3, 30, 3).mean(axis=(1, 3, 5)).astype(np.float32)
    labels = known.label_map(known.centred((60, 40, 40), (2.5,) * 3), {"left_kidney": known.ONE_KIDNEY["left_kidney"]})
    return Volume(seen, grid), labels


def measured(spect: Volume, labels: LabelMap, method: str) -> voi.VoiResult:
    return voi.measure(spect, labels, method=method, psf_fwhm_mm=FWHM_MM)


def kidney_errors(spect: Volume, labels: LabelMap, method: str):
    found = measured(spect, labels, method)
    reference = found if method == "gtm" else measured(spect, labels, "gtm")
    model = scan_model(spect, reference, FWHM_MM)
    return found.organs["left_kidney"], errors_of(spect, found, model, FWHM_MM)["left_kidney"]


@pytest.mark.parametrize("method", METHODS)
def test_an_activity_is_the_sum_of_its_response(kidney: tuple, method: str) -> None:
    spect, labels = kidney
    found = measured(spect, labels, method)
    organ = found.organs["left_kidney"]
    z, y, x = found.box
    inner = [slice(max(s.start, 0), min(s.stop, n)) for s, n in zip(found.box, spect.array.shape, strict=True)]
    outer = tuple(slice(i.start - s.start, i.stop - s.start) for i, s in zip(inner, (z, y, x), strict=True))
    total = float(np.vdot(organ.response_ml[outer], spect.array[tuple(inner)]))
    assert total / 1e6 == pytest.approx(organ.activity_mbq, rel=1e-4)


@pytest.mark.parametrize("grain_voxels", [0.0, 0.7])
@pytest.mark.parametrize("method", ["gtm", "margin"])
def test_counting_noise_is_read_off_one_noisy_image(kidney: tuple, method: str, grain_voxels: float) -> None:
    spect, labels = kidney
    rng = np.random.default_rng(3)
    per_count = 4e4  # Bq/mL, some 25 counts in a voxel of the kidney

    def noisy() -> Volume:
        counts = rng.poisson(spect.array / per_count).astype(float)
        counts = ndimage.gaussian_filter(counts, grain_voxels) if grain_voxels else counts
        return Volume((counts * per_count).astype(np.float32), spect.geometry)

    reference = measured(spect, labels, method)
    organ = reference.organs["left_kidney"]
    start = [max(-s.start, 0) for s in reference.box]
    offset = [max(s.start, 0) for s in reference.box]
    size = [min(s.stop, n) - o for s, n, o in zip(reference.box, spect.array.shape, offset, strict=True)]
    mine = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    theirs = tuple(slice(a, a + n) for a, n in zip(offset, size, strict=True))
    scatter = np.std([np.vdot(organ.response_ml[mine], noisy().array[theirs]) for _ in range(120)]) / 1e6
    stated = np.mean([kidney_errors(noisy(), labels, method)[1].counts for _ in range(3)])
    assert stated == pytest.approx(scatter / organ.activity_mbq, rel=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_place_costs_what_is_stated(kidney: tuple, method: str) -> None:
    spect, labels = kidney
    organ, errors = kidney_errors(spect, labels, method)
    rng, changes = np.random.default_rng(1), []
    for _ in range(12):
        origin = tuple(float(v) for v in np.asarray(spect.geometry.origin_mm) + rng.normal(0, 3.0, 3))
        moved = Volume(spect.array, replace(spect.geometry, origin_mm=origin))
        changes.append(measured(moved, labels, method).organs["left_kidney"].activity_mbq / organ.activity_mbq - 1)
    happened = float(np.sqrt(np.mean(np.square(changes))))
    if method == "threshold":  # it goes where the image goes
        assert happened < 0.02
    else:
        assert errors.place(3.0) == pytest.approx(happened, rel=0.5, abs=0.003)
    assert errors.place(0.0) == 0.0


@pytest.mark.parametrize("method", ["margin", "gaussian", "threshold"])
def test_a_method_that_corrects_nothing_states_how_far_it_is_off(kidney: tuple, method: str) -> None:
    spect, labels = kidney
    organ, errors = kidney_errors(spect, labels, method)
    true_mbq = 4 / 3 * np.pi * 52 * 29 * 26 / 1e3
    assert organ.activity_mbq / true_mbq - 1 < -0.05
    assert errors.bias == pytest.approx(organ.activity_mbq / true_mbq - 1, abs=0.015)
    assert kidney_errors(spect, labels, "gtm")[1].bias == 0.0


def test_what_nobody_drew_beside_an_organ_is_in_its_error(kidney: tuple, known: SimpleNamespace) -> None:
    spect, labels = kidney
    alone, quiet = kidney_errors(spect, labels, "gtm")
    fine = spect.geometry.with_spacing((VOXEL_MM / 3,) * 3)
    tumour = known.inside(fine, (0, 0, 42), (12, 12, 12)) * 8e6
    extra = ndimage.gaussian_filter(tumour, SIGMA_MM / fine.spacing_mm[0])
    hot = Volume(spect.array + extra.reshape(36, 3, 30, 3, 30, 3).mean(axis=(1, 3, 5)), spect.geometry)
    beside, loud = kidney_errors(hot, labels, "gtm")
    off = abs(beside.activity_mbq / alone.activity_mbq - 1)
    assert off > 0.02
    assert quiet.spill_in < 0.1 * loud.spill_in
    assert off / 2.5 < loud.spill_in < 2.5 * off


def test_without_a_transfer_matrix_the_bias_is_that_of_a_sphere() -> None:
    assert unknown(20.0, (12.0,) * 3).bias == pytest.approx(sphere_recovery(20.0, 12.0) - 1)
