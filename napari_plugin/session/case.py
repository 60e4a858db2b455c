"""The case being annotated: one CT, the SPECT that belong to it, and the labels it starts with.

Fetches through a client and reads files; knows no Qt and no napari.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from doselabel.errors import Progress, StudyError, no_progress
from doselabel.geometry import Geometry, Volume, canonical, read_image, restore
from doselabel.image_values import check_hu, check_spect
from doselabel.labels import NAMES, LabelMap, read_labels
from doselabel.wire import ImageInfo, LabelVersion, StudyInfo, TimePointInfo
from napari_plugin.client import Client, inside
from napari_plugin.session.placement import onto_frame
from napari_plugin.session.recovery import Draft, Recovery, content_of


@dataclass(frozen=True)
class SpectFrame:
    """A SPECT on axes parallel to the case's CT, Bq/mL.

    ``registered`` says whether it was brought onto *this* CT: false for time points seen on the diagnostic CT,
    of which only the low-dose CT's relation is known. ``source`` is the SPECT as its file has it, Bq/mL, and ``matrix``
    brings it onto its own CT as the study has it (LPS, mm); ``index`` is its time point's in the study.
    """

    time_h: float
    name: str
    volume: Volume
    registered: bool
    source: Volume
    matrix: np.ndarray
    index: int


@dataclass(frozen=True)
class Case:
    """One CT with everything needed to annotate it.

    Attributes
    ----------
    ct : Volume
        Canonical, HU.
    native : Geometry
        The CT's own grid: labels go back on it voxel for voxel.
    labels : LabelMap
        Canonical, on the CT's grid, values of `doselabel.labels.ORGANS`: what to start from.
    versions : tuple of LabelVersion
        What the server has, newest first.
    origin : {"model", "corrected", "imported"}
        What the starting labels are.
    started_from : str
        The model's hash, or "version N".
    start : (z, y, x) uint8 array or None
        What the starting labels were themselves corrected from; None when that is not known any more.
    restored : str
        When the unsaved work was saved that ``labels`` hold; "" when they come from the server.
    content : str
        Hash of that unsaved work (`napari_plugin.session.recovery.content_of`).
    seen : int or None
        The newest version its annotator knew of.
    server_url : str
        Where it comes from, and where its labels go.
    """

    image_id: str
    study: StudyInfo
    image: ImageInfo
    ct: Volume
    native: Geometry
    spects: tuple[SpectFrame, ...]
    labels: LabelMap
    versions: tuple[LabelVersion, ...]
    origin: str = "corrected"
    started_from: str = ""
    start: np.ndarray | None = None
    restored: str = ""
    content: str = ""
    seen: int | None = 0
    server_url: str = ""

    @property
    def title(self) -> str:
        """Short name for people."""
        if not self.study.nuclide:  # an image of a server that knows no patients
            return self.study.patient_id
        role = "diagnostic CT" if self.image.role == "diagnostic" else f"CT at {self.image.time_h:g} h"
        return f"{self.study.patient_id} · {role}"

    def native_ct(self) -> Volume:
        """The CT on its file's own grid, as label maps are drawn on it."""
        return restore(self.ct, self.native)

    def to_native(self, array: np.ndarray, names: Mapping[int, str] = NAMES) -> LabelMap:
        """Put a label array of this case's canonical grid back on the CT file's own grid."""
        back = restore(Volume(array, self.ct.geometry), self.native)
        return LabelMap(back.array, self.native, dict(names))


def to_canonical(labels: LabelMap, native: Geometry, where: str, known: Mapping[int, str] = NAMES) -> LabelMap:
    """Bring a label map drawn on a CT's own grid to canonical orientation and the values of ``known`` names."""
    if not labels.geometry.same_place(native):
        raise StudyError(
            f"{where}: lies on a grid of {labels.geometry.shape} (z, y, x), not on its CT's {native.shape}.",
            "Was the CT exchanged after it was labelled? Label it anew.",
        )
    ours = labels.renumbered(known)
    upright = canonical(Volume(ours.array, native))
    return LabelMap(upright.array, upright.geometry, ours.names, labels.findings)


def find_image(studies: Sequence[StudyInfo], image_id: str) -> tuple[StudyInfo, ImageInfo]:
    """Find a CT in the server's list."""
    for study in studies:
        for image in study.images:
            if image.image_id == image_id:
                return study, image
    raise StudyError(f"The server does not list a case '{image_id}'.", "Reconnect to refresh the list.")


def open_case(
    client: Client,
    studies: Sequence[StudyInfo],
    image_id: str,
    folder: Path,
    recovery: Recovery,
    progress: Progress = no_progress,
) -> Case:
    """Fetch a case into ``folder`` and read it; unsaved work of an earlier session is taken up again.

    Raises
    ------
    ServerError, StudyError, GeometryError, LabelError
        When something can't be fetched or is not what it should be.
    """
    study, image = find_image(studies, image_id)
    if study.error is not None:
        raise StudyError(study.error.message, study.error.hint)
    wanted = _spects_of(study, image)
    files = [image.file, *(point.spect for point in wanted)]

    def fetch(i: int, name: str) -> Path:
        stage = f"fetching {name}"
        progress(stage, 0.8 * i / len(files))
        return client.study_file(
            study.patient_id,
            name,
            inside(folder, study.patient_id),
            lambda part: progress(stage, 0.8 * (i + part) / len(files)),
        )

    paths = [fetch(i, name) for i, name in enumerate(files)]
    progress("reading the CT", 0.8)
    native_ct = read_image(paths[0])
    check_hu(native_ct.array, f"{study.patient_id}, {image.file}")
    ct = canonical(native_ct)
    progress("reading the SPECT", 0.85)
    spects = []
    for point, path in zip(wanted, paths[1:], strict=True):
        matrix = np.asarray(point.spect_to_ct.matrix)
        source = _in_bq_ml(read_image(path), point, study.patient_id)
        volume = onto_frame(source, ct.geometry, matrix)
        own = image.role == "time_point"
        spects.append(SpectFrame(point.time_h, point.spect, volume, own, source, matrix, point.index))
    progress("fetching the labels", 0.92)
    versions = client.label_versions(image_id)
    start = _Start(client, image_id, versions, folder, native_ct, ct.geometry).find(recovery)
    progress("done", 1.0)
    return Case(
        image_id, study, image, ct, native_ct.geometry, tuple(spects), versions=tuple(versions),
        server_url=client.url, **start,
    )  # fmt: skip


def _in_bq_ml(stored: Volume, point: TimePointInfo, patient: str) -> Volume:
    """A SPECT in the unit that it is shown in, as everybody else reads it."""
    check_spect(stored, f"{patient}, {point.spect}")
    if point.bq_ml_per_value is None:
        raise StudyError(
            f"{patient}, {point.spect}: its values can't be brought to Bq/mL.", "`doselabel study check` says why."
        )
    if point.bq_ml_per_value == 1.0:
        return stored
    return Volume((stored.array * point.bq_ml_per_value).astype(np.float32), stored.geometry)


def _spects_of(study: StudyInfo, image: ImageInfo) -> list:
    """Find the time points to show with a CT: its own, or all of them with the diagnostic CT."""
    if image.role == "time_point":
        return [point for point in study.time_points if point.image_id == image.image_id]
    return list(study.time_points)


@dataclass(frozen=True)
class _Start:
    """Finds the labels that a case starts with."""

    client: Client
    image_id: str
    versions: Sequence[LabelVersion]
    folder: Path
    native_ct: Volume
    grid: Geometry

    def find(self, recovery: Recovery) -> dict[str, Any]:
        """Fields of `Case`: unsaved work if there is some, else the newest version, else nothing labelled."""
        newest = self.versions[0] if self.versions else None
        native = self.native_ct.geometry
        draft: Draft | None = recovery.load(self.image_id, self.native_ct)
        if draft is not None and draft.labels.geometry.same_place(native):
            known = next((v for v in self.versions if draft.started_from == f"version {v.version}"), None)
            labels = to_canonical(draft.labels, native, "unsaved work")
            start = None if known is None else self.version(known.version, labels.names)
            return {
                "labels": labels if start is None else replace(labels, names=start.names),
                "origin": draft.origin,
                "started_from": draft.started_from,
                "start": None if start is None else start.array,
                "restored": draft.saved.astimezone().strftime("%Y-%m-%d %H:%M"),
                "content": content_of(draft.labels),
                "seen": draft.seen,
            }
        if newest is not None:
            labels = self.version(newest.version)
            return {
                "labels": labels,
                "origin": newest.origin,
                "started_from": f"version {newest.version}",
                "start": labels.array,
                "seen": newest.version,
            }
        empty = LabelMap(np.zeros(self.grid.shape, np.uint8), self.grid)
        return {"labels": empty, "start": empty.array}

    def version(self, number: int, known: Mapping[int, str] = NAMES) -> LabelMap:
        path = inside(self.folder, f"labels/{self.image_id}_{number}.nii.gz")
        self.client.label_file(self.image_id, number, path)
        native = self.native_ct.geometry
        drawn = read_labels(path, expect=native, ct=self.native_ct)
        return to_canonical(drawn, native, f"label version {number} of {self.image_id}", known)


def fetch_version(client: Client, case: Case, number: int, folder: Path) -> LabelMap:
    """Fetch one version of an open case's labels, canonical."""
    return _Start(client, case.image_id, case.versions, folder, case.native_ct(), case.ct.geometry).version(number)
