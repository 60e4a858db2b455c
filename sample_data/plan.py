"""The numbers that make one made-up patient: sizes, places and variants, drawn at random. It draws nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sample_data.shapes import Waves

Point = tuple[float, float, float]

VARIANTS = ("touching_spleen", "one_kidney", "misaligned", "hot_pelvis")
"""What is particular about patients 1, 2, 3, 4, and again from 5 on."""


@dataclass(frozen=True)
class Kidney:
    """A bean: ``rotation`` rows are its length (up), lateral (away from the hilum) and backward axes, LPS."""

    side: str
    centre: Point
    radii: Point
    rotation: np.ndarray
    bend: float
    cortex_mm: float
    phase: float
    cyst: tuple[float, float, float, float] | None

    def to_patient(self, local: tuple[float, ...]) -> Point:
        """LPS point of kidney coordinates (length, lateral, backward)."""
        x, y, z = np.asarray(self.centre) + np.asarray(local) @ self.rotation
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class Spleen:
    """An ellipsoid before it is hollowed; ``gap_mm`` is what it keeps from the left kidney."""

    centre: Point
    radii: Point
    gap_mm: float


@dataclass(frozen=True)
class Stomach:
    """Fundus and body; gas lies in front of ``air_level_mm`` (y), as the patient lies on the back."""

    centre: Point
    radii: Point
    air_level_mm: float


@dataclass(frozen=True)
class Tube:
    """A piece of colon."""

    start: Point
    end: Point
    radius_mm: float
    gas: float


@dataclass(frozen=True)
class Gut:
    """Small bowel: loops of one period, shifted by ``phase``."""

    period_mm: float
    phase: Point
    air_level_mm: float


@dataclass(frozen=True)
class Plan:
    """One patient's body plan, mm."""

    variant: str
    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    wall_mm: float
    spine_y_mm: float
    vertebra_mm: float
    vertebra_offset_mm: float
    rib_offset_mm: float
    aorta_mm: float
    dome_left_mm: float
    dome_right_mm: float
    liver_scale: float
    liver_length_mm: float
    ripple: float
    liver_vessels: list[tuple[Point, Point, float, float]]
    liver_lesions: list[tuple[Point, float]]
    gallbladder: Point | None
    spleen: Spleen
    stomach: Stomach
    gut: Gut
    colon: list[Tube]
    kidneys: list[Kidney]
    warp: tuple[Waves, Waves, Waves] = field(repr=False)

    @classmethod
    def draw(cls, rng: np.random.Generator, variant: str) -> Plan:
        """Draw a patient of one of the `VARIANTS`."""
        fat = float(rng.uniform(8, 24))
        half_width, half_depth = 128 + 1.5 * fat + rng.uniform(0, 8), 92 + 0.9 * fat + rng.uniform(0, 6)
        spine_y = half_depth - 62 - 0.8 * fat
        size = float(rng.uniform(0.92, 1.06))
        touching = variant == "touching_spleen"
        kidneys = [_kidney(rng, side, spine_y, size) for side in ("left", "right")]
        if variant == "one_kidney":
            kidneys = kidneys[:1] if rng.uniform() < 0.5 else kidneys[1:]
        spleen_at = np.array((100.0, spine_y - 6, 66)) + rng.uniform(-4, 4, 3)
        spleen_radii = np.array((40.0, 52, 50)) * rng.uniform(0.92, 1.08, 3)
        if touching:
            spleen_at = np.array((94.0, spine_y + 2, 56))
        stomach_at = np.array((52.0, spine_y - 72, 78)) + rng.uniform(-6, 6, 3)
        return cls(
            variant=variant,
            half_width_mm=float(half_width),
            half_depth_mm=float(half_depth),
            fat_mm=fat,
            wall_mm=float(rng.uniform(10, 13)),
            spine_y_mm=float(spine_y),
            vertebra_mm=float(rng.uniform(34, 38)),
            vertebra_offset_mm=float(rng.uniform(0, 36)),
            rib_offset_mm=float(rng.uniform(0, 31)),
            aorta_mm=float(rng.uniform(9, 11.5)),
            dome_left_mm=float(rng.uniform(118, 130)),
            dome_right_mm=float(rng.uniform(130, 142)),
            liver_scale=float(rng.uniform(0.94, 1.06)),
            liver_length_mm=float(rng.uniform(86, 108)),
            ripple=float(rng.uniform(-2, 2)),
            liver_vessels=_vessels(rng, spine_y),
            liver_lesions=[
                (
                    (float(rng.uniform(-115, -60)), float(spine_y + rng.uniform(-70, -20)), float(rng.uniform(30, 90))),
                    float(rng.uniform(7, 14)),
                )
            ]
            if variant == "misaligned" or rng.uniform() < 0.2
            else [],
            gallbladder=(-48.0, float(spine_y - 82), 4.0) if rng.uniform() < 0.85 else None,
            spleen=Spleen(_point(spleen_at), _point(spleen_radii), 0.0 if touching else float(rng.uniform(5, 9))),
            stomach=Stomach(
                _point(stomach_at),
                _point(np.array((40.0, 36, 46)) * rng.uniform(0.85, 1.12, 3)),
                float(stomach_at[1] - rng.uniform(0, 25)),
            ),
            gut=Gut(
                float(rng.uniform(46, 56)), _point(rng.uniform(0, 6.28, 3)), float(spine_y - rng.uniform(105, 130))
            ),
            colon=_colon(rng, spine_y, half_width - fat),
            kidneys=kidneys,
            warp=tuple(Waves.random(rng, sd, (90, 220)) for sd in (2.6, 2.6, 3.2)),  # type: ignore[arg-type]
        )


def _point(values: np.ndarray) -> Point:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _kidney(rng: np.random.Generator, side: str, spine_y: float, size: float) -> Kidney:
    s = 1 if side == "left" else -1
    up, lateral, back = np.eye(3)[2], np.array((s, 0.0, 0.0)), np.eye(3)[1]
    # Upper poles lie further in and further back, along the psoas; the hilum looks inwards and forwards.
    tilt, lean, turn = np.radians(rng.uniform((8, 6, 15), (20, 16, 38)))
    length = np.cos(lean) * (np.cos(tilt) * up - np.sin(tilt) * lateral) + np.sin(lean) * back
    outward = lateral - (lateral @ length) * length
    outward /= np.linalg.norm(outward)
    rear = back - (back @ length) * length - (back @ outward) * outward
    rear /= np.linalg.norm(rear)
    v, w = np.cos(turn) * outward + np.sin(turn) * rear, np.cos(turn) * rear - np.sin(turn) * outward
    radii = size * np.array((57.0, 31.0, 27.0)) * rng.uniform(0.95, 1.06, 3)
    centre = (
        s * (74 + rng.uniform(-3, 5)),
        spine_y + rng.uniform(0, 7),
        (14 if side == "left" else -9) + rng.uniform(-7, 7),
    )
    cyst = None
    if rng.uniform() < 0.25:
        cyst = (float(rng.uniform(-0.5, 0.5) * radii[0]), float(0.92 * radii[1]), 0.0, float(rng.uniform(5, 9)))
    return Kidney(
        side,
        _point(np.asarray(centre)),
        _point(radii),
        np.stack([length, v, w]),
        float(rng.uniform(0.0020, 0.0040)),
        float(rng.uniform(6, 8)),
        float(rng.uniform(0, 6.28)),
        cyst,
    )


def _vessels(rng: np.random.Generator, spine_y: float) -> list[tuple[Point, Point, float, float]]:
    """Portal and hepatic veins: two roots that branch twice."""
    vessels: list[tuple[Point, Point, float, float]] = []
    for root, tips in (
        (
            (-34.0, spine_y - 48, 40.0),
            ((-95.0, spine_y - 40, 40.0), (-85.0, spine_y - 85, 60.0), (-20.0, spine_y - 90, 78.0)),
        ),
        (
            (-24.0, spine_y - 44, 104.0),
            ((-105.0, spine_y - 35, 78.0), (-70.0, spine_y - 75, 82.0), (-5.0, spine_y - 85, 95.0)),
        ),
    ):
        for tip in tips:
            end = np.asarray(tip) + rng.normal(0, 6, 3)
            vessels.append((root, _point(end), 5.5, 3.2))
            for _ in range(2):
                vessels.append((_point(end), _point(end + (end - root) * 0.35 + rng.normal(0, 14, 3)), 3.0, 1.6))
    return vessels


def _colon(rng: np.random.Generator, spine_y: float, half_width: float) -> list[Tube]:
    right, left = -(half_width - 48), half_width - 38
    front = spine_y - 112
    gas = rng.uniform(-0.9, 0.6, 6)
    r = rng.uniform(15, 21, 6)
    j = rng.uniform(-6, 6, (6, 3))
    corners = [
        (right + 8, spine_y - 48, -165.0),
        (right, spine_y - 40, -52.0),
        (-50.0, front, -34.0),
        (35.0, front + 2, -28.0),
        (left - 8, spine_y - 50, 30.0),
        (left, spine_y - 14, -20.0),
        (left - 4, spine_y - 24, -165.0),
    ]
    at = [_point(np.asarray(c) + (j[i] if i < 6 else 0)) for i, c in enumerate(corners)]
    return [Tube(a, b, float(q), float(g)) for a, b, q, g in zip(at[:-1], at[1:], r, gas, strict=True)]
