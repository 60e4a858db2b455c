"""Start the network, watch it, and read what it says of each organ."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QWidget

from doselabel.labels import title
from doselabel.wire import SegmentationSummary
from napari_plugin.views.kit import LongNote, button, column, note, row

TIP = "Key S; replaces the labels as one undo step"


class SegmentView(QWidget):
    """Run or cancel the segmentation."""

    segment_wanted = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self._run = button("Segment kidneys and liver", TIP)
        self._run.clicked.connect(self.ask)
        self._three = QCheckBox("3 planes")
        self._three.setToolTip("Axial, coronal and sagittal together: slower, steadier")
        self._said: SegmentationSummary | None = None
        self._summary = note()
        self._summary.hide()
        self._flags = LongNote(64)
        self.model = QComboBox()
        self.model.setToolTip("Which of the server's models")
        self.model.hide()
        column(self, row(self._run, self.model, self._three, stretch=0), self._summary, self._flags)

    def ask(self) -> None:
        """Ask for a segmentation with the chosen options."""
        if self.model.count():
            self.segment_wanted.emit({"model": self.model.currentText()})
        else:
            self.segment_wanted.emit({"dose_doubt": True} | ({"planes": "all"} if self._three.isChecked() else {}))

    def set_models(self, names: Sequence[str]) -> None:
        """Offer these models of a server that has others than ours; none: ours."""
        if names != [self.model.itemText(i) for i in range(self.model.count())]:
            self.model.clear()
            self.model.addItems(names)
        self.model.setVisible(len(names) > 1)
        self._three.setVisible(not names)
        self._run.setText("Segment" if names else "Segment kidneys and liver")

    def set_ready(self, ready: bool, why_not: str) -> None:
        """Allow a segmentation, or say why there can be none."""
        self._run.setEnabled(ready)
        self._run.setToolTip(TIP if ready else why_not)

    def set_summary(self, summary: SegmentationSummary | None) -> None:
        """Show score and doubts of each organ; volumes are in the table of organs."""
        if summary is self._said:
            return
        self._said = summary
        found = {} if summary is None else summary.organs
        scores = " · ".join(f"{title(name)} {organ.score:.2f}" for name, organ in found.items())
        slices = len({doubt.slice for organ in found.values() for doubt in organ.doubts})
        doubts = f"{slices} slices to look at: keys , and ." if slices else ""
        self._summary.setText("<br>".join(filter(None, [f"Scores (0 to 1): {scores}", doubts])))
        self._summary.setVisible(bool(found))
        flags = [f"⚠ {title(name)}: {flag}" for name, organ in found.items() for flag in organ.flags]
        flags += [f"⚠ {flag}" for flag in (summary.flags if summary else ())]
        self._flags.set_lines(flags)
