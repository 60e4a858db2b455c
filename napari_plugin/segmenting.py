"""The network's labels: asked for, applied where nothing is lost, offered where something would be. No widgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from doselabel.errors import DoselabelError, Progress
from doselabel.labels import LabelMap, read_labels, title
from doselabel.wire import JobRequest, JobResult, SegmentationSummary
from napari_plugin.client import Client
from napari_plugin.editing import Editing, Prepared, becoming
from napari_plugin.session.case import Case, to_canonical
from napari_plugin.tasks import Tasks

SEGMENT_TASK = "kidney_liver"
OFFERS_KEPT = 3
"""Results for cases that are not on screen; more would fill the memory, and the network can make them again."""


@dataclass(frozen=True)
class Offer:
    """A model's labels that wait for the annotator's word."""

    case: Case
    labels: LabelMap
    summary: SegmentationSummary | None

    @cached_property
    def organs(self) -> tuple[str, ...]:
        """What the model found. Ask first in a thread: on a large CT it takes longer than a window may stall."""
        return self.labels.present()


class Segmenting(QObject):
    """Asks the server for labels.

    Signals
    -------
    status(text, level)
    segmented(SegmentationSummary)
        A model's labels are on screen.
    offered(Offer), withdrawn()
        A result waits for the annotator's word, or does not any more.
    """

    status = Signal(str, str)
    segmented = Signal(object)
    offered = Signal(object)
    withdrawn = Signal()

    def __init__(
        self,
        editing: Editing,
        tasks: Tasks,
        fetch: Callable[[Client, JobResult, str, Progress], Path],
        parent: QObject | None = None,
    ) -> None:
        """``fetch`` brings a file of a job's result to this computer."""
        super().__init__(parent)
        self._editing, self._tasks, self._fetch = editing, tasks, fetch
        self._offers: dict[str, Offer] = {}

    def start(self, client: Client, user: str, params: dict[str, Any]) -> bool:
        """Segment the open case; the work of hands that is there when the result comes stays as it is."""
        session = self._editing.session
        assert session is not None
        case = session.case

        def work(progress: Progress) -> tuple[Offer, Prepared | None, np.ndarray]:
            request = JobRequest(image_id=case.image_id, user=user, params=params)
            result = client.run_job(SEGMENT_TASK, request, progress, patience_s=math.inf)
            path = self._fetch(client, result, "labels", progress)
            labels = read_labels(path, expect=case.native, ct=case.native_ct)
            found = to_canonical(labels, case.native, "the server's segmentation")
            offer = Offer(case, found, result.segmentation)
            _ = offer.organs
            session = self._editing.session
            if session is None or session.case is not case:
                return offer, None, found.array
            array = session.adopted(found)
            return offer, self._editing.prepare(session, becoming(array)), array

        def then(found: tuple[Offer, Prepared | None, np.ndarray]) -> Any:
            offer, ready, array = found
            session = self._editing.session
            if session is None or session.case.image_id != case.image_id:
                self.keep(offer)
                self.status.emit(f"The model's result for {case.title} is ready: open it to take it.", "warning")
            elif self._editing.untouched and ready is not None:
                self._apply(offer, ready, "model", array)
            else:
                self.keep(offer)
                self.offered.emit(offer)
                self.status.emit("The model's result is ready. Your labels are as you left them.", "info")
            return offer.summary

        return self._tasks.run("segment", work, then)

    @property
    def offer(self) -> Offer | None:
        """What waits for the annotator's word on the open case."""
        session = self._editing.session
        return None if session is None else self._offers.get(session.case.image_id)

    def case_opened(self) -> None:
        """Offer what came while the case was not on screen."""
        self.withdrawn.emit()
        if (offer := self.offer) is not None:
            self.offered.emit(offer)

    def take(self, organs: Sequence[str] | None = None) -> bool:
        """Take the offered labels, all or of some organs, as one undo step (action "take"); False: not begun."""
        offer, session = self.offer, self._editing.session
        if offer is None or session is None:
            self._tasks.refuse("take", DoselabelError("No result of the model is waiting.", "Segment the case first."))
            return False
        start = session.moment.start

        def work(progress: Progress) -> tuple[Prepared, np.ndarray]:
            array = session.adopted(offer.labels)
            _ = offer.organs
            if organs is None:
                return self._editing.prepare(session, becoming(array)), array
            values = [session.values[name] for name in organs]
            found = self._editing.prepare(session, becoming(array, values))
            return found, array if start is None else _mixed(start, array, values)

        def then(found: tuple[Prepared, np.ndarray]) -> None:
            ready, begun_from = found
            origin = "model" if organs is None else "corrected"
            if self.offer is offer and self._apply(offer, ready, origin, begun_from, organs):
                self.keep_mine()

        return self._tasks.run("take", work, then)

    def keep_mine(self) -> None:
        """Let the offered labels go."""
        session = self._editing.session
        if session is not None:
            self._offers.pop(session.case.image_id, None)
        self.withdrawn.emit()

    def keep(self, offer: Offer) -> None:
        """Keep a model's labels until the annotator has had their word."""
        self._offers.pop(offer.case.image_id, None)
        self._offers[offer.case.image_id] = offer
        for image_id in list(self._offers)[:-OFFERS_KEPT]:
            del self._offers[image_id]

    def _apply(
        self, offer: Offer, ready: Prepared, origin: str, start: np.ndarray, organs: Sequence[str] | None = None
    ) -> bool:
        summary = offer.summary
        if not self._editing.take_prepared(ready, origin, summary.model_sha256 if summary else "", start):
            return False
        self.segmented.emit(summary)
        taken = offer.organs if organs is None else organs
        absent = [title(n) for n in offer.case.study.organs_absent if n in taken]
        odd = [alarm.sentence for alarm in offer.labels.findings if alarm.severity != "note"]
        if absent:
            found = ", ".join(absent)
            odd.insert(0, f"{found}: segmented, but the patient is said to have none. Check, and clear it.")
        if odd:
            self.status.emit(f"Look at the labels: {' '.join(odd)}", "warning")
        else:
            text = f"Segmented {offer.case.title}; correct it, then submit. Ctrl+Z brings back what was there."
            self.status.emit(text, "info")
        return True


def _mixed(start: np.ndarray, array: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """What the labels started from, with some organs from the model."""
    mixed = np.where(np.isin(start, values), 0, start)
    chosen = np.isin(array, values) & (mixed == 0)
    mixed[chosen] = array[chosen]
    return mixed
