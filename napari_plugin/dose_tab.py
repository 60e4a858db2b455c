"""Ties the tab Dose to what computes, follows, compares and exports. Decides nothing itself."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_plugin.controller import Controller
from napari_plugin.exporting import Wanted
from napari_plugin.views.dose import DoseView
from napari_plugin.views.export import ExportSheet


class DoseTab:
    """What the view wants, what it must show, and the sheet of an export.

    Attributes
    ----------
    sheet : ExportSheet or None
        While it is open.
    """

    def __init__(self, view: DoseView, controller: Controller, window: QWidget) -> None:
        self._of, self._window = controller, window
        self.sheet: ExportSheet | None = None
        self._latest = Wanted(Path())
        of, following, comparing = controller, controller.following, controller.comparing
        view.dose_wanted.connect(lambda options: of.dose(**options))
        view.report_wanted.connect(self._open_report)
        view.export_wanted.connect(self.ask_export)
        view.isodoses_wanted.connect(of.dosing.set_isodoses)
        view.follow_wanted.connect(following.set_wanted)
        view.comparison.compare_wanted.connect(comparing.start)
        view.comparison.save_wanted.connect(self._save_comparison)
        of.dose_ready.connect(lambda results: view.set_results(results, has_report=of.report is not None))
        of.dose_outdated.connect(view.set_outdated)
        following.followed.connect(view.set_draft)
        following.progressed.connect(view.set_following)
        following.refused.connect(view.set_unfollowed)
        comparing.compared.connect(view.comparison.set_compared)

    def _open_report(self) -> None:
        if self._of.report is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._of.report)))

    def ask_export(self) -> None:
        """Open the sheet; what was chosen last stands in it."""
        results = self._of.dosing.results
        if self.sheet is not None or results is None:
            return
        self.sheet = ExportSheet(self._window, results.patient_id, self._latest.source, self._latest.key)
        self.sheet.export_wanted.connect(self._export)
        self.sheet.finished.connect(self._on_closed)
        self.sheet.open()

    def _on_closed(self, _: int) -> None:
        self.sheet = None

    def _export(self, wanted: Wanted) -> None:
        self._latest = wanted
        self._of.dosing.export(self._of.client, wanted)

    def _save_comparison(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._window, "Where to save tables and figure")
        if folder:
            self._of.comparing.save(Path(folder))
