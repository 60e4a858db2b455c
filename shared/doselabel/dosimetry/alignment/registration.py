"""Bringing SPECT and CT together: rigid transforms, how they are found and how good they are.

Knows two images or an image and a label map; no doses, no time. A transform is a 4×4 matrix that maps LPS points (mm)
of the moving image to the fixed one's frame, as `doselabel.study.Registration` stores it. It is rigid, so it is
reversible and conserves counts: a SPECT is moved by moving its grid (`grids.placed`), never by interpolation, and
where a map on another grid is needed, `onto` integrates over voxels.

*Figure of merit.* The agreement is R², the part of the SPECT's variance around the organs (within 25 mm) that the
organs' blurred masks explain, each at its own best concentration, plus a flat background: 1 is perfect; a kidney
8 mm off loses some 0.2. It is what `refine` maximises, and it is reported before and after. Whether a place can be
believed at all is `placement`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from doselabel.dosimetry.alignment.grids import Subdivision
from doselabel.dosimetry.alignment.mask_scene import SEARCH_MM, SETTLED_SD_MM, UNCHECKED_SD_MM, MaskScene
from doselabel.errors import Progress, RegistrationError, no_progress
from doselabel.geometry import Geometry, Volume, check_rigid, placed, resample
from doselabel.labels import LabelMap
from doselabel.study import Registration

Freedom = Literal["translation", "rigid"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """A rigid transform, how it was found, and what it changed.

    Attributes
    ----------
    matrix : (4, 4) array
        LPS points (mm) of the moving image → the fixed image's frame.
    method : str
        "identity", "manual", "rigid", "organ" or "masks".
    shift_mm : float
        Mean displacement, over the organs (or the fixed image's box), against the transform it started from.
    agreement_before, agreement_after : float or None
        Figure of merit (see the module) at the start and now; for CT to CT, mutual information (nats).
    sd_mm : float
        Standard deviation of the place along each axis.
    """

    matrix: NDArray[np.float64]
    method: str
    shift_mm: float = 0.0
    agreement_before: float | None = None
    agreement_after: float | None = None
    sd_mm: float = SETTLED_SD_MM

    def registration(self) -> Registration:
        """What a study stores."""
        comment = f"moved {self.shift_mm:.1f} mm"
        if self.agreement_before is not None and self.agreement_after is not None:
            comment += f"; agreement {self.agreement_before:.3f} → {self.agreement_after:.3f}"
        rows = [tuple(float(v) for v in row) for row in self.matrix]
        return Registration(matrix=tuple(rows), method=self.method, comment=comment)  # type: ignore[arg-type]


def identity() -> Alignment:
    """Leave the images where their files say they are."""
    return Alignment(np.eye(4), "identity", sd_mm=UNCHECKED_SD_MM)


# ---- SPECT to organ masks


def refine(
    spect: Volume,
    labels: LabelMap,
    *,
    start: np.ndarray | None = None,
    freedom: Freedom = "translation",
    psf_fwhm_mm: Sequence[float] | None = None,
    exclude: Mapping[str, NDArray[np.bool_]] | None = None,
    organs: Sequence[str] | None = None,
    search_mm: float = SEARCH_MM,
    progress: Progress = no_progress,
) -> Alignment:
    """Move a SPECT so that its uptake agrees best with the organs' masks.

    Parameters
    ----------
    spect : Volume
        Bq/mL.
    labels : LabelMap
        On the CT's grid.
    start : (4, 4) array, optional
        Where to start, SPECT → CT.
    freedom : {"translation", "rigid"}
        Three shifts, or also three rotations about the organs' centre.
    psf_fwhm_mm : (z, y, x), optional
        By which masks are blurred; 12 mm where unknown.
    exclude : dict, optional
        Organ name or "*" → boolean array on the grid of ``labels``: the SPECT there is not looked at.
    organs : sequence of str, optional
        Which organs to go by; all by default. One organ alone follows its own breathing.
    search_mm : float
        Largest shift along an axis.

    Returns
    -------
    Alignment

    Raises
    ------
    RegistrationError
        When there is no uptake around the organs, or the best place is at the edge of the search.
    """
    begin = np.eye(4) if start is None else check_rigid(start)
    scene = MaskScene.of(spect, labels, psf_fwhm_mm, exclude or {}, organs)
    return refined(scene, begin, freedom=freedom, search_mm=search_mm, progress=progress)


def refined(
    scene: MaskScene,
    begin: np.ndarray,
    *,
    freedom: Freedom = "translation",
    search_mm: float = SEARCH_MM,
    progress: Progress = no_progress,
) -> Alignment:
    """`refine` of a scene that is there already."""
    before = scene.agreement(begin)
    matrix, shift_mm = scene.best(begin, turns=freedom == "rigid", search_mm=search_mm, progress=progress)
    if np.abs(shift_mm).max() > search_mm + 4.0:
        raise RegistrationError(
            f"The SPECT agrees best with the masks {np.abs(shift_mm).max():.0f} mm away, beyond the search of "
            f"{search_mm:g} mm.",
            "Check that SPECT and CT are of one session; move the SPECT by hand first.",
        )
    moved_mm = mean_shift_mm(begin, matrix, scene.organ_points_mm)
    return Alignment(matrix, "organ", moved_mm, before, scene.agreement(matrix), scene.place_sd_mm(matrix))


# ---- label maps, and maps on other grids


def centroids_mm(labels: LabelMap) -> dict[str, NDArray[np.float64]]:
    """Centre of each organ's mask, LPS (x, y, z) mm."""
    found = {}
    for value, box in enumerate(ndimage.find_objects(labels.array), start=1):
        if box is not None:
            index = np.argwhere(labels.array[box] == value).mean(axis=0) + [s.start for s in box]
            found[labels.names[value]] = labels.geometry.index_to_lps(index)
    return found


def match_masks(moving: LabelMap, fixed: LabelMap, organs: Sequence[str]) -> dict[str, Alignment]:
    """Shifts that bring organs drawn on one CT onto the same organs drawn on another.

    Returns
    -------
    dict
        Organ → its own shift, for those that both maps have; "" → their mean, weighted by volume.
    """
    there, here = centroids_mm(fixed), centroids_mm(moving)
    shifts = {name: there[name] - here[name] for name in organs if name in there and name in here}
    if not shifts:
        raise RegistrationError(
            f"The two label maps share none of {list(organs)}.", "Segment the same organs on both CTs."
        )
    shifts[""] = np.average(list(shifts.values()), axis=0, weights=[fixed.volume_ml(name) for name in shifts])
    found = {}
    for name, shift in shifts.items():
        matrix = np.eye(4)
        matrix[:3, 3] = shift
        found[name] = Alignment(matrix, "masks", float(np.linalg.norm(shift)))
    return found


def onto(spect: Volume, geometry: Geometry, matrix: np.ndarray | None = None) -> Volume:
    """Concentration on another grid: linear, averaged over each voxel, so that activity is conserved.

    Where voxels of ``geometry`` are larger than the SPECT's they are subdivided first. What lies outside ``geometry``
    is lost, and reported by nobody: choose a grid that covers the SPECT when the total matters.
    """
    source = spect if matrix is None else Volume(spect.array, placed(spect.geometry, matrix))
    sub = Subdivision.of(geometry, min(spect.geometry.spacing_mm))
    return Volume(sub.mean(resample(source, sub.fine).array), geometry)


# ---- small parts


def mean_shift_mm(before: np.ndarray, after: np.ndarray, points_mm: np.ndarray) -> float:
    """Mean distance (mm) between where two transforms bring points (n, 3), taken as they lie after the first."""
    change = after @ np.linalg.inv(before)
    moved = points_mm @ change[:3, :3].T + change[:3, 3]
    return float(np.linalg.norm(moved - points_mm, axis=1).mean())
