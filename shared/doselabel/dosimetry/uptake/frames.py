"""Masks of every time point, and how its CT lies to the diagnostic one. Knows label maps and CTs, no activities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm
from doselabel.dosimetry.alignment import ct_registration, registration
from doselabel.dosimetry.cache import digest, fingerprint
from doselabel.dosimetry.uptake import consistency
from doselabel.dosimetry.uptake.case import Case
from doselabel.dosimetry.uptake.masks import carried, completed
from doselabel.errors import DoselabelError, VoiError
from doselabel.files import file_sha256
from doselabel.geometry import Volume
from doselabel.labels import LabelMap, title


class Frames:
    """Masks of every time point, and how its CT lies to the diagnostic one."""

    def __init__(self, case: Case, organs: tuple[str, ...]) -> None:
        self._case, self._organs = case, organs
        self._maps: dict[int, LabelMap] = {}
        self._rigid: dict[str, np.ndarray] = {}
        self._shifts: dict[int, dict[str, np.ndarray]] = {}

    def masks(self, index: int) -> tuple[LabelMap, list[Alarm | str], dict[str, DoselabelError]]:
        """A time point's masks, what must be said of them, and the organs that they still lack, with why."""
        case, point = self._case, self._case.study.time_points[index]
        own = case.labels.maps.get(point.ct)
        made_of = [_content(m) for m in (own, case.diagnostic) if m is not None]
        key = digest("masks", index, point.ct, made_of, list(self._organs))
        found = case.store.hold(key, lambda: self._masks(index)) if own is not None else self._masks(index)
        self._maps[index] = found[0]
        return found

    def _masks(self, index: int) -> tuple[LabelMap, list[Alarm | str], dict[str, DoselabelError]]:
        case, point = self._case, self._case.study.time_points[index]
        notes: list[Alarm | str] = []
        if point.ct == case.study.ct:
            label_map = case.diagnostic
        elif point.ct in case.labels.maps:
            own = case.labels.maps[point.ct]
            label_map, filled = completed(own, case.diagnostic, self._organs, case.held, point.ct)
            if filled:
                notes.append(
                    f"Time point {index + 1}: the masks of '{point.ct}' lack {', '.join(map(title, filled))}; taken "
                    "from the diagnostic CT, moved like the other organs."
                )
        else:
            grid = case.images.read(f"time_points[{index}].ct", point.ct)
            matrix = self._register(point.ct, grid)
            label_map = carried(case.diagnostic, grid.geometry, matrix)
            notes.append(
                f"Time point {index + 1}: '{point.ct}' has no masks of its own; the diagnostic CT's were brought "
                "over by rigid registration."
            )
        present = label_map.present()
        lost: dict[str, DoselabelError] = {
            name: VoiError(
                f"Time point {index + 1}: {title(name)} lies outside the CT '{point.ct}'.",
                "Check that CT's field of view, or leave the organ or the time point out.",
            )
            for name in self._organs
            if name not in present
        }
        if point.ct != case.study.ct:
            notes += consistency.masks_differ(index, point.ct, label_map, case.diagnostic, self._organs)
        return label_map, notes, lost

    def to_diagnostic(self, index: int) -> dict[str, np.ndarray]:
        """Organ → 4×4 matrix from a time point's CT to the diagnostic CT; "" holds for the rest of the body."""
        point = self._case.study.time_points[index]
        if point.ct == self._case.study.ct:
            return dict.fromkeys(("", *self._organs), np.eye(4))
        if point.ct in self._rigid:
            return dict.fromkeys(("", *self._organs), self._rigid[point.ct])
        if index not in self._shifts:
            maps = self._maps[index], self._case.diagnostic
            key = digest("shifts", [_content(m) for m in maps], list(self._organs))
            found = self._case.store.hold(key, lambda: registration.match_masks(*maps, self._organs))
            self._shifts[index] = {name: alignment.matrix for name, alignment in found.items()}
        return self._shifts[index]

    def _register(self, name: str, moving: Volume) -> np.ndarray:
        if name not in self._rigid:

            def make() -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
                found = ct_registration.register_cts(moving, self._case.ct, focus=self._case.diagnostic.array != 0)
                return {"shift_mm": found.shift_mm}, {"matrix": found.matrix}

            code = file_sha256(Path(ct_registration.__file__))
            images = [[fingerprint(v.array), v.geometry.affine_lps] for v in (moving, self._case.ct)]
            key = digest("cts", code, images, fingerprint(self._case.diagnostic.array))
            what = f"registration of '{name}' to the diagnostic CT"
            store, diagnostic = self._case.store, self._case.diagnostic
            _, arrays = self._case.held.find(what, [diagnostic], lambda: store.fetch(what, key, make))
            self._rigid[name] = arrays["matrix"]
        return self._rigid[name]


def _content(labels: LabelMap) -> list[Any]:
    """All that a label map says, to be digested."""
    return [fingerprint(labels.array), labels.geometry.affine_lps, dict(labels.names)]
