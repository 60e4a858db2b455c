"""The cases with known answers, T1 to T10: published or analytic numbers beside what this software computes.

One table for the documentation and the tests. It knows what is expected, within what, and from whom; every number
computed comes from the modules that patients' doses come from.

``python benchmarks/cases.py --write docs/dosimetry.md`` puts the table between the markers of that file;
``--check`` says whether it is up to date.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.known import Case, Known, between, table
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.curves.fit import TacFit, fit
from doselabel.dosimetry.curves.models import Curve
from doselabel.dosimetry.dose import bed, engines
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.physics import kernels
from doselabel.dosimetry.uptake import voi
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.nuclides import nuclide
from doselabel.study import Study

BEGIN = "<!-- cases: begin, written by `python benchmarks/cases.py --write` -->"
END = "<!-- cases: end -->"

KIDNEY_SEMI_AXES_MM = (52.0, 29.0, 26.0)
"""The 164 mL ellipsoid of T8 and T10, semi-axes (z, y, x)."""

T1_TIME_H = (3.74111, 27.72528, 103.09417, 123.98361)
T1_KIDNEY_MBQ = (98.561432, 73.599408, 25.39568, 19.04661)
T1_LIVER_MBQ = (378.4744, 347.404416, 192.66408, 173.225408)
T1_VOLUME_ML = 233.608
T1_TIA_MBQ_H = 7593.7526
T3_SPACING_MM = ((2.0, 2.0, 2.0), (3.0, 3.0, 3.0), (4.42, 4.42, 4.42), (4.8, 4.8, 4.8), (5.0, 3.9, 3.9))


def all_cases() -> tuple[Case, ...]:
    """T1 to T10 in order."""
    return (_t1(), _t2(), _t3(), _t4(), _t5(), _t6(), _t7(), _t8(), _t9(), _t10())


# ---- the cases


def _t1() -> Case:
    def compute() -> tuple[float, ...]:
        def fitted(activity: Sequence[float], **options: object) -> TacFit:
            return fit(T1_TIME_H, activity, nuclide="Lu-177", **options)  # type: ignore[arg-type]

        kidney, liver = fitted(T1_KIDNEY_MBQ), fitted(T1_LIVER_MBQ)
        others = (
            fitted(T1_KIDNEY_MBQ, model="mono", uptake_limb="keep"),
            fitted(T1_KIDNEY_MBQ, model="hanscheid", time_h=T1_TIME_H[2]),
            fitted(T1_KIDNEY_MBQ, model="trapezoid", tail="physical"),
        )
        local = nuclide("Lu-177").local_constant_g_gy_per_gbq_h / 1e3 * kidney.tia_mbq_h / T1_VOLUME_ML
        stretch = (T1_VOLUME_ML / kernels.Ellipsoid(KIDNEY_SEMI_AXES_MM).volume_ml) ** (1 / 3)
        z, y, x = (stretch * axis for axis in KIDNEY_SEMI_AXES_MM)
        with_photons_gy = _self_dose_gy(kernels.Ellipsoid((z, y, x)), kidney.tia_mbq_h, 1.04)
        g = bed.lea_catcheside_g(kidney.curve, 2.8)
        return (
            kidney.params["lambda1_per_h"],
            kidney.params["lambda2_per_h"],
            kidney.tia_mbq_h,
            *(other.tia_mbq_h for other in others),
            *(local / density for density in (1.00, 1.04, 1.06)),
            float(bed.bed_gy(with_photons_gy, g, 2.6)),
            liver.params["lambda1_per_h"],
            liver.params["lambda2_per_h"],
            liver.tia_mbq_h,
        )

    known = (
        Known("left kidney, uptake fit: λ1", 0.01408143, 1e-6, "1/h", 7),
        Known("left kidney, uptake fit: λ2", 0.845429, 1e-6, "1/h", 6),
        Known("left kidney, uptake fit: TIA", T1_TIA_MBQ_H, 1e-6, "MBq·h", 8),
        Known("left kidney, mono-exponential over all points: TIA", 7745.7, 1e-5, "MBq·h", 5),
        Known("left kidney, Hänscheid at 103 h: TIA", 7554.4, 1e-5, "MBq·h", 5),
        Known("left kidney, trapezoid and physical tail: TIA", 11011.6, 1e-5, "MBq·h", 6),
        Known("left kidney, local electron dose at 1.00 g/cm³", 2.773, 3e-4, "Gy"),
        Known("left kidney, local electron dose at 1.04 g/cm³", 2.667, 3e-4, "Gy"),
        Known("left kidney, local electron dose at 1.06 g/cm³", 2.616, 3e-4, "Gy"),
        Known("left kidney, BED (α/β 2.6 Gy, repair 2.8 h), electrons and photons at 1.04 g/cm³", 2.897, 0.01, "Gy"),
        Known("liver, uptake fit: λ1", 0.00747620, 1e-6, "1/h", 6),
        Known("liver, uptake fit: λ2", 0.657560, 1e-5, "1/h", 6),
        Known("liver, uptake fit: TIA", 56425.335, 1e-6, "MBq·h", 8),
    )
    return Case("T1", "SNMMI challenge patient", "SNMMI 177Lu Dosimetry Challenge 2021; design", known, compute)


def _t2() -> Case:
    def compute() -> tuple[float, ...]:
        one_gram_voxel = engines.local(np.ones((1, 1, 1)), 10.0, "Lu-177", density_g_cm3=1.0)
        return (float(one_gram_voxel[0, 0, 0]),)

    known = (Known("1 MBq·h in 1 g, local deposition", 0.08532, 1e-4, "Gy"),)
    return Case("T2", "Local deposition", "ICRP 107; MIRD Pamphlet 21, eq. 8", known, compute)


def _t3() -> Case:
    names = ("Lu-177", "Y-90", "I-131")

    def compute() -> tuple[float, ...]:
        found = []
        for name in names:
            for spacing in T3_SPACING_MM:
                energy = kernels.voxel_s_kernel(name, spacing, extent_mm=120.0).energy
                found.append(energy.electron_inside_kev + energy.electron_outside_kev)
        return tuple(found)

    known = tuple(
        Known(f"{name}, voxel {' × '.join(f'{s:g}' for s in spacing)} mm: electrons", kev, 0.01, "keV/decay")
        for name, kev in zip(names, (147.92, 933.1, 191.85), strict=True)
        for spacing in T3_SPACING_MM
    )
    return Case("T3", "Energy closure of the voxel kernels", "ICRP 107", known, compute)


def _t4() -> Case:
    def compute() -> tuple[float, ...]:
        return tuple(
            float(kernels.voxel_s_kernel(name, 3.0, extent_mm=60.0).octant_mgy_per_mbq_s[0, 0, 0])
            for name in ("Y-90", "I-131")
        )

    known = (
        Known("90Y, centre voxel of 3 mm", 1.61, 0.05, "mGy/(MBq·s)", 3),
        Known("131I, centre voxel of 3 mm", 0.920, 0.05, "mGy/(MBq·s)", 3),
    )
    return Case("T4", "Voxel S-values of MIRD 17", "MIRD Pamphlet 17, J Nucl Med 1999;40:11S", known, compute)


def _t5() -> Case:
    published = ((0.932, 2.49e-2), (4.31, 5.46e-3), (34.5, 6.93e-4), (116.0, 2.07e-4), (932.0, 2.65e-5))

    def compute() -> tuple[float, ...]:
        return tuple(
            kernels.self_s_value(kernels.sphere(volume_ml=mass / 1.03), "Lu-177", density_g_cm3=1.03)
            for mass, _ in published
        )

    known = tuple(Known(f"sphere of {mass:g} g", s, 0.01, "mGy/(MBq·s)", 3) for mass, s in published)
    return Case("T5", "Uniform 177Lu spheres, S to itself", "sphere model at 1.03 g/cm³; design", known, compute)


def _t6() -> Case:
    published = ((0.5, 0.707), (0.75, 0.892), (1.0, 1.0), (1.443, 1.061), (2.0, 1.0), (2.5, 0.884), (3.0, 0.75))

    def compute() -> tuple[float, ...]:
        half_life_h, ratios = 50.0, []
        for x, _ in published:
            time_h = x * half_life_h
            activity = 100.0 * 2.0**-x
            estimate = fit([time_h], [activity], nuclide="Lu-177", model="hanscheid", time_h=time_h)
            ratios.append(estimate.tia_mbq_h / (100.0 * half_life_h / math.log(2)))
        return tuple(ratios)

    known = tuple(Known(f"measured at {x:g} T½ eff: estimated over true TIA", r, 1e-3, "", 3) for x, r in published)
    return Case("T6", "Single time point", "Hänscheid et al., J Nucl Med 2018;59:75", known, compute)


def _t7() -> Case:
    def compute() -> tuple[float, ...]:
        g = bed.lea_catcheside_g(Curve((1.0,), (math.log(2) / 50.0,)), 2.8)
        effective = bed.bed_gy(10.0, g, 2.6)
        return float(effective), float(bed.eqd2_gy(effective, 2.6))

    known = (Known("BED of 10 Gy", 12.040, 5e-5, "Gy", 5), Known("EQD2 of 10 Gy", 6.805, 1e-4, "Gy", 4))
    return Case("T7", "BED and EQD2", "T½ eff 50 h, repair 2.8 h, α/β 2.6 Gy; MIRD Pamphlet 20", known, compute)


def _t8() -> Case:
    published = {
        3.0: (0.888, 0.972, 0.997, 1.000),
        5.1: (0.810, 0.908, 0.965, 1.000),
        6.4: (0.763, 0.862, 0.932, 1.000),
    }

    def compute() -> tuple[float, ...]:
        found = []
        for sigma_mm in published:
            labels, spect, volume_ml = _ellipsoid_scan(sigma_mm, ct_mm=1.0, per_voxel=2)
            for method, margin_mm in (("margin", 0.0), ("margin", 3.0), ("margin", 6.0), ("gtm", 0.0)):
                result = voi.measure(
                    spect, labels, method=method, margin_mm=margin_mm, psf_sigma_mm=(sigma_mm,) * 3,  # type: ignore[arg-type]
                )  # fmt: skip
                found.append(result.organs["left_kidney"].activity_mbq / volume_ml)
        return tuple(found)

    known = tuple(
        Known(f"PSF σ {sigma:g} mm: {method}", fraction, 0.01, "of the activity", 3)
        for sigma, row in published.items()
        for method, fraction in zip(("mask", "mask + 3 mm", "mask + 6 mm", "GTM"), row, strict=True)
    )
    return Case(
        "T8", "Partial volume, 164 mL ellipsoid", "semi-axes 52/29/26 mm, no background; design", known, compute
    )


def _t9() -> Case:
    def compute() -> tuple[float, ...]:
        z, y, x = KIDNEY_SEMI_AXES_MM
        stretch = (155.0 / 1.06 / kernels.Ellipsoid(KIDNEY_SEMI_AXES_MM).volume_ml) ** (1 / 3)
        one_kidney = kernels.Ellipsoid((z * stretch, y * stretch, x * stretch))
        return (
            # Half of the decays are in each of two kidneys; what one's photons leave in the other is below 0.1 %.
            kernels.self_s_value(one_kidney, "Lu-177", density_g_cm3=1.06) / 2,
            kernels.self_s_value(kernels.sphere(volume_ml=1800.0 / 1.05), "Lu-177", density_g_cm3=1.05),
            kernels.self_s_value(kernels.sphere(volume_ml=150.0 / 1.04), "Lu-177", density_g_cm3=1.04),
            engines.organ_s("left_kidney", 310.0, "Lu-177").s_mgy_per_mbq_s,
            engines.organ_s("liver", 1800.0, "Lu-177").s_mgy_per_mbq_s,
            engines.organ_s("spleen", 150.0, "Lu-177").s_mgy_per_mbq_s,
        )

    rows = (("kidneys←kidneys, 310 g", 7.76e-5), ("liver, 1800 g", 1.37e-5), ("spleen, 150 g", 1.60e-4))
    known = (
        *(Known(f"{what}: our kernel, ellipsoids or spheres", s, 0.02, "mGy/(MBq·s)", 3) for what, s in rows),
        *(Known(f"{what}: the organ engine", s, 1e-6, "mGy/(MBq·s)", 3) for what, s in rows),
    )
    return Case("T9", "Organ S-values", "reference adult male; design", known, compute)


T10_AMPLITUDE_MBQ = 100.0
T10_HALF_LIVES_H = (50.0, 1.0)
"""Effective half-lives of the washout and of the uptake."""


def _t10() -> Case:
    slow, fast = (math.log(2) / t for t in T10_HALF_LIVES_H)
    tia = T10_AMPLITUDE_MBQ * (1 / slow - 1 / fast)
    expected = _self_dose_gy(kernels.Ellipsoid(KIDNEY_SEMI_AXES_MM), tia, 1.06)

    def compute() -> tuple[float, ...]:
        with tempfile.TemporaryDirectory() as folder:
            return _t10_run(Path(folder), slow, fast)

    known = (
        Known("time-integrated activity, whole chain with GTM", tia, 0.02, "MBq·h"),
        Known("mean absorbed dose, whole chain with GTM, voxel S-values", expected, 0.02, "Gy"),
    )
    return Case(
        "T10", "Analytic phantom", "164 mL ellipsoid, known curve and PSF; exact S of the ellipsoid", known, compute
    )


def _t10_run(folder: Path, slow: float, fast: float) -> tuple[float, ...]:
    """A study of one ellipsoid on disk, through the pipeline as a patient's is: TIA and mean dose."""
    sigma_mm = 5.1
    labels, unit, volume_ml = _ellipsoid_scan(sigma_mm, ct_mm=2.0, per_voxel=2)
    hu = np.where(labels.array > 0, 120, 30).astype(np.int16)
    hu[:, :4] = hu[:, -4:] = -1000  # air in front of and behind the patient
    points = []
    for i, time_h in enumerate((0.5, 6.0, 24.0, 72.0), start=1):
        activity_mbq = T10_AMPLITUDE_MBQ * (math.exp(-slow * time_h) - math.exp(-fast * time_h))
        ct, spect = f"ct_tp{i}.nii.gz", f"spect_tp{i}.nii.gz"
        write_image(folder / ct, Volume(hu, labels.geometry))
        write_image(folder / spect, Volume(unit.array * np.float32(activity_mbq / volume_ml), unit.geometry))
        points.append({"time_h": time_h, "ct": ct, "spect": spect})
    names = ["ct.nii.gz", *(p["ct"] for p in points)]
    write_image(folder / "ct.nii.gz", Volume(hu, labels.geometry))
    for name in names:
        write_labels(folder / "labels" / str(name), labels)
    content = {
        "schema": "doselabel.study/1", "patient_id": "analytic", "nuclide": "Lu-177", "ct": "ct.nii.gz",
        "injected_activity_mbq": 7400.0, "time_points": points, "organs_absent": ("right_kidney", "liver"),
        "psf_fwhm_mm": (sigma_mm * math.sqrt(8 * math.log(2)),) * 3,
    }  # fmt: skip
    Study.model_validate(content).save(folder)
    results = pipeline.run(Study.load(folder), folder / "labels", DoseOptions(voi="gtm", tac="uptake"))
    kidney = results.organs["left_kidney"]
    return kidney.tia_mbq_h, kidney.mean_dose_gy


# ---- what they share


def _self_dose_gy(shape: kernels.Ellipsoid, tia_mbq_h: float, density_g_cm3: float) -> float:
    s = kernels.self_s_value(shape, "Lu-177", density_g_cm3=density_g_cm3)
    return tia_mbq_h * 3600.0 * s / 1000.0


def _ellipsoid_scan(sigma_mm: float, *, ct_mm: float, per_voxel: int) -> tuple[LabelMap, Volume, float]:
    """The kidney ellipsoid as a label map, its noiseless SPECT (1 MBq/mL, in Bq/mL), and its volume (mL).

    SPECT voxels are ``per_voxel`` CT voxels a side and hold the mean of the blurred ellipsoid.
    """
    half = np.asarray(KIDNEY_SEMI_AXES_MM) + 36.0
    count = (2 * half / ct_mm / (2 * per_voxel)).astype(int) * 2 * per_voxel
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5 - n / 2) * ct_mm for n in count), indexing="ij", sparse=True)
    a, b, c = KIDNEY_SEMI_AXES_MM
    mask = (z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2 <= 1
    geometry = Geometry((int(count[0]), int(count[1]), int(count[2])), (ct_mm,) * 3)
    blurred = gaussian_filter(mask.astype(np.float32), sigma_mm / ct_mm, truncate=5.0) * np.float32(1e6)
    blocks = blurred.reshape([n for m in count for n in (m // per_voxel, per_voxel)])
    spect_grid = geometry.with_spacing((ct_mm * per_voxel,) * 3)
    spect = Volume(blocks.mean(axis=(1, 3, 5)).astype(np.float32), spect_grid)
    return LabelMap(mask.astype(np.uint8), geometry), spect, float(mask.sum()) * geometry.voxel_volume_ml


# ---- the document


def is_current(path: Path, computed: Mapping[str, Sequence[float]] | None = None) -> bool:
    """Whether a document holds the table that would be written now."""
    text = path.read_text(encoding="utf-8")
    return between(BEGIN, END, text, table(all_cases(), computed)) == text


def write(path: Path) -> None:
    """Write the table of today into a document."""
    path.write_text(between(BEGIN, END, path.read_text("utf-8"), table(all_cases())), "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the table, write it into a document, or check the document."""
    parser = argparse.ArgumentParser(prog="python benchmarks/cases.py", description=main.__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", type=Path, metavar="FILE", help="write the table between the markers of FILE")
    group.add_argument(
        "--check", type=Path, metavar="FILE", help="exit 1 when FILE's table is not the one computed now"
    )
    options = parser.parse_args(arguments)
    if options.write:
        write(options.write)
    elif options.check:
        if not is_current(options.check):
            sys.stderr.write(f"{options.check}: the table of cases is out of date; run with --write.\n")
            return 1
    else:
        sys.stdout.write(table(all_cases()) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
