"""What to take out of a computed dose, and where to: a form that magicgui makes, read before anything is written."""

from __future__ import annotations

from pathlib import Path

from magicgui.types import FileDialogMode
from magicgui.widgets import CheckBox, Container, FileEdit
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QDialog, QVBoxLayout, QWidget

from doselabel.dicom import KINDS
from napari_plugin.exporting import Wanted
from napari_plugin.views.kit import button, note, row

FOLDER = FileDialogMode.EXISTING_DIRECTORY
WORDS = {"seg": "SEG", "rtstruct": "RTSTRUCT", "rtdose": "RTDOSE", "pdf": "PDF", "sr": "SR"}
TIPS = {
    "seg": "The masks used, as a segmentation",
    "rtstruct": "The masks used, as contours",
    "rtdose": "The dose map, Gy",
    "pdf": "The report",
    "sr": "The numbers, as a structured report; brings SEG along",
}


class ExportSheet(QDialog):
    """Files for reading, DICOM objects for a PACS, and the folder they go to."""

    export_wanted = Signal(object)

    def __init__(self, parent: QWidget, patient_id: str, source: Path | None, key: Path | None) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Export the dose of {patient_id}")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(520)
        self.folder = FileEdit(name="folder", label="To folder", mode=FOLDER, nullable=True)
        self.files = CheckBox(name="files", text="Report, tables (CSV, JSON), dose map and masks (NIfTI)", value=True)
        self.source = FileEdit(
            name="source", label="DICOM source", mode=FOLDER, nullable=True, value=source,
            tooltip="The folder that the patient was imported from: the objects refer to its series",
        )  # fmt: skip
        self.key = FileEdit(
            name="key", label="Its key file", mode=FileDialogMode.EXISTING_FILE, nullable=True, value=key,
            tooltip="That the patient was imported with; empty: this user's own",
        )  # fmt: skip
        self.objects = {kind: QCheckBox(WORDS[kind]) for kind in KINDS}
        for kind, box in self.objects.items():
            box.setToolTip(TIPS[kind])
            box.toggled.connect(self._check)
        self.export = button("Export")
        self.export.setDefault(True)
        self.export.clicked.connect(self._ask)
        cancel = button("Back")
        cancel.clicked.connect(self.reject)
        self._dicom: Container[FileEdit] = Container()
        self._dicom.extend([self.source, self.key])
        lines = QVBoxLayout(self)
        lines.addWidget(Container(widgets=[self.folder, self.files]).native)
        lines.addWidget(note("<b>DICOM objects</b>, for studies that were imported from DICOM"))
        lines.addWidget(row(*self.objects.values()))
        lines.addWidget(self._dicom.native)
        lines.addWidget(row(cancel, self.export))
        for field in (self.folder, self.files, self.source):
            field.changed.connect(self._check)
        self._check()

    @property
    def wanted(self) -> Wanted:
        """What is chosen."""
        objects = tuple(kind for kind, box in self.objects.items() if box.isChecked())
        folder, source, key = (_chosen(field) for field in (self.folder, self.source, self.key))
        return Wanted(folder or Path(), self.files.value, objects, source, key)

    def _check(self, _: object = None) -> None:
        wanted = self.wanted
        self._dicom.enabled = bool(wanted.objects)
        missing = (
            "Choose the folder to write to"
            if self.folder.value is None
            else "Choose what to write"
            if not (wanted.files or wanted.objects)
            else "Choose the folder of the DICOM source"
            if wanted.objects and wanted.source is None
            else ""
        )
        self.export.setEnabled(not missing)
        self.export.setToolTip(missing)

    def _ask(self) -> None:
        self.export_wanted.emit(self.wanted)
        self.accept()


def _chosen(field: FileEdit) -> Path | None:
    """What a field for one file or folder holds."""
    return field.value if isinstance(field.value, Path) else None
