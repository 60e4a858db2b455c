"""One made-up abdomen as a function of patient space: which tissue is where. It knows no images and no activity.

Coordinates are LPS in mm: x to the patient's left, y to posterior, z to superior; the origin lies in the middle
of the body at the level of the second lumbar vertebra. Every image of a patient samples the same functions, so
a coarse grid and a fine one show the same person. Bones, muscles, skin and great vessels stay where they are;
everything inside the abdominal cavity moves with the diaphragm (``breathing_mm``, cranio-caudal), rigidly, so no
organ gains or loses volume by breathing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from sample_data.canvas import Canvas
from sample_data.plan import Kidney, Plan
from sample_data.shapes import Axes, Points, both, capsule, either, ellipse, ellipsoid
from sample_data.tissues import Tissue

SLAB_VOXELS = 1_500_000
"""Grids are rendered a few slices at a time, so that 512×512 CTs need no more memory than small ones."""


@dataclass(frozen=True)
class Anatomy:
    """A patient's body.

    Attributes
    ----------
    plan : Plan
        Sizes, positions and variants of the organs.
    """

    plan: Plan

    def render(self, axes: Axes, hu: np.ndarray, breathing_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Sample the body on a grid.

        Parameters
        ----------
        axes : Axes
            Voxel centres.
        hu : (256,) array
            Hounsfield units of each tissue.
        breathing_mm : float
            How far the abdominal organs have moved up.

        Returns
        -------
        tissue : (z, y, x) uint8 array
            `Tissue` at each voxel's centre.
        image : (z, y, x) float32 array
            Hounsfield units, edges softened over one voxel.
        """
        nz, ny, nx = axes.shape
        step = max(1, SLAB_VOXELS // (ny * nx))
        parts = []
        for first in range(0, nz, step):
            canvas = Canvas(axes.slab(slice(first, first + step)), self.plan.warp, breathing_mm, hu)
            self._paint_frame(canvas)
            canvas.move()
            self._paint_bowels(canvas)
            self._paint_solid_organs(canvas)
            for kidney in self.plan.kidneys:
                self._paint_kidney(canvas, kidney)
            parts.append((canvas.tissue, canvas.image))
        return np.concatenate([t for t, _ in parts]), np.concatenate([i for _, i in parts])

    # ---- what stays: outline, muscles, bones, great vessels

    def _outline(self, p: Points) -> np.ndarray:
        return p.once("outline", self._skin)

    def _skin(self, p: Points) -> np.ndarray:
        plan = self.plan
        half_width = plan.half_width_mm * (1 - 0.05 * np.exp(-(((p.z + 45) / 60) ** 2)))
        back = p.y > 0
        out = np.empty(p.x.shape, np.float32)
        for half, power in ((back, 2.8), (~back, 2.3)):
            out[half] = ellipse(p.x[half], p.y[half], half_width[half], plan.half_depth_mm, power)
        return out - 6 * np.exp(-((p.x / 13) ** 2)) * back

    def _cavity(self, p: Points) -> np.ndarray:
        plan = self.plan
        return self._outline(p) - plan.fat_mm * (1 + 0.25 * np.clip(p.y / 80, -1, 1)) - plan.wall_mm

    def _paint_frame(self, c: Canvas) -> None:
        plan, yv = self.plan, self.plan.spine_y_mm
        bottom = plan.half_depth_mm + 4
        c.paint(
            lambda p: both(8 - np.abs(p.y - (bottom + 8 - (p.x / 210) ** 2 * 40)), 195 - np.abs(p.x)),
            Tissue.TABLE,
            box=((-200, bottom - 45, -1e4), (200, bottom + 30, 1e4)),
        )

        def layers(p: Points) -> tuple[np.ndarray, ...]:
            out = self._outline(p)
            wall = out - plan.fat_mm * (1 + 0.25 * np.clip(p.y / 80, -1, 1))
            return out, out - 2, wall, wall - plan.wall_mm

        c.paint(layers, Tissue.SKIN, Tissue.FAT, Tissue.MUSCLE, Tissue.VISCERAL_FAT)
        for side in (1, -1):
            self._paint_muscles(c, side)
        c.paint(self._ribs, Tissue.CORTICAL_BONE, Tissue.SPONGIOSA)
        c.paint(
            self._spine,
            Tissue.CORTICAL_BONE,
            Tissue.SPONGIOSA,
            Tissue.DISC,
            Tissue.CORD,
            box=((-50, yv - 30, -1e4), (50, yv + 80, 1e4)),
        )
        c.paint(lambda p: self._aorta(p), Tissue.AORTA, box=((-15, yv - 55, -1e4), (40, yv, 1e4)))
        c.paint(lambda p: self._cava(p), Tissue.CAVA, box=((-50, yv - 60, -1e4), (5, yv, 1e4)))

    def _paint_muscles(self, c: Canvas, side: int) -> None:
        yv = self.plan.spine_y_mm
        c.paint(
            lambda p: ellipse(p.x - side * 37, p.y - yv - 46, 30, 22, 2.4) + 2 * np.sin(p.x / 4),
            Tissue.MUSCLE,
            box=((side * 37 - 40, yv + 15, -1e4), (side * 37 + 40, yv + 80, 1e4)),
        )
        c.paint(
            lambda p: both(ellipse(p.x - side * 72, p.y - yv - 33, 22, 9), 25 - p.z),
            Tissue.MUSCLE,
            box=((side * 72 - 30, yv + 10, -1e4), (side * 72 + 30, yv + 55, 40)),
        )

        def psoas(p: Points) -> np.ndarray:
            down = np.clip((70 - p.z) / 150, 0, 1)
            return both(
                ellipse(p.x - side * (30 + 14 * down), p.y - yv - 5 + 4 * down, 6 + 17 * down, 8 + 16 * down), 60 - p.z
            )

        c.paint(psoas, Tissue.MUSCLE, box=((side * 42 - 40, yv - 40, -1e4), (side * 42 + 40, yv + 45, 70)))
        c.paint(
            lambda p: capsule(p, (side * 14, yv - 22, 140), (side * 16, yv - 12, 15), 6, 3),
            Tissue.MUSCLE,
            box=((-40, yv - 50, 0), (40, yv + 10, 150)),
        )

    def _aorta(self, p: Points) -> np.ndarray:
        plan = self.plan
        return ellipse(p.x - 9 - 0.03 * p.z, p.y - plan.spine_y_mm + 29, plan.aorta_mm, plan.aorta_mm)

    def _cava(self, p: Points) -> np.ndarray:
        forward = 14 * np.clip((p.z - 20) / 90, 0, 1)
        return ellipse(p.x + 22, p.y - self.plan.spine_y_mm + 29 + forward, 13, 9.5)

    def _vertebra_phase(self, p: Points) -> np.ndarray:
        pitch = self.plan.vertebra_mm
        return np.mod(p.z - self.plan.vertebra_offset_mm, pitch) - pitch / 2

    def _spine(self, p: Points) -> tuple[np.ndarray, ...]:
        y, half = p.y - self.plan.spine_y_mm, self.plan.vertebra_mm / 2
        phase = self._vertebra_phase(p)
        body2d = ellipse(p.x, y, 23 - 2 * np.cos(phase * np.pi / half), 16.5, 2.3)
        body = both(body2d, half - 4 - np.abs(phase))
        canal = ellipse(p.x, y - 25, 11, 8.5)
        arch = both(canal + 6, 13 - np.abs(phase), 4)
        transverse = both(6 - np.hypot(y - 24, phase - 2), 42 - np.abs(p.x), 3)
        spinous = both(both(4 - np.abs(p.x), 9 - np.abs(phase + (y - 33) * 0.25), 3), both(y - 28, 64 - y), 3)
        bone = either(either(body, arch, 3), either(transverse, spinous, 3), 4)
        disc = both(body2d - 0.5, np.abs(phase) - half + 4)
        return bone, np.where(body > 0, body - 2.0, bone - 2.5), both(disc, 0.5 - canal), canal

    def _ribs(self, p: Points) -> tuple[np.ndarray, np.ndarray]:
        depth = self._cavity(p) + 0.5 * self.plan.wall_mm
        along = np.mod(p.z - 0.5 * p.y - self.plan.rib_offset_mm, 31) - 15.5
        rib = 4.8 * (1 - np.sqrt((along / 7) ** 2 + (depth / 4.8) ** 2))
        margin = 8 + 0.85 * np.maximum(0, 35 - p.y)
        rib = both(both(rib, p.z - margin, 4), np.abs(p.x) - 42 * (p.y > 0), 4)
        cartilage = np.where(p.y < -0.62 * self.plan.half_depth_mm, -9.0, -1.6)
        return rib, rib + cartilage

    # ---- what moves: lungs, stomach, bowels

    def _dome(self, p: Points) -> np.ndarray:
        zl, zr = self.plan.dome_left_mm, self.plan.dome_right_mm
        left = zl - ((p.x - 70) / 70) ** 2 * 36 - ((p.y + 12) / 85) ** 2 * 44
        right = zr - ((p.x + 70) / 74) ** 2 * 36 - ((p.y + 14) / 88) ** 2 * 44
        return either(left, right, 20)

    def _middle(self, p: Points) -> np.ndarray:
        return ellipse(p.x - 2, p.y - self.plan.spine_y_mm + 4, 34, 44)

    def _paint_bowels(self, c: Canvas) -> None:
        plan, yv = self.plan, self.plan.spine_y_mm
        c.paint(
            lambda p: both(both(p.z - self._dome(p), self._cavity(p) - 1.5), -self._middle(p), 4),
            Tissue.LUNG,
            box=((-1e4, -1e4, 0), (1e4, 1e4, 1e4)),
        )
        c.paint(
            lambda p: both(ellipsoid(p, (22, yv - 92, plan.dome_left_mm + 42), (62, 46, 50)), self._cavity(p) - 3),
            Tissue.HEART,
            box=((-50, -1e4, 80), (100, 1e4, 1e4)),
        )
        under = lambda p: both(self._dome(p) - 4 - p.z, self._cavity(p) - 2)  # noqa: E731
        gut = plan.gut

        def small_bowel(p: Points) -> tuple[np.ndarray, ...]:
            a = 2 * np.pi / gut.period_mm
            x, y, z = p.x * a + gut.phase[0], p.y * a + gut.phase[1], p.z * a + gut.phase[2]
            loops = (np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)) / (1.5 * a) + 2.0
            room = both(ellipsoid(p, (5, yv - 92, -75), (88, 48, 70)), self._cavity(p) - 3, 6)
            loops = both(loops, room, 5)
            return loops, loops - 3, both(loops - 3.5, gut.air_level_mm - p.y)

        c.paint(
            small_bowel,
            Tissue.BOWEL_WALL,
            Tissue.BOWEL_CONTENT,
            Tissue.GAS,
            box=((-90, yv - 142, -150), (100, yv - 40, 0)),
        )
        for tube in plan.colon:
            a, b, r = np.asarray(tube.start), np.asarray(tube.end), tube.radius_mm

            def colon(p: Points, a: np.ndarray = a, b: np.ndarray = b, r: float = r, gas: float = tube.gas) -> tuple:
                length = np.linalg.norm(b - a)
                s = ((p.x - a[0]) * (b - a)[0] + (p.y - a[1]) * (b - a)[1] + (p.z - a[2]) * (b - a)[2]) / length
                level = both(
                    capsule(p, tuple(a), tuple(b), r, r) + 2.5 * np.cos(2 * np.pi * s / 34), self._cavity(p) - 2, 4
                )
                axis_y = a[1] + (b - a)[1] * np.clip(s / length, 0, 1)
                return level, level - 2.5, both(level - 3, axis_y + gas * r - p.y)

            low, high = np.minimum(a, b) - r - 3, np.maximum(a, b) + r + 3
            c.paint(colon, Tissue.BOWEL_WALL, Tissue.BOWEL_CONTENT, Tissue.GAS, box=(tuple(low), tuple(high)))

        def stomach(p: Points) -> tuple[np.ndarray, ...]:
            s = plan.stomach
            fundus = ellipsoid(p, (s.centre[0], s.centre[1], s.centre[2]), s.radii)
            antrum = capsule(p, (s.centre[0] - 12, s.centre[1] - 12, s.centre[2] - 30), (-14, yv - 82, 8), 23, 14)
            level = both(either(fundus, antrum, 22), under(p), 6)
            return level, level - 4, both(level - 4.5, s.air_level_mm - p.y)

        c.paint(
            stomach,
            Tissue.BOWEL_WALL,
            Tissue.STOMACH_CONTENT,
            Tissue.GAS,
            box=((-50, yv - 150, -25), (120, yv + 20, 1e4)),
        )
        c.paint(
            lambda p: either(
                capsule(p, (-22, yv - 62, -2), (18, yv - 60, 26), 13, 9),
                capsule(p, (18, yv - 60, 26), (62, yv - 30, 44), 9, 8),
                6,
            ),
            Tissue.PANCREAS,
            box=((-40, yv - 85, -25), (80, yv - 10, 65)),
        )
        c.paint(
            lambda p: either(
                capsule(p, (-38, yv - 62, 18), (-44, yv - 45, -38), 11, 11),
                capsule(p, (-44, yv - 45, -38), (6, yv - 48, -46), 11, 9),
                5,
            ),
            Tissue.BOWEL_WALL,
            box=((-60, yv - 80, -65), (20, yv - 25, 35)),
        )

    # ---- liver, spleen, gallbladder

    def _kidneys(self, p: Points, margin_mm: float, side: str | None = None) -> np.ndarray:
        level = np.full(np.broadcast_shapes(p.x.shape, p.y.shape, p.z.shape), -1000.0, np.float32)
        for kidney in self.plan.kidneys:
            if side in (None, kidney.side):
                level = either(level, _bean(kidney, *_local(kidney, p)) + margin_mm)
        return level

    def _paint_solid_organs(self, c: Canvas) -> None:
        plan, yv = self.plan, self.plan.spine_y_mm
        s, g = plan.liver_scale, plan.gallbladder

        def liver(p: Points) -> np.ndarray:
            right = ellipsoid(p, (-88, yv - 46, 46), (78 * s, 92 * s, plan.liver_length_mm))
            left = ellipsoid(p, (-2, yv - 96, 86), (82 * s, 40 * s, 44 * s))
            level = either(right, left, 30)
            visceral = -(0.62 * (p.x + 34) + 0.30 * (p.y - yv + 46) - 0.72 * (p.z - 30)) / 1.0
            level = both(level, visceral, 14) + plan.ripple
            level = both(level, both(self._dome(p) - 4.5 - p.z, self._cavity(p) - 3), 5)
            level = both(level, -self._kidneys(p, 5.0, "right"), 5)
            return both(level, both(-self._cava(p) - 1.5, -self._middle(p)), 4)

        box = ((-175, -1e4, -75), (85, 1e4, 1e4))
        spleen = plan.spleen

        def spleen_level(p: Points) -> np.ndarray:
            level = ellipsoid(p, spleen.centre, spleen.radii)
            hollow = ellipsoid(p, (spleen.centre[0] - 44, spleen.centre[1] - 14, spleen.centre[2] - 4), (42, 46, 70))
            level = both(level, -hollow, 8)
            level = both(level, both(self._dome(p) - 4 - p.z, self._cavity(p) - 2.5), 5)
            return both(level, -self._kidneys(p, spleen.gap_mm, "left"), 3)

        c.paint(spleen_level, Tissue.SPLEEN, box=((20, yv - 80, -30), (165, yv + 80, 1e4)))
        c.paint(liver, Tissue.LIVER, box=box)

        def inside(shape: Callable[[Points], np.ndarray]) -> Callable[[Points], np.ndarray]:
            return lambda p: both(shape(p), liver(p) - 6)

        for a, b, r0, r1 in plan.liver_vessels:
            low, high = np.minimum(a, b) - r0, np.maximum(a, b) + r0
            vessel = inside(partial(capsule, a=a, b=b, r0=r0, r1=r1))
            c.paint(vessel, Tissue.LIVER_VESSEL, box=(tuple(low), tuple(high)))
        for centre, r in plan.liver_lesions:
            c.paint(
                inside(partial(ellipsoid, centre=centre, radii=(r, r * 0.9, r * 1.1))),
                Tissue.LIVER_LESION,
                box=(tuple(v - 1.2 * r for v in centre), tuple(v + 1.2 * r for v in centre)),
            )
        if g is not None:
            c.paint(
                lambda p: ellipsoid(p, g, (13, 17, 24)),
                Tissue.GALLBLADDER,
                box=(tuple(np.subtract(g, 25)), tuple(np.add(g, 25))),
            )

    # ---- kidneys

    def _paint_kidney(self, c: Canvas, k: Kidney) -> None:
        left = k.side == "left"
        reach = max(k.radii) + 12
        box = (tuple(np.subtract(k.centre, reach)), tuple(np.add(k.centre, reach)))
        hilum = k.to_patient((0.0, -0.75 * k.radii[1], 0.0))
        source = (
            (14.0, self.plan.spine_y_mm - 29, k.centre[2] + 12)
            if left
            else (-18.0, self.plan.spine_y_mm - 29, k.centre[2] + 8)
        )

        def parenchyma(p: Points) -> tuple[np.ndarray, ...]:
            u, v, w = _local(k, p)
            bean = _bean(k, u, v, w)
            length, a, b = k.radii
            sinus = ellipsoid(Points(v, w, u), (-0.80 * a, 0, 0), (0.80 * a, 0.34 * b, 0.42 * length)) + 1.6 * np.cos(
                2 * np.pi * u / 22 + k.phase
            ) * np.clip((v + 0.7 * a) / a, 0, 1)
            around = np.arctan2(u / length, (v + 0.5 * a) / (1.5 * a))
            pyramids = (np.cos(9 * around + k.phase) + 0.25) * 0.11 * length
            medulla = both(both(bean - k.cortex_mm, pyramids, 3), -sinus)
            fat = both(sinus, bean + 4)
            pelvis = either(
                ellipsoid(Points(v, w, u), (-0.80 * a, 0, -2), (0.50 * a, 0.24 * b, 0.20 * length)),
                both(3.2 - np.hypot(w, u - 0.22 * length * np.sign(u)), both(v + 0.85 * a, -0.12 * a - v)),
                5,
            )
            return bean, medulla, fat, both(pelvis, sinus - 1.0)

        tissues = (Tissue.LEFT_CORTEX, Tissue.LEFT_MEDULLA) if left else (Tissue.RIGHT_CORTEX, Tissue.RIGHT_MEDULLA)
        c.paint(parenchyma, *tissues, Tissue.RENAL_FAT, Tissue.LEFT_PELVIS if left else Tissue.RIGHT_PELVIS, box=box)
        for tissue, dz, r in ((Tissue.RENAL_ARTERY, 5.0, 3.0), (Tissue.RENAL_VEIN, -6.0, 4.8)):
            a, b = np.add(source, (0, 0, dz)), np.add(hilum, (0, 0, 0.8 * dz))
            low, high = np.minimum(a, b) - 6, np.maximum(a, b) + 6

            def vessel(p: Points, a: tuple = tuple(a), b: tuple = tuple(b), r: float = r) -> np.ndarray:
                outside = both(-_bean(k, *_local(k, p)), both(-self._aorta(p), -self._cava(p)))
                return both(capsule(p, a, b, r, 0.8 * r), outside - 0.5)

            c.paint(vessel, tissue, box=(tuple(low), tuple(high)))
        if k.cyst is not None:
            centre, r = k.to_patient(k.cyst[:3]), k.cyst[3]
            c.paint(
                lambda p: ellipsoid(p, centre, (r, r, r)),
                Tissue.LEFT_CYST if left else Tissue.RIGHT_CYST,
                box=(tuple(np.subtract(centre, r)), tuple(np.add(centre, r))),
            )


def _local(k: Kidney, p: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kidney coordinates: along its length (up), away from the hilum, and backwards, mm."""
    d = (p.x - k.centre[0], p.y - k.centre[1], p.z - k.centre[2])
    return tuple(sum(float(r) * v for r, v in zip(row, d, strict=True)) for row in k.rotation)  # type: ignore[return-value]


def _bean(k: Kidney, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Level of the whole kidney, poles bent towards the hilum, surface a little lobed."""
    length, a, b = k.radii
    bent = v + k.bend * u * u
    lobes = 0.9 * np.sin(u / 8.5 + k.phase) * np.sin(w / 9 + 2 * k.phase) + 0.8 * np.sin(u / 14 + v / 11 - k.phase)
    return ellipsoid(Points(u, bent, w), (0, 0, 0), (length, a, b)) + lobes
