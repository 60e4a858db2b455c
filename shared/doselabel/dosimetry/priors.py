"""What is known of an organ's effective half-life before its own scans: population, other organs, earlier cycles.

Knows half-lives and results of cycles; no images, no curves. A half-life of the same patient is a far better one than a
population's: between cycles it changes by some per cent, between patients by a fifth and more.

Half-lives are log-normal (Hou et al., J Nucl Med 62:1006, 2021), and their logarithms a mixed-effects model (as Devasia
et al., J Nucl Med 62:1118, 2021, use for kidneys): population mean of the organ + the patient's own factor, shared by
the organs + the organ's own part + what a cycle changes. Everything is Gaussian, so what is known of one organ, given
all the rest, is a closed form (`known_of`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from doselabel.dosimetry.curves.choice import stated_half_life_h
from doselabel.dosimetry.curves.fit import TacFit
from doselabel.dosimetry.options import ANY, DoseOptions, of_organ
from doselabel.errors import DoseError
from doselabel.labels import title
from doselabel.nuclides import nuclide
from doselabel.wire import DoseResults, HalfLife, HalfLifePrior, OrganDose

BETWEEN_CYCLES_RELATIVE_SD = 0.10
"""Assumed: how an organ's effective half-life varies between the cycles of one patient."""
UNKNOWN_RELATIVE_SD = 10.0
"""Of the logarithm, where no population is stated: nothing is known."""
LEAST_KNOWN_RELATIVE_SD = 1.0
"""What is known to less than this says nothing."""
LEAST_POINTS = 2
SINGLE = ("hanscheid", "population")


@dataclass(frozen=True)
class _Seen:
    """A half-life that was found: whose, in this cycle or as earlier ones have it, its logarithm and its error."""

    organ: str
    earlier: bool
    value: HalfLife

    @property
    def log(self) -> float:
        return math.log(self.value.half_life_h)

    @property
    def variance(self) -> float:
        return (self.value.sd_h / self.value.half_life_h) ** 2


def known_of(name: str, own: Mapping[str, HalfLife], options: DoseOptions, nuclide_name: str) -> HalfLifePrior | None:
    """What is known of an organ's half-life in this cycle before its own scans; None when nothing is.

    Parameters
    ----------
    name : str
    own : Mapping[str, HalfLife]
        What each organ's own scans of this cycle say; that of ``name`` is left out.
    options : DoseOptions
        Population, earlier cycles, and how much of the spread a patient's organs share.
    nuclide_name : str
        No effective half-life exceeds its physical one.
    """
    physical_h = nuclide(nuclide_name).half_life_h
    seen = [_Seen(organ, False, value) for organ, value in own.items() if organ != name]
    seen += [_Seen(organ, True, value) for organ, value in earlier_half_lives(options, (name, *own)).items()]
    target = _Seen(name, False, HalfLife(half_life_h=1.0, sd_h=0.0))
    effects = {s.organ: _Effects.of(s.organ, options, physical_h) for s in (target, *seen)}
    between = np.array([[_covariance(a, b, effects) for b in seen] for a in seen]).reshape(len(seen), len(seen))
    to_target = np.array([_covariance(target, s, effects) for s in seen])
    weights = np.linalg.solve(between + np.diag([s.variance for s in seen]), to_target) if seen else to_target
    off = np.array([s.log - effects[s.organ].mean for s in seen])
    log = effects[name].mean + float(weights @ off)
    relative_sd = math.sqrt(_covariance(target, target, effects) - float(weights @ to_target))
    if relative_sd > LEAST_KNOWN_RELATIVE_SD:
        return None
    stated_h, stated_sd_h = stated_half_life_h(name, options)
    sources = {} if stated_h is None else {"population": HalfLife(half_life_h=stated_h, sd_h=stated_sd_h)}
    for one, weight in zip(seen, weights, strict=True):
        if abs(weight) > 1e-9:
            word = "earlier cycles" if one.earlier else "this cycle"
            sources[word if one.organ == name else f"{title(one.organ).lower()}, {word}"] = one.value
    half_life_h = min(math.exp(log), physical_h)
    return HalfLifePrior(half_life_h=half_life_h, sd_h=half_life_h * relative_sd, sources=sources)


def earlier_half_lives(options: DoseOptions, names: Sequence[str]) -> dict[str, HalfLife]:
    """Half-lives by the patient's earlier cycles, as the options state them: of these organs, and of others named."""
    stems = {re.sub(r"_\d+$", "", name) for name in names}
    others = [name for name in options.earlier_half_life_h if name != ANY and name not in stems]
    found = {}
    for name in dict.fromkeys((*names, *others)):
        half_life_h = of_organ(options.earlier_half_life_h, name)
        sd_h = of_organ(options.earlier_half_life_sd_h, name)
        if half_life_h is not None:
            sd_h = BETWEEN_CYCLES_RELATIVE_SD * half_life_h if sd_h is None else sd_h
            found[name] = HalfLife(half_life_h=half_life_h, sd_h=sd_h)
    return found


def own_half_life(fitted: TacFit) -> HalfLife | None:
    """What an organ's own scans say of its effective half-life; None where they do not tell one."""
    rates = [cv for name, cv in fitted.cv.items() if name.endswith("_per_h")]
    if fitted.model in SINGLE or int(fitted.used.sum()) < LEAST_POINTS or not rates or not math.isfinite(rates[0]):
        return None
    half_life_h = fitted.effective_half_life_h
    return HalfLife(half_life_h=half_life_h, sd_h=rates[0] * half_life_h)


@dataclass(frozen=True)
class _Effects:
    """Of the logarithm of an organ's half-life: its mean, and the standard deviations of its three random parts."""

    mean: float
    shared: float
    own: float
    cycle: float

    @classmethod
    def of(cls, name: str, options: DoseOptions, physical_h: float) -> _Effects:
        half_life_h, sd_h = stated_half_life_h(name, options)
        if half_life_h is None:
            return cls(math.log(physical_h), 0.0, UNKNOWN_RELATIVE_SD, BETWEEN_CYCLES_RELATIVE_SD)
        # A population's spread holds all three; what changes between cycles is part of the organ's own.
        total = (sd_h / half_life_h) ** 2
        own = (1 - options.half_life_shared) * total
        cycle = min(BETWEEN_CYCLES_RELATIVE_SD**2, own)
        shared = math.sqrt(options.half_life_shared * total)
        return cls(math.log(half_life_h), shared, math.sqrt(own - cycle), math.sqrt(cycle))


def _covariance(a: _Seen, b: _Seen, effects: Mapping[str, _Effects]) -> float:
    """Of two half-lives' logarithms, before the errors with which they were found."""
    one, other = effects[a.organ], effects[b.organ]
    covariance = one.shared * other.shared
    if a.organ == b.organ:
        covariance += one.own**2
        if not (a.earlier or b.earlier):
            covariance += one.cycle**2
    return covariance


# ---- from the results of earlier cycles


def half_lives_h(earlier: Sequence[DoseResults]) -> dict[str, HalfLife]:
    """The patient's effective half-life by earlier cycles, by organ.

    The cycles' half-lives are averaged by their logarithms, each with its fit's own error and the variation between
    cycles (which the next cycle has too). A cycle of a single scan says nothing new and does not count.
    """
    found: dict[str, HalfLife] = {}
    for name in dict.fromkeys(n for results in earlier for n in results.organs):
        logs, weights = [], []
        for results in earlier:
            organ = results.organs.get(name)
            own = None if organ is None else _by_own_scans(organ)
            if own is None:
                continue
            logs.append(math.log(own.half_life_h))
            weights.append(1 / ((own.sd_h / own.half_life_h) ** 2 + BETWEEN_CYCLES_RELATIVE_SD**2))
        if not logs:
            continue
        mean = sum(w * x for w, x in zip(weights, logs, strict=True)) / sum(weights)
        half_life_h = min(math.exp(mean), nuclide(earlier[0].nuclide).half_life_h)
        found[name] = HalfLife(half_life_h=half_life_h, sd_h=half_life_h / math.sqrt(sum(weights)))
    return found


def with_earlier_cycles(options: DoseOptions, earlier: Sequence[DoseResults], nuclide_name: str) -> DoseOptions:
    """Options that know the half-lives of earlier cycles, where none is stated for the organ, and use them.

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
    return options.model_copy(
        update={
            "half_life_prior": "patient",
            "earlier_half_life_h": {n: v.half_life_h for n, v in found.items()} | options.earlier_half_life_h,
            "earlier_half_life_sd_h": {n: v.sd_h for n, v in found.items() if n not in options.earlier_half_life_h}
            | options.earlier_half_life_sd_h,
            "half_life_source": f"{len(earlier)} earlier cycle{'s' if len(earlier) > 1 else ''} of the patient",
        }
    )


def _by_own_scans(organ: OrganDose) -> HalfLife | None:
    """A cycle's half-life by its own scans alone; None where they do not tell one."""
    tac = organ.tac
    if tac.half_life_prior is not None:
        return tac.half_life_prior.own
    rates = [key for key in tac.parameters if key.endswith("_per_h")]
    if tac.model in SINGLE or len(tac.time_h) < LEAST_POINTS or not rates or rates[0] not in tac.parameter_sd:
        return None  # what is not determined has no standard deviation in the results
    if not tac.parameters[rates[0]] > 0:
        return None
    relative_sd = tac.parameter_sd[rates[0]] / tac.parameters[rates[0]]
    return HalfLife(half_life_h=organ.effective_half_life_h, sd_h=relative_sd * organ.effective_half_life_h)
