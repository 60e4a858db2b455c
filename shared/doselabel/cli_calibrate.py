"""The command `doselabel calibrate`: phantom scans to factors in a camera file, each with its ± and a figure.

It knows arguments and the terminal; the factors are `doselabel.calibration`'s.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_calibrate(commands: Any) -> None:
    """Add the command with its four measurements."""
    parser = commands.add_parser("calibrate", help="a camera's sensitivity, resolution, recovery and dead time")
    kinds = parser.add_subparsers(title="what is measured", metavar="WHAT", required=True)

    one = _kind(kinds, "sensitivity", _sensitivity, "cps/MBq from a point source, petri dish or cylinder; or as known")
    one.add_argument("image", type=Path, nargs="?", help="scan of the phantom in counts")
    one.add_argument("--kind", choices=("source", "cylinder"), default="source", help="petri dish: source")
    one.add_argument("--activity-mbq", type=float, help="at assay")
    one.add_argument("--hours-after-assay", type=float, default=0.0, help="middle of the scan (default: 0)")
    one.add_argument("--nuclide", default="Lu-177", help="decays between assay and scan (default: Lu-177)")
    one.add_argument("--duration-s", type=float, help="duration of the scan")
    one.add_argument("--volume-ml", type=float, help="fill volume of the cylinder")
    one.add_argument("--activity-sd-percent", type=float, default=2.0, help="activity meter, k = 1 (default: 2)")
    one.add_argument("--value", type=float, help="instead of an image: a known factor …")
    one.add_argument("--unit", default="cps/MBq", help="… in cps/MBq, cps/kBq, cps/Bq, counts/min/uCi")
    one.add_argument("--sd-percent", type=float, default=5.0, help="… and its standard uncertainty (default: 5)")

    two = _kind(kinds, "resolution", _resolution, "FWHM from a point source, a line source or a sphere's edge")
    two.add_argument("image", type=Path)
    two.add_argument("--kind", choices=("point", "line", "sphere"), default="point")
    two.add_argument("--volume-ml", type=float, help="of the sphere")

    three = _kind(kinds, "recovery", _recovery, "recovery curve from hot spheres in an image of Bq/mL")
    three.add_argument("image", type=Path)
    three.add_argument("--sphere", action="append", required=True, metavar="ML:X,Y,Z", help="volume, centre (LPS mm)")
    three.add_argument("--true-bq-ml", type=float, required=True, help="filled into the spheres, at the scan")
    three.add_argument("--background-bq-ml", type=float, default=0.0)

    four = _kind(kinds, "dead-time", _dead_time, "dead time from a high and a low activity")
    four.add_argument("--rates-cps", type=float, nargs=2, required=True, metavar=("HIGH", "LOW"))
    four.add_argument("--activities-mbq", type=float, nargs=2, required=True, metavar=("HIGH", "LOW"))
    four.add_argument("--durations-s", type=float, nargs=2, default=(60.0, 60.0), metavar=("HIGH", "LOW"))
    four.add_argument("--model", choices=("paralyzable", "nonparalyzable"), default="paralyzable")


def _kind(kinds: Any, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(name, help=text, description=text)
    parser.add_argument("--camera", type=Path, required=True, help="camera file to write or complete (.json)")
    parser.set_defaults(run=run)
    return parser


def _keep(args: argparse.Namespace, **found: Any) -> None:
    from doselabel.camera import Camera

    camera = Camera.load(args.camera) if args.camera.is_file() else Camera(name=args.camera.stem)
    camera.model_copy(update=found).save(args.camera)
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
    from doselabel.nuclides import nuclide

    if args.value is not None:
        value = cps_per_mbq(args.value, args.unit)
        known = Sensitivity(
            cps_per_mbq=value,
            sd_cps_per_mbq=args.sd_percent / 100 * value,
            how=f"as stated: {args.value:g} {args.unit}",
        )
        print(f"sensitivity {value:.4g} ± {2 * known.sd_cps_per_mbq:.2g} cps/MBq (k = 2), as stated")
        return _keep(args, sensitivity=known)
    missing = [name for name in ("image", "activity_mbq", "duration_s") if getattr(args, name) is None]
    if args.kind == "cylinder" and args.volume_ml is None:
        missing.append("volume_ml")
    if missing:
        raise CalibrationError(
            f"Not given: {', '.join(missing)}.", "Give a scan in counts with its activity and duration, or --value."
        )
    decayed = args.activity_mbq * 2 ** (-args.hours_after_assay / nuclide(args.nuclide).half_life_h)
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
    return _keep(args, sensitivity=s, nuclide=nuclide(args.nuclide).name)


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
            if len(centre) != 3:
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
