"""What a half-life known before is worth: time-integrated activities of many patients, with and without it.

Run: ``python benchmarks/bench_prior.py``; some 60 CPU-seconds. Each patient has three organs whose half-lives share a
factor of his own, clear in two phases as `sample_data.clinic`'s do, and are measured with 7 % noise: by two scans
(24 and 96 h), or by one (72 h) after an earlier cycle of four scans from which half-lives changed by 10 %. *Off* is the
root mean square error of the TIA; z is error over stated ±.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from doselabel.dosimetry.curves import choice
from doselabel.dosimetry.curves.choice import OrganCurve, fit_organ
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.priors import known_of, own_half_life
from doselabel.wire import HalfLife

POPULATION_H = {"left_kidney": 50.0, "spleen": 58.0, "liver": 64.0}
RELATIVE_SD, CYCLE_SD, NOISE = 0.2, 0.1, 0.07
EARLIER_H, TWO_H, ONE_H = (4.0, 24.0, 72.0, 168.0), (24.0, 96.0), (72.0,)
PHYSICAL_H = 159.5


@dataclass(frozen=True)
class Scored:
    """Errors of the TIA, relative to the truth, and their standard uncertainties."""

    error: np.ndarray
    sd: np.ndarray

    def line(self) -> str:
        """Cells of a table."""
        z = self.error / self.sd
        off, stated = 100 * math.sqrt(float(np.mean(self.error**2))), 100 * float(np.median(self.sd))
        within = [float(np.mean(np.abs(z) < k)) for k in (1, 2)]
        root = math.sqrt(float(np.mean(z**2)))
        return f"{off:.1f} % | {stated:.1f} % | {within[0]:.0%} | {within[1]:.0%} | {root:.2f}"


def compare(times_h: Sequence[float], shared: float, patients: int, seed: int = 0) -> tuple[Scored, Scored]:
    """Patients without and with the prior; ``shared`` is the part of the variance that their organs truly share."""
    rng = np.random.default_rng(seed)
    sd_h = {name: RELATIVE_SD * h for name, h in POPULATION_H.items()}
    without = DoseOptions(population_half_life_h=POPULATION_H, population_half_life_sd_h=sd_h)
    found: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for _ in range(patients):
        factor, patient = math.sqrt(shared) * RELATIVE_SD * rng.standard_normal(), {}
        for name, half_life_h in POPULATION_H.items():
            own = math.sqrt((1 - shared) * RELATIVE_SD**2 - CYCLE_SD**2) * rng.standard_normal()
            patient[name] = half_life_h * math.exp(factor + own)
        options = without.model_copy(update={"half_life_prior": "patient"})
        if len(times_h) == 1:
            before = {n: _measured(h, EARLIER_H, rng) for n, h in patient.items()}
            own_before = {n: own_half_life(_curve(n, EARLIER_H, a, without).fit) for n, (a, _) in before.items()}
            told = {n: value for n, value in own_before.items() if value is not None}
            half_lives_h = {n: v.half_life_h for n, v in told.items()}
            spread_h = {n: math.hypot(v.sd_h, CYCLE_SD * v.half_life_h) for n, v in told.items()}
            options = options.model_copy(
                update={"earlier_half_life_h": half_lives_h, "earlier_half_life_sd_h": spread_h}
            )
        now = {name: _measured(half_life_h, times_h, rng) for name, half_life_h in patient.items()}
        alone = {name: _curve(name, times_h, activity, without) for name, (activity, _) in now.items()}
        own_now = {name: own_half_life(curve.fit) for name, curve in alone.items()}
        for name, (activity, tia) in now.items():
            others = {n: value for n, value in own_now.items() if value is not None}
            weighed = _curve(name, times_h, activity, options, others)
            for kept, curve in zip(found, (alone[name], weighed), strict=True):
                kept.append((curve.fit.tia_mbq_h / tia - 1, _relative_sd(curve) * curve.fit.tia_mbq_h / tia))
    scored = [Scored(np.array([e for e, _ in kept]), np.array([s for _, s in kept])) for kept in found]
    return scored[0], scored[1]


def _measured(half_life_h: float, times_h: Sequence[float], rng: np.random.Generator) -> tuple[list[float], float]:
    """Activities of one organ in one cycle, and the true TIA."""
    slow = min(half_life_h * math.exp(CYCLE_SD * rng.standard_normal()), 0.95 * PHYSICAL_H)
    fast, uptake, part = rng.uniform(8, 20), rng.uniform(0.3, 1.5), rng.uniform(0.0, 0.2)
    terms = ((1 - part, slow), (part, fast), (-1.0, uptake))
    t = np.asarray(times_h)
    true = sum(a * np.exp2(-t / h) for a, h in terms)
    measured = true * np.exp(NOISE * rng.standard_normal(t.size))
    return measured.tolist(), float(sum(a * h for a, h in terms) / math.log(2))


def _curve(
    name: str, times_h: Sequence[float], activity: list[float], options: DoseOptions,
    others: dict[str, HalfLife] | None = None,
) -> OrganCurve:  # fmt: skip
    prior = None if others is None else known_of(name, others, options, "Lu-177")
    return fit_organ(name, times_h, activity, "Lu-177", options, [NOISE] * len(times_h), prior)


def _relative_sd(curve: OrganCurve) -> float:
    """What the budget takes of a curve: its fit, its choice, and the times it did not see."""
    fitted = curve.fit
    by_fit = fitted.tia_sd_mbq_h / fitted.tia_mbq_h
    return math.hypot(by_fit, curve.model_relative_sd, choice.sampling_relative_sd(fitted))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=1000)
    args = parser.parse_args()
    print("| scans | organs truly share | half-life | off | stated ± | within 1 σ | within 2 σ | rms z |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for times_h, told in ((TWO_H, "own scans"), (ONE_H, "population")):
        for shared in (0.0, 0.5, 0.7):
            without, weighed = compare(times_h, shared, args.patients)
            name = " and ".join(f"{t:g}" for t in times_h) + " h"
            print(f"| {name} | {shared:.0%} | {told} | {without.line()} |")
            print(f"| {name} | {shared:.0%} | weighed | {weighed.line()} |")


if __name__ == "__main__":
    main()
