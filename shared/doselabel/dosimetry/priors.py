"""What a patient's own earlier cycles say of the effective half-lives, for a later cycle of a single scan.

Knows results of cycles; no images. A half-life of the same patient is a far better one than a population's: between
cycles it changes by some per cent, between patients by a fifth and more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import DoseError
from doselabel.nuclides import nuclide
from doselabel.wire import DoseResults, OrganDose

BETWEEN_CYCLES_RELATIVE_SD = 0.10
"""Assumed: how an organ's effective half-life varies between the cycles of one patient."""
LEAST_POINTS = 2
SINGLE = ("hanscheid", "population")


def half_lives_h(earlier: Sequence[DoseResults]) -> dict[str, tuple[float, float]]:
    """Effective half-life (h) and its standard deviation for the next cycle, by organ.

    The cycles' half-lives are averaged by their logarithms, each with its fit's own error and the variation between
    cycles, which the next cycle has too. A cycle of a single scan says nothing new and does not count.
    """
    found: dict[str, tuple[float, float]] = {}
    for name in dict.fromkeys(n for results in earlier for n in results.organs):
        logs, weights = [], []
        for results in earlier:
            organ = results.organs.get(name)
            spread = None if organ is None else _relative_sd(organ)
            if organ is None or spread is None:
                continue
            logs.append(math.log(organ.effective_half_life_h))
            weights.append(1 / (spread**2 + BETWEEN_CYCLES_RELATIVE_SD**2))
        if not logs:
            continue
        mean = sum(w * x for w, x in zip(weights, logs, strict=True)) / sum(weights)
        half_life = min(math.exp(mean), nuclide(earlier[0].nuclide).half_life_h)
        found[name] = (half_life, half_life * math.sqrt(1 / sum(weights) + BETWEEN_CYCLES_RELATIVE_SD**2))
    return found


def with_earlier_cycles(options: DoseOptions, earlier: Sequence[DoseResults], nuclide_name: str) -> DoseOptions:
    """Options with the half-lives of earlier cycles where none is stated for the organ.

    Raises
    ------
    DoseError
        When a cycle is of another nuclide, or none of them has a half-life.
    """
    others = {r.nuclide for r in earlier} - {nuclide_name}
    if others:
        raise DoseError(
            f"The earlier cycles are of {', '.join(sorted(others))}, this study of {nuclide_name}.",
            "Effective half-lives hold for one radiopharmaceutical: give results of the same.",
        )
    found = half_lives_h(earlier)
    if not found:
        raise DoseError(
            f"No effective half-life can be taken from the earlier cycles: none has {LEAST_POINTS} scans or more, or "
            "their fits do not determine one.",
            "State population_half_life_h instead.",
        )
    half_lives = {name: value for name, (value, _) in found.items()} | options.population_half_life_h
    spreads = {n: sd for n, (_, sd) in found.items() if n not in options.population_half_life_h}
    return options.model_copy(
        update={
            "population_half_life_h": half_lives,
            "population_half_life_sd_h": spreads | options.population_half_life_sd_h,
            "half_life_source": f"{len(earlier)} earlier cycle{'s' if len(earlier) > 1 else ''} of the patient",
        }
    )


def _relative_sd(organ: OrganDose) -> float | None:
    """Relative standard deviation of a cycle's half-life; None where its scans do not tell one."""
    tac = organ.tac
    if tac.model in SINGLE or len(tac.time_h) < LEAST_POINTS:
        return None
    rates = [key for key in tac.parameters if key.endswith("_per_h")]
    if not rates or rates[0] not in tac.parameter_sd or not tac.parameters[rates[0]] > 0:
        return None  # what is not determined has no standard deviation in the results
    return tac.parameter_sd[rates[0]] / tac.parameters[rates[0]]
