"""What a curve may do where nobody measured: errors of the TIA of curves without noise, and what is stated for them.

    python benchmarks/bench_sampling.py [--curves 600] [--seed 4711]

Curves are those of `sample_data.clinic` (uptake, a fast and a slow phase, half-lives as patients differ), scanned as
its clinics do. No image and no noise: what is off is the model alone. ``stated`` is the part ``time_sampling`` of the
uncertainty (`doselabel.dosimetry.curves.choice`), which must not be less.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

from doselabel.dosimetry.curves.choice import fit_organ, sampling_relative_sd
from doselabel.dosimetry.options import DoseOptions
from sample_data import clinic

Row = tuple[float, float, float, float]


def errors(curves: int, seed: int) -> dict[tuple[float, int, str], list[Row]]:
    """By first scan (h), scans and model: error of the TIA, its stated SD, parts before and after the scans."""
    rng = np.random.default_rng(seed)
    spread = {name: clinic.POPULATION_RELATIVE_SD * half_life for name, half_life in clinic.POPULATION_H.items()}
    options = DoseOptions(population_half_life_h=clinic.POPULATION_H, population_half_life_sd_h=spread)
    found: dict[tuple[float, int, str], list[Row]] = defaultdict(list)
    for number in range(curves * len(clinic.POPULATION_H)):
        name = list(clinic.POPULATION_H)[number % len(clinic.POPULATION_H)]
        curve = clinic.curve_of(name, rng)
        for schedule in clinic.SCHEDULES_H:
            for points in (4, 3, 2):
                times_h = [schedule[i] for i in clinic.subset(schedule, points)]
                fit = fit_organ(name, times_h, [curve.mbq_ml(t) for t in times_h], "Lu-177", options).fit
                used = fit.times_h[fit.used]
                before = 1 - fit.curve.integral_mbq_h(float(used[0])) / fit.tia_mbq_h
                after = fit.curve.integral_mbq_h(float(used[-1])) / fit.tia_mbq_h
                row = (fit.tia_mbq_h / curve.mbq_h_ml() - 1, sampling_relative_sd(fit), before, after)
                found[times_h[0], points, fit.model].append(row)
    return dict(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--curves", type=int, default=600, help="of each organ")
    parser.add_argument("--seed", type=int, default=4711)
    args = parser.parse_args()
    print("first scan, scans, model     curves   mean error, its rms   stated   before the scans, after them")
    for (first_h, points, model), rows in sorted(errors(args.curves, args.seed).items()):
        off, stated, before, after = np.array(rows).T
        print(
            f"{first_h:6.1f} h {points:6}   {model:9}{len(rows):10}{100 * off.mean():+11.1f} %{_rms(off):9.1f} %"
            f"{_rms(stated):9.1f} %{100 * np.median(before):13.0f} %{100 * np.median(after):10.0f} %"
        )


def _rms(values: np.ndarray) -> float:
    return 100 * float(np.sqrt(np.mean(values**2)))


if __name__ == "__main__":
    main()
