"""Recipes: what a network learns from, how, and how it is tested, in a small YAML file. Knows folders, draws nothing.

::

    sources:
      - {name: real, share: 0.5, cases: ../shared/data/real_ct, names: {1: liver, 2: right_kidney}}
      - {name: painted, share: 0.2, paint: ../shared/data/totalseg_labelmaps, per_body: 12}
      - {name: phantoms, share: 0.3, sample: 24, seed: 1000}
    validation: [btcv_24, crlm_1006]
    profile: fast
    settings: {steps: 10000, batch: 4, start: ../starter.safetensors}

``cases`` names a folder (or several) as `cases_from` reads it; ``paint`` a folder of label maps that CTs are painted
from; ``sample`` makes that many synthetic patients. Paths are relative to the file; ``$DATA`` in them is
the folder given with ``--data``. A patient named under
``validation`` is never trained on. A recipe may also name the ``organs`` to learn, and ``folds`` and ``split`` of a
cross-validation; without ``sources`` the cases are given beside it. Those in ``recipes/`` are known by their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from doselabel.errors import ModelError, Progress, no_progress
from doselabel.model.carry import packed_cases
from doselabel.model.cases import TrainCase
from doselabel.model.datasets import cases_from
from doselabel.model.paint import painted_cases
from doselabel.model.profiles import PROFILES, Profile
from doselabel.model.settings import Settings, read_yaml
from doselabel.model.train import Source

RECIPES = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class Mix:
    """Sources to train on, cases to validate on, and settings.

    Attributes
    ----------
    sources : tuple of Source
    validation : tuple of TrainCase
    settings : Settings
    attribution : tuple of str
        What the model card says of the data.
    profile : Profile, optional
        That of the network; default: that of the checkpoint it starts from.
    made : tuple of str
        Names of those sources that show nobody: painted or synthetic.
    organs : tuple of str
        Organs to learn; none: the profile's.
    folds, split
        Of a cross-validation.
    card : mapping
        More lines of the model card: licence, limits.
    """

    sources: tuple[Source, ...] = ()
    validation: tuple[TrainCase, ...] = ()
    settings: Settings = field(default_factory=Settings)
    attribution: tuple[str, ...] = ()
    profile: Profile | None = None
    made: tuple[str, ...] = ()
    organs: tuple[str, ...] = ()
    folds: int | None = None
    split: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe that ships, by its name, or the file itself.

    Raises
    ------
    ModelError
        When there is neither.
    """
    shipped = RECIPES / f"{name}.yaml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise ModelError(f"{name}: is neither a recipe ({known}) nor a file.", "Give one of these, or a YAML file.")
    return path


def read_mix(
    name: str | Path,
    work: Path,
    data: Path | None = None,
    progress: Progress = no_progress,
    *,
    only: Sequence[str] | None = None,
    hold_out: bool = True,
    packed: Path | None = None,
) -> Mix:
    """Read a mix (as `recipe_path` finds it) and make what is to be made (painted CTs, synthetic patients) in ``work``.

    ``only`` leaves out all but the sources of these names. With ``hold_out`` off, the patients named under
    ``validation`` are in the sources like others. With ``packed`` (`doselabel.model.carry`) all cases come from that
    file; validation patients were not packed, so there are none.

    Raises
    ------
    ModelError
        When the file, or a folder it names, is not as described.
    """
    path = recipe_path(name)
    content = _filled(read_yaml(path), path, Path() if packed else data)
    known = {"sources", "validation", "settings", "attribution", "profile", "organs", "folds", "split", "card"}
    if unknown := sorted(set(content) - known):
        raise ModelError(f"{path}: has unknown entries {unknown}; known: {', '.join(sorted(known))}.")
    held_out = {str(patient) for patient in content.get("validation") or []} if hold_out and not packed else set()
    profile = content.get("profile")
    if profile is not None and profile not in PROFILES:
        raise ModelError(f"{path}: names the profile '{profile}'; there are {', '.join(PROFILES)}.")
    carried = packed_cases(packed, work / "packed", progress) if packed else None
    sources, made, validation = [], [], []
    for number, row in enumerate(content.get("sources") or []):
        try:
            source, share = str(row["name"]), float(row["share"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: source {number + 1} lacks a name or a share ({error}).") from error
        if only is not None and source not in only:
            continue
        found = carried.get(source, []) if carried else _cases(path, row, work / source, progress)
        validation += [case for case in found if case.patient in held_out]
        made += [] if "cases" in row else [source]
        sources.append(Source(source, share, [case for case in found if case.patient not in held_out]))
    if missing := held_out - {case.patient for case in validation}:
        raise ModelError(
            f"{path}: validation names {', '.join(sorted(missing))}, which no source has.",
            "Correct the patients' names.",
        )
    settings = Settings().replace(**(content.get("settings") or {}))
    base = Path(path).resolve().parent
    files = {key: base / file for key in ("start", "pretrained") if (file := getattr(settings, key))}
    attribution = tuple(content.get("attribution") or ())
    return Mix(
        tuple(sources),
        tuple(validation),
        settings.replace(**files),
        attribution,
        PROFILES.get(profile),
        tuple(made),
        tuple(content.get("organs") or ()),
        content.get("folds"),
        content.get("split"),
        content.get("card") or {},
    )


def _cases(path: Path, row: dict[str, Any], work: Path, progress: Progress) -> list[TrainCase]:
    base = Path(path).resolve().parent
    if "paint" in row:
        return painted_cases(base / row["paint"], work, int(row.get("per_body", 8)), int(row.get("seed", 0)), progress)
    if "sample" in row:
        from sample_data.phantom import generate

        count, seed = int(row["sample"]), int(row.get("seed", 0))
        if len(list(work.glob("*/study.json"))) < count:
            generate(work, patients=count, seed=seed, progress=progress)
        return cases_from(work)
    if "cases" not in row:
        raise ModelError(f"{path}: source '{row['name']}' has neither cases, paint nor sample.")
    folders = row["cases"] if isinstance(row["cases"], list) else [row["cases"]]
    names = {int(value): str(name) for value, name in (row.get("names") or {}).items()} or None
    found = [case for folder in folders for case in cases_from(base / folder)]
    return [replace(case, names=names, names_assumed=False) for case in found] if names else found


def _filled(value: Any, path: Path, data: Path | None) -> Any:
    """Put the folder of data in its place."""
    if isinstance(value, dict):
        return {key: _filled(item, path, data) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, path, data) for item in value]
    if isinstance(value, str) and "$DATA" in value:
        if data is None:
            raise ModelError(f"{path}: wants a folder of data ({value}).", "Give --data DIR.")
        return value.replace("$DATA", str(Path(data).resolve()))
    return value
