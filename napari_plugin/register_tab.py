"""Ties the tab Register to what moves the SPECTs. Decides nothing itself."""

from __future__ import annotations

from napari_plugin.controller import Controller
from napari_plugin.views.register import RegisterView


def tie(view: RegisterView, controller: Controller) -> None:
    """Connect what the view wants, and what it must show."""
    of = controller.registering
    view.nudge_wanted.connect(of.nudge)
    view.drag_wanted.connect(of.set_dragging)
    view.automatic_wanted.connect(of.automatic)
    view.ct_wanted.connect(lambda: of.bring_ct(controller.settings.author))
    view.ct_shown.connect(of.show_ct)
    view.before_wanted.connect(of.look_back)
    view.undo_wanted.connect(of.undo)
    view.redo_wanted.connect(of.redo)
    view.back_wanted.connect(of.back)
    view.save_wanted.connect(of.save)
    of.judged.connect(view.set_quality)

    def show() -> None:
        place, frame = of.place, controller.editing.frame
        if place is None or frame is None:
            view.set_place(None, False, (0.0, 0.0), False, False, "")
            return
        found = place.summary
        brought = f"Its CT was brought here ({found.shift_mm:.1f} mm)." if found is not None else ""
        undoable, redoable = place.at >= 0, place.at + 1 < len(place.steps)
        view.set_place(frame.time_h, of.diagnostic, of.moved, undoable, redoable, brought)

    of.changed.connect(show)
