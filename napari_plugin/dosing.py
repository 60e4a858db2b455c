"""The patient's doses: asked for, shown as map and isodose lines, kept to be saved. No widgets."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QObject, Signal

from doselabel.errors import DoselabelError, Progress, ServerError
from doselabel.geometry import Volume, read_image
from doselabel.labels import title
from doselabel.wire import DoseResults, JobRequest, JobResult
from napari_plugin import layers as scene
from napari_plugin.client import Client
from napari_plugin.editing import Editing
from napari_plugin.exporting import Wanted, write_files, write_objects
from napari_plugin.tasks import Tasks

DOSE_TASK = "dosimetry"
ISODOSES = "20 40 60 80 %"
"""The lines drawn when nobody asked for others."""
MOST_ISODOSES = 12
FIGURES = (
    "mean_dose_gy", "dose_sd_gy", "dose_gy_per_gbq", "tia_mbq_h", "tia_sd_mbq_h", "effective_half_life_h",
    "volume_ml", "mass_g", "bed_gy", "bed_sd_gy",
)  # fmt: skip
"""What the table of a saved dose tells of each organ."""


def read_levels(text: str, highest_gy: float) -> list[float]:
    """Rising doses, Gy, of isodose lines as a person writes them: numbers, then "Gy" or "%" of the highest dose.

    Raises
    ------
    DoselabelError
        When it is something else.
    """
    match = re.fullmatch(r"\s*((?:\d+(?:\.\d+)?[\s;,·]*)+)(%|gy)\s*", text, re.IGNORECASE)
    numbers = sorted({float(n) for n in re.findall(r"\d+(?:\.\d+)?", match[1])}) if match else []
    numbers = [n for n in numbers if n > 0]
    if match is None or not numbers or len(numbers) > MOST_ISODOSES:
        raise DoselabelError(
            f"'{text}' are no isodoses.",
            f"Write 1 to {MOST_ISODOSES} numbers and a unit: '{ISODOSES}' or '5 10 20 Gy'.",
        )
    return [n * highest_gy / 100 for n in numbers] if match[2] == "%" else numbers


def table(results: DoseResults) -> str:
    """The organs' numbers as CSV, one row each; units are in the head."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["patient_id", "nuclide", "labels", "reviewed", "organ", *FIGURES])
    facts = (results.patient_id, results.nuclide, results.labels_origin, results.reviewed)
    for name, organ in results.organs.items():
        writer.writerow([*facts, name, *(getattr(organ, figure) for figure in FIGURES)])
    return stream.getvalue()


class Dosing(QObject):
    """Asks the server for doses.

    Signals
    -------
    status(text, level), ready(DoseResults), outdated()
    """

    status = Signal(str, str)
    ready = Signal(object)
    outdated = Signal()

    def __init__(
        self,
        viewer: ViewerModel,
        editing: Editing,
        tasks: Tasks,
        fetch: Callable[[Client, JobResult, str, Progress], Path],
        parent: QObject | None = None,
    ) -> None:
        """``fetch`` brings a file of a job's result to this computer."""
        super().__init__(parent)
        self._viewer, self._editing, self._tasks, self._fetch = viewer, editing, tasks, fetch
        self.results: DoseResults | None = None
        self._files: dict[str, Path] = {}
        self._layers: tuple = ()
        self.options: dict[str, Any] = {}
        self._stale = self._stored = False
        self._isodoses, self._highest_gy = ISODOSES, 0.0
        editing.labels_changed.connect(self._on_labels)
        editing.captions.append(self._caption)

    def start(self, client: Client, user: str, options: dict[str, Any]) -> bool:
        """Compute the patient's doses from the submitted labels, and show map and isodose lines."""
        session = self._editing.session
        assert session is not None
        case = session.case
        if session.dirty:
            self.status.emit(
                "The dose will be that of the submitted labels: your unsaved edits are not in it.", "warning"
            )
        request = JobRequest(image_id=case.image_id, user=user, params=options)

        def work(progress: Progress) -> tuple[JobResult, dict[str, Path], Volume | None]:
            result = client.run_job(DOSE_TASK, request, progress, patience_s=math.inf)
            files = {role: self._fetch(client, result, role, progress) for role in result.files}
            return result, files, read_image(files["dose"]) if "dose" in files else None

        def then(found: tuple[JobResult, dict[str, Path], Volume | None]) -> Any:
            result, files, volume = found
            if result.dose is None:
                raise ServerError("The server's dosimetry ended without results.", "See its log.")
            self.results, self._files, self.options = result.dose, files, dict(options)
            self._stale = self._stored = False
            session = self._editing.session
            if volume is not None and session is not None and session.case.study.patient_id == case.study.patient_id:
                self._show(volume)
            self.ready.emit(result.dose)
            doses = ", ".join(
                f"{title(name)} {o.mean_dose_gy:.2f} ± {o.dose_sd_gy:.2f} Gy" for name, o in result.dose.organs.items()
            )
            self.status.emit(f"{result.dose.patient_id}: {doses}.", "info")
            self._on_labels()
            return result.dose

        return self._tasks.run("dose", work, then)

    @property
    def report(self) -> Path | None:
        """The latest dose report, HTML."""
        return self._files.get("report")

    def save(self, folder: str | Path) -> Path:
        """Copy everything the latest dosimetry made (results, dose map, report …) to a folder."""
        folder = Path(folder)
        write_files(self._computed(), table(self._computed()), list(self._files.values()), folder)
        return folder

    def export(self, client: Client | None, wanted: Wanted) -> bool:
        """Write files and DICOM objects of the latest dosimetry in a thread (action "export")."""
        session = self._editing.session
        if session is None or client is None:
            self._tasks.refuse("export", DoselabelError("No case is open.", "Connect to its server and open it first."))
            return False
        results, study, files = self._computed(), session.case.study, list(self._files.values())

        def work(progress: Progress) -> str:
            if wanted.objects:
                write_objects(client, study, files[0].parent, wanted, progress)
            if wanted.files:
                write_files(results, table(results), files, wanted.folder)
            return f"Saved to {wanted.folder}."

        return self._tasks.run("export", work, lambda said: self.status.emit(said, "info"))

    def _computed(self) -> DoseResults:
        if self.results is None:
            raise DoselabelError("There is no dose to save.", "Compute the doses first.")
        return self.results

    def forget_layers(self) -> None:
        """Take the dose map off the screen."""
        scene.remove(self._viewer, self._layers)
        self._layers = ()

    def _show(self, volume: Volume) -> None:
        session = self._editing.session
        assert session is not None
        self.forget_layers()
        organs = self.results.organs.values() if self.results else ()
        highest = max((organ.dvh.max_gy for organ in organs), default=float(volume.array.max()))
        grid = session.case.ct.geometry
        self._highest_gy = highest
        levels_gy = read_levels(self._isodoses, highest)
        self._layers = scene.add_dose(self._viewer, volume, grid, levels_gy)
        self._editing.make_room_for_dose()

    def set_isodoses(self, text: str) -> bool:
        """Draw other isodose lines, such as "10 20 Gy" or "20 50 80 %" of the highest; False: not begun."""
        try:
            levels_gy = read_levels(text, self._highest_gy)
        except DoselabelError as error:
            self._tasks.refuse("isodoses", error)
            return False
        self._isodoses = text
        if not self._layers or self._layers[0] not in self._viewer.layers:
            return False
        image, old = self._layers
        array = image.data

        def then(lines: np.ndarray) -> None:
            if self._layers != (image, old) or old not in self._viewer.layers:
                return
            at, active = self._viewer.layers.index(old), self._viewer.layers.selection.active
            layer = scene.isodose_layer(image, lines, levels_gy)
            self._viewer.layers.insert(at, layer)
            scene.remove(self._viewer, [old])
            self._layers = (image, layer)
            self._viewer.layers.selection.active = layer if active is old else active

        return self._tasks.run("isodoses", lambda _: scene.isodose_lines(array, levels_gy), then)

    def _caption(self) -> str:
        shown = self._layers and self._layers[0] in self._viewer.layers and self._layers[0].visible
        return "colours: dose, Gy" if shown else ""

    def _on_labels(self) -> None:
        """Say it at the first edit after a dose; and take it back when all edits are undone."""
        session = self._editing.session
        if self.results is None or session is None or session.case.study.patient_id != self.results.patient_id:
            return
        if session.dirty and not self._stale:
            self._stale = True
            self.outdated.emit()
        elif not session.dirty and self._stale and not self._stored:
            self._stale = False
            self.ready.emit(self.results)

    def set_stale(self) -> None:
        """Say that the submitted labels are not those of the dose any more."""
        if self.results is not None:
            self._stale = self._stored = True
            self.outdated.emit()
