"""The command `doselabel calibrate`: phantom scans to factors in a camera file, each with its ± and a figure.

It knows arguments and the terminal; the factors are `doselabel.calibration`'s.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doselabel.camera import Camera


def add_calibrate(commands: Any) -> None:
    """Add the command with its four measurements."""
    parser = commands.add_parser("calibrate", help="a camera's sensitivity, resolution, recovery and dead time")
    kinds = parser.add_subparsers(title="what is measured", metavar="WHAT", required=True)

    one = _kind(kinds, "sensitivity", _sensitivity, "cps/MBq from a point source, petri dish or cylinder; or as known")
    one.add_argument("image", type=Path, nargs="?", help="scan of the phantom in counts")
    one.add_argument("--kind", choices=("source", "cylinder"), default="source", help="petri dish: source")
    one.add_argument("--activity-mbq", type=_above_zero, help="at assay")
    one.add_argument("--hours-after-assay", type=_finite, default=0.0, help="middle of the scan (default: 0)")
    one.add_argument("--nuclide", default="Lu-177", help="decays between assay and scan (default: Lu-177)")
    one.add_argument("--duration-s", type=_above_zero, help="duration of the scan")
    one.add_argument("--volume-ml", type=_above_zero, help="fill volume of the cylinder")
    one.add_argument("--activity-sd-percent", type=_from_zero, default=2.0, help="activity meter, k = 1 (default: 2)")
    one.add_argument("--value", type=_above_zero, help="instead of an image: a known factor …")
    one.add_argument("--unit", default="cps/MBq", help="… in cps/MBq, cps/kBq, cps/Bq, counts/min/uCi, or …")
    one.add_argument("--voxel-ml", type=_above_zero, help="… 'Bq/mL per count' of this voxel and --duration-s …")
    one.add_argument("--sd-percent", type=_from_zero, default=5.0, help="… and its standard uncertainty (default: 5)")

    two = _kind(kinds, "resolution", _resolution, "FWHM from a point source, a line source or a sphere's edge")
    two.add_argument("image", type=Path)
    two.add_argument("--kind", choices=("point", "line", "sphere"), default="point")
    two.add_argument("--volume-ml", type=_above_zero, help="of the sphere")

    three = _kind(kinds, "recovery", _recovery, "recovery curve from hot spheres in an image of Bq/mL")
    three.add_argument("image", type=Path)
    three.add_argument("--sphere", action="append", required=True, metavar="ML:X,Y,Z", help="volume, centre (LPS mm)")
    three.add_argument("--true-bq-ml", type=_above_zero, required=True, help="filled into the spheres, at the scan")
    three.add_argument("--background-bq-ml", type=_from_zero, default=0.0)

    four = _kind(kinds, "dead-time", _dead_time, "dead time from a high and a low activity")
    four.add_argument("--rates-cps", type=_above_zero, nargs=2, required=True, metavar=("HIGH", "LOW"))
    four.add_argument("--activities-mbq", type=_above_zero, nargs=2, required=True, metavar=("HIGH", "LOW"))
    four.add_argument("--durations-s", type=_above_zero, nargs=2, default=(60.0, 60.0), metavar=("HIGH", "LOW"))
    four.add_argument("--model", choices=("paralyzable", "nonparalyzable"), default="paralyzable")


def _kind(kinds: Any, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=text, description=text)
    parser.add_argument("--camera", type=Path, required=True, help="camera file to write or complete (.json)")
    parser.set_defaults(run=run)
    return parser


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no finite number")
    return value


def _from_zero(text: str) -> float:
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _above_zero(text: str) -> float:
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _camera(args: argparse.Namespace) -> Camera:
    """The camera file to complete, or a new one."""
    from doselabel.camera import Camera

    return Camera.load(args.camera) if args.camera.is_file() else Camera(name=args.camera.stem)


def _keep(args: argparse.Namespace, **found: Any) -> None:
    _camera(args).model_copy(update=found).save(args.camera)
    print(f"kept in {args.camera}")


def _figure(args: argparse.Namespace, what: str) -> Path:
    path: Path = args.camera.with_name(f"{args.camera.stem}_{what}.png")
    print(f"figure in {path}")
    return path


def _sensitivity(args: argparse.Namespace) -> None:
    from doselabel.calibration import sensitivity
    from doselabel.camera import Sensitivity, cps_per_mbq
    from doselabel.errors import CalibrationError
    from doselabel.geometry import read_image
    from doselabel.io.calibration_figure import draw
    from doselabel.nuclides import nuclide, nuclide_name

    filled_with, kept = nuclide(args.nuclide), _camera(args).nuclide
    if kept and nuclide_name(kept) != filled_with.name:
        raise CalibrationError(
            f"{args.camera} is for {kept}, and the factor is for {filled_with.name}; a camera file is for one nuclide.",
            "Give another camera file, or --nuclide.",
        )
    if args.value is not None:
        value = cps_per_mbq(args.value, args.unit, duration_s=args.duration_s, voxel_ml=args.voxel_ml)
        of = f" (voxels of {args.voxel_ml:g} mL, {args.duration_s:g} s)" if args.voxel_ml and args.duration_s else ""
        known = Sensitivity(
            cps_per_mbq=value,
            sd_cps_per_mbq=args.sd_percent / 100 * value,
            how=f"as stated: {args.value:g} {args.unit}{of}",
        )
        print(f"sensitivity {value:.4g} ± {2 * known.sd_cps_per_mbq:.2g} cps/MBq (k = 2), as stated")
        return _keep(args, sensitivity=known, nuclide=filled_with.name)
    missing = [part for part in ("image", "activity_mbq", "duration_s") if getattr(args, part) is None]
    if args.kind == "cylinder" and args.volume_ml is None:
        missing.append("volume_ml")
    if missing:
        raise CalibrationError(
            f"Not given: {', '.join(missing)}.", "Give a scan in counts with its activity and duration, or --value."
        )
    decayed = args.activity_mbq * 2 ** (-args.hours_after_assay / filled_with.half_life_h)
    common = {
        "activity_mbq": decayed, "duration_s": args.duration_s, "activity_relative_sd": args.activity_sd_percent / 100
    }  # fmt: skip
    image = read_image(args.image)
    if args.kind == "cylinder":
        found = sensitivity.of_cylinder(image, volume_ml=args.volume_ml, **common)
    else:
        found = sensitivity.of_source(image, **common)
    s = found.sensitivity
    print(f"sensitivity {s.cps_per_mbq:.4g} ± {2 * s.sd_cps_per_mbq:.2g} cps/MBq (k = 2): {s.how}")
    for name, part in found.parts.items():
        print(f"  {name}: {part:.2%} (k = 1)")
    draw(
        _figure(args, "sensitivity"), "Sensitivity", found.profile_mm, found.profile,
        x_label="Distance (mm)", y_label=found.profile_of,
    )  # fmt: skip
    return _keep(args, sensitivity=s, nuclide=filled_with.name)


def _resolution(args: argparse.Namespace) -> None:
    from doselabel.calibration import resolution
    from doselabel.errors import CalibrationError
    from doselabel.geometry import read_image
    from doselabel.io.calibration_figure import draw

    image = read_image(args.image)
    if args.kind == "sphere":
        if args.volume_ml is None:
            raise CalibrationError("The sphere's volume is not given.", "Give --volume-ml.")
        found = resolution.of_sphere(image, args.volume_ml)
    else:
        found = resolution.of_point(image) if args.kind == "point" else resolution.of_line(image)
    r = found.resolution
    shown = ", ".join(f"{a} {w:.2f} ± {2 * u:.2f}" for a, w, u in zip("zyx", r.fwhm_mm, r.sd_mm, strict=True))
    print(f"resolution (FWHM, mm, k = 2): {shown}: {r.how}")
    for name, part in found.parts.items():
        print(f"  {name}: {part:.2f} mm (k = 1)")
    draw(
        _figure(args, "resolution"), "Resolution", found.profile_mm, found.profile, fitted=found.fitted,
        x_label="Position (mm)", y_label="Counts",
    )  # fmt: skip
    return _keep(args, resolution=r)


def _recovery(args: argparse.Namespace) -> None:
    import numpy as np

    from doselabel.calibration import rates
    from doselabel.errors import CalibrationError
    from doselabel.geometry import read_image
    from doselabel.io.calibration_figure import draw

    image = read_image(args.image)
    volumes, values = [], []
    for text in args.sphere:
        try:
            volume, centre = float(text.partition(":")[0]), [float(v) for v in text.partition(":")[2].split(",")]
            if len(centre) != 3 or not all(map(math.isfinite, (volume, *centre))) or volume <= 0:
                raise ValueError(text)
        except ValueError as error:
            raise CalibrationError(f"'{text}' is no sphere; expected ML:X,Y,Z.", "For example 11.5:57,0,-3.") from error
        volumes.append(volume)
        values.append(rates.sphere_recovery(image, centre, volume, args.true_bq_ml, args.background_bq_ml))
    curve = rates.recovery_curve(volumes, values, how=f"{len(volumes)} spheres")
    for volume, value in zip(volumes, values, strict=True):
        print(f"  {volume:g} mL: recovery {value:.3f}, curve {curve.at(volume)[0]:.3f} ± {2 * curve.at(volume)[1]:.3f}")
    grid = np.geomspace(min(volumes) / 1.5, max(volumes) * 1.5, 80)
    draw(
        _figure(args, "recovery"), "Recovery", volumes, values, fitted_x=grid, log_x=True,
        fitted=[curve.at(v)[0] for v in grid], x_label="Volume (mL)", y_label="Recovery coefficient",
    )  # fmt: skip
    return _keep(args, recovery=curve)


def _dead_time(args: argparse.Namespace) -> None:
    import numpy as np

    from doselabel.calibration import rates
    from doselabel.io.calibration_figure import draw

    found = rates.dead_time(args.rates_cps, args.activities_mbq, durations_s=args.durations_s, model=args.model)
    print(f"dead time {found.tau_us:.3g} ± {2 * found.sd_us:.2g} µs (k = 2), {found.model}: {found.how}")
    true = [found.factor(rate) * rate for rate in args.rates_cps]
    grid = np.linspace(0, 1.2 * max(true), 80)
    load = grid * found.tau_us * 1e-6
    seen = grid * np.exp(-load) if found.model == "paralyzable" else grid / (1 + load)
    draw(
        _figure(args, "dead_time"), "Dead time", true, args.rates_cps, fitted_x=grid, fitted=seen,
        x_label="True rate (cps)", y_label="Observed rate (cps)",
    )  # fmt: skip
    return _keep(args, dead_time=found)
