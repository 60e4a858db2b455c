"""Which sources a network learns from, and how much from each: a small YAML file. Knows folders, draws nothing.

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
``validation`` is never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from doselabel.errors import ModelError, Progress, no_progress
from doselabel.model.cases import TrainCase
from doselabel.model.datasets import cases_from
from doselabel.model.paint import painted_cases
from doselabel.model.profiles import PROFILES, Profile
from doselabel.model.settings import Settings, read_yaml
from doselabel.model.train import Source


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
    """

    sources: tuple[Source, ...]
    validation: tuple[TrainCase, ...]
    settings: Settings
    attribution: tuple[str, ...]
    profile: Profile | None = None


def read_mix(
    path: Path,
    work: Path,
    data: Path | None = None,
    progress: Progress = no_progress,
    *,
    only: Sequence[str] | None = None,
) -> Mix:
    """Read a mix and make what is to be made (painted CTs, synthetic patients) below ``work``.

    ``only`` leaves out all but the sources of these names.

    Raises
    ------
    ModelError
        When the file, or a folder it names, is not as described.
    """
    content = _filled(read_yaml(path), path, data)
    known = {"sources", "validation", "settings", "attribution", "profile"}
    if unknown := sorted(set(content) - known):
        raise ModelError(f"{path}: has unknown entries {unknown}; known: {', '.join(sorted(known))}.")
    held_out = {str(name) for name in content.get("validation") or []}
    sources, validation = [], []
    for number, row in enumerate(content.get("sources") or []):
        try:
            name, share = str(row["name"]), float(row["share"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: source {number + 1} lacks a name or a share ({error}).") from error
        if only is not None and name not in only:
            continue
        found = _cases(path, row, work / name, progress)
        validation += [case for case in found if case.patient in held_out]
        sources.append(Source(name, share, [case for case in found if case.patient not in held_out]))
    if not sources:
        raise ModelError(f"{path}: names no sources.", "See doselabel.model.mix for an example.")
    if missing := held_out - {case.patient for case in validation}:
        raise ModelError(
            f"{path}: validation names {', '.join(sorted(missing))}, which no source has.",
            "Correct the patients' names.",
        )
    settings = Settings().replace(**(content.get("settings") or {}))
    base = Path(path).resolve().parent
    named = {name: base / file for name in ("start", "pretrained") if (file := getattr(settings, name))}
    profile = content.get("profile")
    if profile is not None and profile not in PROFILES:
        raise ModelError(f"{path}: names the profile '{profile}'; there are {', '.join(PROFILES)}.")
    attribution = tuple(content.get("attribution") or ())
    return Mix(tuple(sources), tuple(validation), settings.replace(**named), attribution, PROFILES.get(profile))


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
    return [replace(case, names=names) for case in found] if names else found


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
