"""Start the network, watch it, and read what it says of each organ."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QWidget

from doselabel.labels import title
from doselabel.wire import SegmentationSummary
from napari_plugin.views.kit import ProgressRow, button, column, note, row


class SegmentView(QWidget):
    """Run or cancel the segmentation."""

    segment_wanted = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self._run = button("Segment kidneys and liver", "Key S; replaces the labels as one undo step")
        self._run.clicked.connect(self.ask)
        self._three = QCheckBox("3 planes")
        self._three.setToolTip("Axial, coronal and sagittal together: slower, steadier")
        self.progress = ProgressRow()
        self._summary = note()
        self._summary.hide()
        column(self, row(self._run, self._three, stretch=0), self.progress, self._summary)

    def ask(self) -> None:
        """Ask for a segmentation with the chosen options."""
        self.segment_wanted.emit({"planes": "all"} if self._three.isChecked() else {})

    def set_busy(self, busy: bool) -> None:
        """Allow only one segmentation at a time."""
        self._run.setEnabled(not busy)

    def set_summary(self, summary: SegmentationSummary | None) -> None:
        """Show score and doubts of each organ."""
        lines = []
        if summary is not None:
            for name, organ in summary.organs.items():
                doubts = f" ⚠ {'; '.join(organ.flags)}" if organ.flags else ""
                lines.append(f"{title(name)}: {organ.volume_ml:.0f} mL, score {organ.score:.2f}{doubts}")
            lines += [f"⚠ {flag}" for flag in summary.flags]
            lines.append(f"model {summary.profile} {summary.model_sha256[:8]}, {summary.seconds:.1f} s")
        self._summary.setText("\n".join(lines))
        self._summary.setVisible(bool(lines))
