"""How activity comes and goes in each tissue of a made-up patient. It knows no positions and no images.

Every tissue follows A(t) = Σ aᵢ e^(−λᵢ t) with λᵢ at or above physical decay. Organs take up and clear,
A·(e^(−λ1 t) − e^(−λ2 t)); soft tissue, blood and bowel decay by two exponentials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sample_data.tissues import Tissue

HALF_LIFE_H = 159.528
"""177Lu, ICRP-107."""

GRAY_G_PER_MBQ_H = 0.08532
"""Electron dose constant of 177Lu: turns a wanted dose into a plausible activity."""


@dataclass(frozen=True)
class Curve:
    """Activity concentration, MBq/mL, as a sum of exponentials."""

    amplitudes_mbq_ml: tuple[float, ...]
    rates_per_h: tuple[float, ...]

    def mbq_ml(self, time_h: float) -> float:
        """Concentration at a time after injection."""
        terms = zip(self.amplitudes_mbq_ml, self.rates_per_h, strict=True)
        return float(sum(a * np.exp(-k * time_h) for a, k in terms))

    def mbq_h_ml(self) -> float:
        """Concentration integrated from injection to infinity."""
        return float(sum(a / k for a, k in zip(self.amplitudes_mbq_ml, self.rates_per_h, strict=True)))

    @property
    def effective_half_life_h(self) -> float:
        """Half-life of the slowest part."""
        return float(np.log(2) / min(self.rates_per_h))

    def times(self, factor: float) -> Curve:
        """The same curve, higher or lower."""
        return Curve(tuple(factor * a for a in self.amplitudes_mbq_ml), self.rates_per_h)


@dataclass(frozen=True)
class Kinetics:
    """Concentration of every tissue, and of urine in the renal pelvis at the time it is hot."""

    of: dict[Tissue, Curve]
    hot_pelvis_mbq_ml: float

    @classmethod
    def draw(cls, rng: np.random.Generator, injected_mbq: float, hot_pelvis: bool) -> Kinetics:
        """Draw a patient: kidneys 0.38–0.56 Gy/GBq, as reported for 177Lu-DOTATATE and -DOTATOC."""
        gbq = injected_mbq / 1000
        kidney_dose, kidney_half = rng.uniform(0.38, 0.56), rng.uniform(42, 58)
        kidneys = {}
        for side in ("LEFT", "RIGHT"):
            wanted = gbq * kidney_dose * rng.uniform(0.92, 1.08)
            kidneys[side] = _uptake(wanted, kidney_half * rng.uniform(0.96, 1.04), rng.uniform(0.6, 1.2))
        liver = _uptake(gbq * rng.uniform(0.10, 0.22), rng.uniform(60, 80), rng.uniform(0.8, 1.5))
        spleen = _uptake(gbq * rng.uniform(0.45, 0.75), rng.uniform(52, 68), rng.uniform(0.6, 1.2))
        soft = _washout(gbq * 1.2e-3, rng.uniform(30, 45), gbq * 6e-3, rng.uniform(1.5, 3.0))
        of: dict[Tissue, Curve] = {t: soft for t in Tissue if t not in (Tissue.AIR, Tissue.GAS, Tissue.TABLE)}
        for tissue, factor in ((Tissue.FAT, 0.4), (Tissue.VISCERAL_FAT, 0.5), (Tissue.LUNG, 0.3)):
            of[tissue] = soft.times(factor)
        for tissue in (Tissue.AORTA, Tissue.CAVA, Tissue.HEART, Tissue.RENAL_ARTERY, Tissue.RENAL_VEIN):
            of[tissue] = soft.times(2.5)
        for tissue in (Tissue.BOWEL_WALL, Tissue.BOWEL_CONTENT):
            of[tissue] = soft.times(3.0)
        of[Tissue.SPLEEN] = spleen
        of[Tissue.LIVER], of[Tissue.LIVER_VESSEL], of[Tissue.LIVER_LESION] = liver, liver.times(0.7), liver.times(1.6)
        for side, curve in kidneys.items():
            # The cortex reabsorbs the peptide; over cortex and medulla together the mean is near `curve`.
            of[Tissue[f"{side}_CORTEX"]], of[Tissue[f"{side}_MEDULLA"]] = curve.times(1.08), curve.times(0.86)
            of[Tissue[f"{side}_CYST"]], of[Tissue[f"{side}_PELVIS"]] = curve.times(0.1), curve.times(0.35)
        hot = 6 * kidneys["LEFT"].mbq_ml(0.5) if hot_pelvis else 0.0
        return cls(of, hot)

    def table_mbq_ml(self, time_h: float) -> np.ndarray:
        """(256,) concentrations by tissue at a time."""
        return self._table({tissue: curve.mbq_ml(time_h) for tissue, curve in self.of.items()})

    def table_mbq_h_ml(self) -> np.ndarray:
        """(256,) time-integrated concentrations by tissue; urine that is hot at one time adds nothing."""
        return self._table({tissue: curve.mbq_h_ml() for tissue, curve in self.of.items()})

    @staticmethod
    def _table(values: dict[Tissue, float]) -> np.ndarray:
        table = np.zeros(256)
        for tissue, value in values.items():
            table[tissue] = value
        return table


def _physical() -> float:
    return float(np.log(2) / HALF_LIFE_H)


def _uptake(dose_gy: float, effective_half_life_h: float, uptake_half_time_h: float) -> Curve:
    """Uptake and clearance that give a tissue of 1.05 g/mL about this dose."""
    slow, fast = np.log(2) / effective_half_life_h, np.log(2) / uptake_half_time_h
    slow = max(slow, _physical())
    amplitude = dose_gy * 1.05 / GRAY_G_PER_MBQ_H / (1 / slow - 1 / fast)
    return Curve((float(amplitude), -float(amplitude)), (float(slow), float(fast)))


def _washout(slow_mbq_ml: float, slow_half_h: float, fast_mbq_ml: float, fast_half_h: float) -> Curve:
    rates = (float(np.log(2) / slow_half_h), float(np.log(2) / fast_half_h))
    return Curve((slow_mbq_ml, fast_mbq_ml), rates)
