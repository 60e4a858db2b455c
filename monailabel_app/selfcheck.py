"""What a server looks at before it says that it is well. Each finding says what was found and what to do about it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from doselabel.errors import DoselabelError
from monailabel_app.conf import Conf
from monailabel_app.datastore import StudyDatastore
from monailabel_app.models import ModelStore

logger = logging.getLogger(__name__)

LEAST_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class Found:
    """One thing that was looked at."""

    name: str
    well: bool
    found: str = ""
    remedy: str = ""


def self_check(conf: Conf, models: ModelStore, store: StudyDatastore) -> list[Found]:
    """Look at disk, memory, model and studies; what is not well is logged too."""
    found = [*_disk(conf), *_memory(conf), _model(models), _studies(store)]
    for row in found:
        if not row.well:
            logger.warning("Self-check: %s: %s → %s", row.name, row.found, row.remedy)
    return found


def _disk(conf: Conf) -> Iterator[Found]:
    try:
        with tempfile.TemporaryFile(dir=conf.state) as file:
            file.write(b"x")
        yield Found("writable", True)
    except OSError as error:
        yield Found("writable", False, f"{conf.state}: {error.strerror}", "Let the server write there.")
    free = shutil.disk_usage(conf.state).free
    remedy = "Free some: label maps, doses and models need it."
    yield Found("disk", free >= LEAST_FREE_BYTES, f"{free / 2**30:.1f} GiB are free", remedy)


def _memory(conf: Conf) -> Iterator[Found]:
    there = memory_bytes()
    if conf.memory_gb and there:
        words = f"a worker may take {conf.memory_gb:g} GiB, the machine has {there / 2**30:.0f}"
        yield Found("memory", conf.memory_gb * 2**30 <= there, words, "Lower --conf memory_gb.")


def _model(models: ModelStore) -> Found:
    try:
        known = models.info()
    except (DoselabelError, OSError) as error:
        return Found("model", False, str(error), "Go back to an earlier model, or give --conf checkpoint.")
    remedy = "Give --conf checkpoint FILE, or go back to an earlier model."
    return Found("model", known is not None, known.sha256[:12] if known else "there is none", remedy)


def _studies(store: StudyDatastore) -> Found:
    infos = store.studies()
    broken = [info.patient_id for info in infos if info.error]
    words = f"{len(broken)} of {len(infos)} studies can't be used: {', '.join(broken[:5])}"
    return Found("studies", not broken, words, "`doselabel study check` says why.")


def memory_bytes() -> int:
    """The machine's memory, or what its container may have; 0 where nobody tells."""
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # "max": no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return min(found, default=0)
