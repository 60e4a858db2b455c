"""What is said of studies that are right, what is seen of those that are not, and that saying it changes no dose.

    python benchmarks/false_alarms.py [--patients 40] [--seed 100] [--doses 4] [--real ../shared/data] [--out DIR]

- Sample patients are checked as files (`study check`); then their dose is computed from the true masks, which checks
  each SPECT's place, the masks, and time points against each other. Wanted: an alarm on at most one study in twenty.
- The same patients with all SPECTs multiplied by one factor: how many are said to be wrong.
- The doses of the first patients, by every VOI method, with the checks and without: equal to the last digit.
- Real CTs with their label maps, read as training reads them, and the real 177Lu patient at several times.

Some 30 CPU-seconds a patient, and 100 more for each of ``--doses``; with ``--out`` it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from doselabel import labels
from doselabel.alarms import Alarm
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.alignment import placement
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.uptake import consistency, time_points
from doselabel.errors import DoselabelError
from doselabel.geometry import Volume, read_image, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model.cases import case_ct, case_labels
from doselabel.model.mix import read_mix
from doselabel.nuclides import nuclide
from doselabel.plausibility import judge
from doselabel.reading import read_spect
from doselabel.spect_figures import look
from doselabel.study import Study, TimePoint
from sample_data.phantom import generate

METHODS = ("gtm", "margin", "gaussian", "threshold")
FACTORS = (1e-3, 1 / 60, 0.1, 0.37, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 37.0, 60.0, 1e3)
REAL_TIMES_H = (4.0, 24.0, 96.0, 168.0)
WANTED = 1 / 20


def said(alarms: Sequence[Alarm]) -> dict[str, list[str]]:
    """Codes by severity, each once."""
    found = {
        severity: sorted({a.code for a in alarms if a.severity == severity})
        for severity in ("alarm", "warning", "note")
    }
    return {severity: codes for severity, codes in found.items() if codes}


def patients(folder: Path, seed: int, count: int) -> Iterator[tuple[str, Study]]:
    """Sample patients and their keys, four (all variants) at a time; made when they are asked for the first time."""
    for group in range(-(-count // 4)):
        made = sorted(folder.glob(f"{group}/*/study.json"))
        made = made or [f / "study.json" for f in generate(folder / str(group), patients=4, seed=seed + group)]
        for number, manifest in enumerate(made):
            if 4 * group + number < count:
                yield f"{seed + group}-{number}", Study.load(manifest.parent)


def of_sample(study: Study) -> dict[str, Any]:
    """What is said of one sample patient, as files and by the dose, and of the same one by another scale."""
    checked = study.check()
    results = pipeline.compute(study, study.folder / "truth").results
    spects = [read_spect(study, i) for i in range(len(study.time_points))]
    scaled = {}
    for factor in FACTORS:
        seen = [
            look(Volume(v.array * np.float32(factor), v.geometry), i, "spect", study.time_points[i].time_h)
            for i, v in enumerate(spects)
        ]
        graver = {a.severity for a in judge(seen, nuclide(study.nuclide), study.injected_activity_mbq)}
        scaled[f"{factor:g}"] = "alarm" if "alarm" in graver else "warning" if "warning" in graver else ""
    return {"name": study.patient_id, "check": said(checked), "dose": said(results.alarms), "scaled": scaled}


@contextmanager
def nothing_said() -> Iterator[None]:
    """A dose calculation without any of the checks."""
    with ExitStack() as stack:

        def put(where: object, name: str, instead: Callable[..., Any]) -> None:
            stack.enter_context(mock.patch.object(where, name, instead))

        put(pipeline, "check", lambda *args: [])
        put(placement, "_judged", lambda *args: [])
        put(time_points, "compared", lambda placements, times_h: list(placements))
        put(time_points, "time_point_off", lambda *args: [])
        put(consistency, "masks_differ", lambda *args: [])
        put(labels, "findings", lambda *args: [])
        yield


def doses(study: Study, cache: Path) -> dict[str, Any]:
    """Whether every number of every organ, and every voxel of the dose map, is the same with the checks and without."""
    same = {}
    for method in METHODS:
        options = DoseOptions(voi=method)
        with_checks = pipeline.compute(study, study.folder / "truth", options, cache=cache / "with")
        with nothing_said():
            without = pipeline.compute(study, study.folder / "truth", options, cache=cache / "without")
        same[method] = with_checks.results.organs == without.results.organs and np.array_equal(
            with_checks.dose.array, without.dose.array
        )
    return {"name": study.patient_id, "same": same}


def of_real(data: Path, scratch: Path) -> Iterator[dict[str, Any]]:
    """What is said of real CTs and their label maps, and of a real 177Lu patient."""
    recipe = Path(read_mix.__code__.co_filename).parent / "recipes" / "starter.yaml"
    mix = read_mix(recipe, scratch, data, only=["real"])
    for case in [*mix.validation, *mix.sources[0].cases]:
        ct = case_ct(case)
        yield {"name": case.patient, "labels": said(case_labels(case, ct).findings)}
    yield from of_lutetium(data / "lu177_patient_voxel_phantom", scratch)


def of_lutetium(data: Path, scratch: Path) -> Iterator[dict[str, Any]]:
    """The patient's one SPECT as if it had been taken at several times, and its place on the expert's masks."""
    names = {1: "liver", 2: "right_kidney", 3: "left_kidney", 4: "spleen", 5: "tumour_1", 6: "tumour_2", 7: "tumour_3"}
    ct, spect = read_image(data / "ct_hu.nii.gz"), read_image(data / "activity_bq_per_ml.nii.gz")
    drawn = read_image(data / "labels.nii.gz").array.astype(np.uint8)
    for time_h in REAL_TIMES_H:
        folder = scratch / f"lu177-{time_h:g}h"
        write_image(folder / "ct.nii.gz", ct)
        write_image(folder / "spect.nii.gz", spect)
        write_labels(folder / "expert" / "ct.nii.gz", LabelMap(drawn, ct.geometry, names))
        point = TimePoint(time_h=time_h, ct="ct.nii.gz", spect="spect.nii.gz")
        study = Study(
            patient_id="real-lu177", nuclide="Lu-177", injected_activity_mbq=7400, ct="ct.nii.gz", time_points=[point]
        )
        study.save(folder)
        study = Study.load(folder)
        options = DoseOptions(
            voi="margin", margin_mm=0.0, tac="hanscheid", population_half_life_h=30.0,
            organs=("left_kidney", "right_kidney", "liver", "spleen"),
        )  # fmt: skip
        try:
            found = pipeline.compute(study, folder / "expert", options).results.alarms
        except DoselabelError as error:
            found = []
            print(f"{folder.name}: no dose: {error}")
        yield {"name": folder.name, "check": said(study.check()), "dose": said(found)}


def kept(file: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row that was made before, or is made now."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    row = next((row for row in rows if row["key"] == name), None)
    if row is None:
        row = {"key": name} | make()
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
    return row


def words(found: dict[str, list[str]]) -> str:
    return "; ".join(f"{severity}: {', '.join(codes)}" for severity, codes in found.items()) or "–"


def show(title: str, rows: Sequence[dict[str, Any]], column: str) -> bool:
    """One line a study that anything is said of, and how many have an alarm."""
    alarmed = [row for row in rows if "alarm" in row[column]]
    wanted = len(alarmed) <= WANTED * len(rows) + 1e-9
    print(f"\n{title}: {len(alarmed)} of {len(rows)} with an alarm" + ("" if wanted else "  TOO MANY"))
    counts = Counter(f"{severity} {code}" for row in rows for severity, codes in row[column].items() for code in codes)
    for what, count in counts.most_common():
        print(f"  {what:<44}{count:>4}")
    for row in alarmed:
        print(f"  {row['name']}: {words(row[column])}")
    return wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--doses", type=int, default=4, help="patients whose doses are compared: four are all variants")
    parser.add_argument("--real", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        rows, same, real = [], [], []
        for key, study in patients(out / "patients", options.seed, options.patients):
            rows.append(kept(out / "samples.jsonl", key, lambda study=study: of_sample(study)))
            print(f"{rows[-1]['name']}: {words(rows[-1]['check'])} | {words(rows[-1]['dose'])}", flush=True)
        for key, study in patients(out / "patients", options.seed, options.doses):
            same.append(kept(out / "doses.jsonl", key, lambda study=study, key=key: doses(study, Path(scratch) / key)))
            print(f"{same[-1]['name']}: {same[-1]['same']}", flush=True)
        if (options.real / "real_ct").is_dir():
            real = list(of_real(options.real, Path(scratch)))
        else:
            print(f"{options.real} is absent: no real images were looked at")
    good = show("sample patients, study check", rows, "check") if rows else True
    good &= show("sample patients, dose", rows, "dose") if rows else True
    for title, column in (("real CTs, label maps", "labels"), ("real 177Lu patient, study check", "check"),
                          ("real 177Lu patient, dose", "dose")):  # fmt: skip
        if chosen := [row for row in real if column in row]:
            good &= show(title, chosen, column)
    if rows:
        print("\nall SPECTs of a sample patient times a factor: share of studies with an alarm, with a warning only")
        for factor in rows[0]["scaled"]:
            told = Counter(row["scaled"][factor] for row in rows)
            print(f"  ×{factor:<10}{told['alarm'] / len(rows):>6.0%}{told['warning'] / len(rows):>6.0%}")
    if same:
        print("\ndoses equal to the last digit with the checks and without")
        for row in same:
            print(f"  {row['name']:<16}" + "  ".join(f"{m} {'yes' if ok else 'NO'}" for m, ok in row["same"].items()))
            good &= all(row["same"].values())
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
