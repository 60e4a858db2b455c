"""What keys and buttons of the dock do, by name. Knows the controller and the views; makes neither."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtWidgets import QDialog, QDialogButtonBox, QVBoxLayout, QWidget

from napari_plugin.controller import Controller
from napari_plugin.questions import Questions
from napari_plugin.shortcuts import KEYS, NAPARI_KEYS
from napari_plugin.views.case import CaseView
from napari_plugin.views.kit import Table
from napari_plugin.views.palette import ToolPalette
from napari_plugin.views.register import MOVES, RegisterView
from napari_plugin.views.segment import SegmentView


def actions(
    controller: Controller,
    questions: Questions,
    case: CaseView,
    segment: SegmentView,
    palette: ToolPalette,
    register: RegisterView,
    window: QWidget,
) -> dict[str, Callable[[], Any]]:
    """Make every action of `napari_plugin.shortcuts.KEYS`."""
    brush, planes = controller.editing.brush, controller.editing.planes

    def history(step: str) -> None:
        """Undo or redo on the layer that is chosen, as napari does; on ours when it has no history.

        While SPECTs are moved, it is their moves.
        """
        if controller.registering.active:
            getattr(controller.registering, step)()
            return
        active = controller.viewer.layers.selection.active
        ours = controller.layers is None or active is controller.layers.labels or not hasattr(active, step)
        getattr(controller if ours else active, step)()

    return {
        "next": lambda: questions.ask_leave(lambda: controller.next_case(case.strategy)),
        "segment": segment.ask,
        "submit": questions.ask_submit,
        "previous_organ": lambda: brush.step_organ(-1),
        "next_organ": lambda: brush.step_organ(1),
        "hu_mask": lambda: palette.set_hu(not palette.hu_on),
        "brush_3d": lambda: brush.set_sphere(not brush.sphere),
        "fill_between_slices": lambda: controller.tooling.start("fill_between_slices"),
        "keep_largest": lambda: controller.tooling.start("keep_largest"),
        "clicks": lambda: palette.choose("correct"),
        "doubt_before": lambda: controller.doubts.step(-1),
        "doubt_after": lambda: controller.doubts.step(1),
        "outline": lambda: brush.set_outline(not brush.outline),
        **{name: partial(planes.show, name) for name in ("axial", "coronal", "sagittal", "3d")},
        "fit": planes.fit,
        "undo": lambda: history("undo"),
        "redo": lambda: history("redo"),
        **{f"move_{words}": partial(register.nudge, sign) for sign, (words, *_) in MOVES.items()},
        "keys": lambda: KeyList(window).open(),
    }


class KeyList(QDialog):
    """All keys in one list."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Keys")
        table = Table(["Key", "Does"])
        table.set_rows(
            [[key, words] for key, (_, words) in KEYS.items()] + [[k, words] for k, words in NAPARI_KEYS.items()]
        )
        for i in range(table.rowCount()):
            table.cell(i, 1).setTextAlignment(table.cell(i, 0).textAlignment())
        close = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        close.rejected.connect(self.reject)
        lines = QVBoxLayout(self)
        lines.addWidget(table)
        lines.addWidget(close)
        self.setMinimumWidth(460)
