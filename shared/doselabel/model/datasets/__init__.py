"""Which cases a folder holds, for every layout that is known. Knows names of files; reads no pixels.

A layout is a function that finds its cases below a folder, and finds none where the names are others; so a folder
may hold several data sets, and nobody need say which. Where a CT fits two, the first in `LAYOUTS` has it. Hidden
folders, such as the server's own, hold no cases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from doselabel.errors import ModelError
from doselabel.geometry import SUFFIXES
from doselabel.labels import NAMES
from doselabel.model.cases import TrainCase
from doselabel.model.datasets import own, public
from doselabel.schemes import KIDNEYS, LESIONS

LAYOUTS: Mapping[str, Callable[[Path], list[TrainCase]]] = {
    "studies": own.submitted,
    "sample": own.truth,
    "kits": public.kits,
    "lits": public.lits,
    "totalsegmentator": public.totalsegmentator,
    "chaos_ct": public.chaos_ct,
    "msd": public.msd,
    "amos": public.amos,
    "btcv": public.btcv,
    "flare": public.flare,
    "cases": own.case_folders,
    "pairs": own.pairs,
}
"""Name → finder; docs/data.md shows the files of each."""


def cases_from(
    root: str | Path,
    layout: str | None = None,
    *,
    scheme: str | None = None,
    names: Mapping[int, str] | None = None,
    merge_lesions: bool = True,
    parenchyma: bool = False,
    truth_first: bool = False,
) -> list[TrainCase]:
    """Find CTs with label maps below a folder.

    Parameters
    ----------
    root : path
    layout : str, optional
        A key of `LAYOUTS`; default: every layout is tried.
    scheme : str, optional
        How the label maps are numbered, where the layout is not what its names say: a key of `SCHEMES`.
    names : mapping, optional
        Value → organ name, where neither layout nor scheme says it. What it does not name is background.
    merge_lesions : bool
        Count tumours and cysts to the organ they lie in.
    parenchyma : bool
        Make renal parenchyma of the kidneys that were drawn (`doselabel.model.parenchyma`).
    truth_first : bool
        Of sample patients take the ground truth rather than what was submitted: to score, not to train.

    Returns
    -------
    list of TrainCase
        In the order of their CTs' paths.

    Raises
    ------
    ModelError
        When the folder is not there, the layout is not known, or nothing is found.
    """
    root = Path(root)
    if names is not None:
        if scheme is not None:
            raise ModelError("Found both names and a scheme of numbering.", "Give one of --names, --label-scheme.")
        known = [*NAMES.values(), KIDNEYS, *LESIONS]
        if unknown := sorted(set(names.values()) - set(known)):
            raise ModelError(
                f"'{', '.join(unknown)}' is no organ; expected some of {', '.join(known)}.",
                "Leave out values that are none of these: they count as background.",
            )
    if layout is not None and layout not in LAYOUTS:
        raise ModelError(f"'{layout}' is no layout that is known; there are {', '.join(LAYOUTS)}.", "See docs/data.md.")
    if not root.is_dir():
        raise ModelError(f"{root}: there is no such folder.", "Give the folder of the cases.")
    order = [layout] if layout else list(LAYOUTS)
    if truth_first and not layout:
        order = ["sample", *(name for name in order if name != "sample")]
    found: dict[Path, TrainCase] = {}
    for name in order:
        for case in LAYOUTS[name](root):
            if not any(part.startswith(".") for part in case.ct.resolve().relative_to(root.resolve()).parts):
                case = dataclasses.replace(case, merge_lesions=merge_lesions, parenchyma=parenchyma)
                found.setdefault(case.ct.resolve(), _stated(case, scheme, names))
    if not found:
        tried = f"in the layout '{layout}'" if layout else f"in any of the layouts {', '.join(LAYOUTS)}"
        raise ModelError(
            f"{root}: has no CT with a label map {tried}.",
            "docs/data.md shows the files of each; submit label maps first when these are studies.",
        )
    return [found[path] for path in sorted(found)]


def without_labels(cases: Sequence[TrainCase]) -> list[str]:
    """Names of the folders beside those of the cases that hold a CT, and of which no case came."""
    used = {folder for case in cases for folder in case.ct.parents}
    beside = (folder for home in {case.ct.parent.parent for case in cases} for folder in home.iterdir())
    free = [f for f in beside if f not in used and f.is_dir() and not f.name.startswith(".")]
    return sorted(folder.name for folder in free if any(map(_is_ct, folder.iterdir())))


def _is_ct(file: Path) -> bool:
    return file.name.lower().startswith("ct") and file.name.lower().endswith(SUFFIXES)


def _stated(case: TrainCase, scheme: str | None, names: Mapping[int, str] | None) -> TrainCase:
    if not case.labels.is_file() or not (scheme or names):
        return case
    return dataclasses.replace(case, scheme=scheme, names=names, names_assumed=False)
