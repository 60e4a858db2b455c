"""One annotatable CT of a study, and the label maps that belong to it. Knows studies; no server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from doselabel.geometry import SUFFIXES, Geometry
from doselabel.geometry import read_grid as grid_of
from doselabel.study import Study
from doselabel.versions import LabelStore


@dataclass(frozen=True)
class Case:
    """One annotatable CT."""

    image_id: str
    study: Study
    file: str
    time_h: float | None

    @property
    def path(self) -> Path:
        """The CT's file."""
        return self.study.path(self.file)

    @property
    def grid(self) -> Geometry:
        """The grid it lies on, without reading its voxels."""
        return grid_of(self.path, stated=self.study.stated_place(self.file), within=self.study.folder)

    @property
    def stem(self) -> str:
        """The CT's file name without suffix."""
        return self.image_id.partition("__")[2]

    @property
    def name(self) -> str:
        """The file name under which it is given out: no other CT has it."""
        return f"{self.image_id}{suffix_of(self.path)}"

    @property
    def labels(self) -> LabelStore:
        """Its label maps."""
        return LabelStore(self.study.folder / "labels", self.image_id, self.stem)


def cases_of(study: Study) -> Iterator[Case]:
    """The annotatable CTs of a study, the diagnostic one first."""
    times = {point.ct: point.time_h for point in reversed(study.time_points)}
    for image_id, name in study.cts().items():
        yield Case(image_id, study, name, None if name == study.ct else times.get(name))


def suffix_of(path: Path) -> str:
    """What an image's name ends with."""
    return next((path.name[-len(s) :] for s in SUFFIXES if path.name.lower().endswith(s)), path.suffix)
