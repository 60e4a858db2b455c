"""An image of a study as one file that says itself where its voxels are: what can be given away. Knows files.

Most images are such files. A header whose voxels lie in another file, or an image whose place only ``study.json``
states, would be of no use to whoever gets it alone; of these a copy is made once, in the same format.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from doselabel.errors import GeometryError
from doselabel.geometry import SUFFIXES, write_image
from doselabel.images import read_header
from doselabel.study import Study


def whole(study: Study, name: str, folder: Path) -> Path:
    """The path of a study's image, or of its copy in ``folder`` where it can't stand alone.

    Raises
    ------
    GeometryError
        When a copy is needed and the image can't be read.
    """
    path = study.path(name)
    stated = study.stated_place(name)
    try:
        header = read_header(path, stated=stated, within=study.folder)
    except GeometryError:
        return path  # whoever reads it is told
    if header.data == header.path and stated is None:
        return path
    files = sorted({header.path, header.data})
    key = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in files]
    digest = hashlib.sha256(repr((key, stated)).encode()).hexdigest()[:16]
    suffix = next(s for s in SUFFIXES if path.name.lower().endswith(s))
    copy = folder / study.patient_id / digest / f"{path.name[: -len(suffix)]}{'.mha' if suffix == '.mhd' else suffix}"
    return copy if copy.is_file() else write_image(copy, study.read(name))
