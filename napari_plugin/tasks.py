"""Runs work in threads and brings its outcome back to the window's thread. Knows Qt and napari's workers, not the work.

A worker never touches Qt: it leaves its progress in a `_Run`, and a timer in the window's thread reads it there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from napari.qt.threading import create_worker
from qtpy.QtCore import QCoreApplication, QObject, QTimer, Signal

from doselabel.errors import Cancelled, DoselabelError, Progress

PUBLISH_MS = 30
Work = Callable[[Progress], Any]


class Tasks(QObject):
    """Named tasks; of each name at most one runs at a time.

    Signals
    -------
    started(name), progressed(name, stage, fraction), finished(name, result), failed(name, error), cancelled(name)
        All emitted in the window's thread; exactly one of the last three ends each task.
    """

    started = Signal(str)
    progressed = Signal(str, str, float)
    finished = Signal(str, object)
    failed = Signal(str, object)
    cancelled = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._runs: dict[str, _Run] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(PUBLISH_MS)
        self._timer.timeout.connect(self._publish)

    def running(self, name: str) -> bool:
        """Whether a task is under way."""
        run = self._runs.get(name)
        return run is not None and not run.over

    def run(self, name: str, work: Work, then: Callable[[Any], Any] | None = None) -> bool:
        """Start a task.

        Parameters
        ----------
        work : callable
            Called in a thread with a progress callback, which raises `Cancelled` after `cancel`.
        then : callable, optional
            Called in the window's thread with the result, before ``finished`` is emitted; what it returns, if
            anything, is the task's result.

        Returns
        -------
        bool
            False when a task of this name is still running: nothing was started.
        """
        if self.running(name):
            return False
        run = self._runs[name] = _Run(name, work, then)
        self.started.emit(name)
        self._timer.start()
        run.worker = create_worker(run.work_in_thread, _start_thread=True)
        return True

    def refuse(self, name: str, error: DoselabelError) -> None:
        """End a task before it has begun: ``failed`` is emitted, and `wait` raises the error."""
        if not self.running(name):
            run = self._runs[name] = _Run(name, lambda _: None, None)
            run.error, run.over = error, True
            run.done.set()
            self.failed.emit(name, error)

    def cancel(self, name: str) -> None:
        """Ask a task to stop; it ends with ``cancelled`` at its next report of progress."""
        run = self._runs.get(name)
        if run is not None:
            run.stop.set()

    def wait(self, name: str, timeout_s: float = 60.0) -> Any:
        """Process window events until the task's latest run is over; return its result or raise its error.

        Raises
        ------
        TimeoutError
            When it is still running after ``timeout_s``.
        Cancelled, DoselabelError
            As the task ended.
        """
        run = self._runs.get(name)
        if run is None:
            raise DoselabelError(f"There is no task '{name}' to wait for.", "Start it first.")
        deadline = time.monotonic() + timeout_s
        while not run.over:
            if time.monotonic() > deadline:
                raise TimeoutError(f"'{name}' is still at '{run.report[0]}' after {timeout_s:g} s.")
            QCoreApplication.processEvents()
            run.done.wait(0.02)
        if run.error is not None:
            raise run.error
        return run.result

    def cleanup(self, timeout_s: float = 10.0) -> None:
        """Cancel everything and wait until the threads are out of the way."""
        self._timer.stop()
        deadline = time.monotonic() + timeout_s
        for run in self._runs.values():
            run.stop.set()
        for run in self._runs.values():
            run.done.wait(max(0.0, deadline - time.monotonic()))
            run.over = True

    def _publish(self) -> None:
        for run in [run for run in self._runs.values() if not run.over]:
            if run.report != run.published:
                run.published = run.report
                self.progressed.emit(run.name, *run.report)
            if run.done.is_set():
                self._end(run)
        if all(run.over for run in self._runs.values()):
            self._timer.stop()

    def _end(self, run: _Run) -> None:
        if run.error is None and run.then is not None:
            try:
                outcome = run.then(run.result)
                run.result = run.result if outcome is None else outcome
            except (DoselabelError, Cancelled) as error:
                run.error = error
            except Exception as error:
                run.error = _unforeseen(run.name, error)
        run.over = True
        run.worker = None
        if run.error is None:
            self.finished.emit(run.name, run.result)
        elif isinstance(run.error, Cancelled):
            self.cancelled.emit(run.name)
        else:
            self.failed.emit(run.name, run.error)


class _Run:
    """One run of a task, shared by its thread (``work_in_thread``) and the window's thread (everything else)."""

    def __init__(self, name: str, work: Work, then: Callable[[Any], Any] | None) -> None:
        self.name = name
        self.then = then
        self.stop = threading.Event()
        self.done = threading.Event()
        self.report: tuple[str, float] = ("", 0.0)
        self.published: tuple[str, float] = ("", 0.0)
        self.result: Any = None
        self.error: Exception | None = None
        self.over = False
        self.worker: Any = None
        self._work = work

    def work_in_thread(self) -> None:
        """Do the work; errors are kept here, because napari's workers drop some of them."""
        try:
            self.result = self._work(self._progress)
        except (DoselabelError, Cancelled) as error:
            self.error = error
        except Exception as error:
            self.error = _unforeseen(self.name, error)
        finally:
            self.done.set()

    def _progress(self, stage: str, fraction: float) -> None:
        self.report = (stage, fraction)
        if self.stop.is_set():
            raise Cancelled(self.name)


def _unforeseen(name: str, error: Exception) -> DoselabelError:
    wrapped = DoselabelError(
        f"'{name}' failed: {type(error).__name__}: {error}", "This is a fault of the plugin; please report it."
    )
    wrapped.__cause__ = error
    return wrapped
