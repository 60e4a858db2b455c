"""Doses of the open case by two sides: two versions of its labels, or two ways to read activities. No widgets.

Both are computed on the server as drafts are, and kept nowhere; tables and figure are those of ``doselabel compare``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from doselabel.errors import DoselabelError, Progress, part
from doselabel.wire import DoseResults
from napari_plugin.editing import Editing
from napari_plugin.following import Following
from napari_plugin.session.case import fetch_version
from napari_plugin.tasks import Tasks

if TYPE_CHECKING:
    from doselabel.io.comparison import Comparison, Side

ACTIVITY = {"preset", "voi", "margin_mm", "gaussian_sigma_mm", "gaussian_level", "threshold_percent", "search_mm"}
"""Options of how activities are read: a side that has a method of its own takes none of the computed dose's."""


@dataclass(frozen=True)
class DoseSide:
    """A version of the labels, and how activities are read: option and value, None for as in the computed dose."""

    name: str
    version: int
    method: tuple[str, str] | None = None


class Comparing(QObject):
    """Asks for the doses of both sides (action "compare").

    Signals
    -------
    status(text, level), compared(Comparison)
    """

    status = Signal(str, str)
    compared = Signal(object)

    def __init__(self, editing: Editing, following: Following, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._editing, self._following, self._tasks = editing, following, tasks
        self._latest: tuple[Comparison, list[Side]] | None = None

    def start(self, a: DoseSide, b: DoseSide) -> bool:
        """Compute both; ``compared`` follows."""
        client, session = self._following.client(), self._editing.session
        if client is None or session is None:
            self._tasks.refuse("compare", DoselabelError("No case is open.", "Open a case first."))
            return False
        case, base = session.case, self._following.options

        def work(progress: Progress) -> tuple[Comparison, list[Side]]:
            from doselabel.dosimetry.options import DoseOptions
            from doselabel.io.comparison import Comparison, Side

            found: list[DoseResults] = []
            sides = []
            for i, side in enumerate((a, b)):
                options = _with(base, side.method)
                version = fetch_version(client, case, side.version, self._following.scratch)
                labels = case.to_native(version.array, version.names)
                share = part(progress, i / 2, (i + 1) / 2)
                found.append(self._following.compute(client, case, labels, options, share))
                stated = {key: value for key, value in options.items() if key in DoseOptions.model_fields}
                sides.append(Side(side.name, f"version {side.version}", DoseOptions.read(stated)))
            organs = tuple(dict.fromkeys(name for results in found for name in results.organs))
            return Comparison(a.name, b.name, (found[0],), (found[1],), organs), sides

        def then(found: tuple[Comparison, list[Side]]) -> Comparison:
            self._latest = found
            if self._editing.session is session:
                self.compared.emit(found[0])
            return found[0]

        return self._tasks.run("compare", work, then)

    def save(self, folder: Path) -> bool:
        """Write tables and figure of the latest comparison (action "export")."""
        if self._latest is None:
            self._tasks.refuse("export", DoselabelError("Nothing was compared yet.", "Compare two sides first."))
            return False
        comparison, sides = self._latest

        def work(_: Progress) -> Path:
            from doselabel.io.comparison import write_comparison

            write_comparison(comparison, sides, folder)
            return folder

        return self._tasks.run("export", work, lambda _: self.status.emit(f"Saved to {folder}.", "info"))


def _with(base: dict[str, Any], method: tuple[str, str] | None) -> dict[str, Any]:
    """Options with another way to read activities."""
    return base if method is None else {**{k: v for k, v in base.items() if k not in ACTIVITY}, method[0]: method[1]}
