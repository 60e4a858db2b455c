"""CPU-seconds and memory of segmenting one CT of 130 slices of 512²: a number to compare, not a test.

    python benchmarks/bench_segment.py CT [--checkpoint FILE] [--planes 3] [--slices 1000] [--peers]

With ``--peers`` the same slices go through torchvision's Mask R-CNN with ResNet-50 as it comes (512 pixels, 1000
proposals, untrained: only its time counts), and through TotalSegmentator's fastest model where that is installed.

Target of design/segmentation.md: about 0.1 CPU-s per slice, three planes 35 s, at most 2 GB.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torchvision.models.detection import maskrcnn_resnet50_fpn

from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.model import checkpoint as checkpoints
from doselabel.model import predict
from doselabel.model.checkpoint import Checkpoint
from doselabel.model.engine import for_use
from doselabel.model.network import bf16_pays
from doselabel.model.predict import Segmentation, segment
from doselabel.model.slices import PLANES


def blown_up(path: Path, slices: int) -> Volume:
    """Interpolate a CT to slices of 512², so that its organs stay where they are."""
    small = read_image(path)
    shape = (slices, 512, 512)
    factors = [n / m for n, m in zip(shape, small.array.shape, strict=True)]
    array = ndimage.zoom(small.array.astype(np.int16), factors, order=1, grid_mode=True, mode="nearest")
    spacing = tuple(mm / f for mm, f in zip(small.geometry.spacing_mm, factors, strict=True))
    geometry = Geometry(shape, (spacing[0], spacing[1], spacing[2]), (0.0, 0.0, 0.0), small.geometry.direction)
    return Volume(array, geometry)


def peak_mb(anew: bool = False) -> float:
    """The most memory this process had since it was last asked anew (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    if anew:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def stock_r50(volume: Volume, slices: int = 4) -> float:
    """CPU-seconds of torchvision's own network per slice of 512²."""
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4, min_size=512, max_size=512)
    network.eval()
    middle = len(volume.array) // 2
    pictures = [
        torch.from_numpy(volume.array[k - 1 : k + 2].astype(np.float32)).clip(-100, 200).add(100).div(300)
        for k in range(middle, middle + slices + 1)
    ]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16_pays()):
        network(pictures[:1])
        began = time.process_time()
        for picture in pictures[1:]:
            network([picture])
    return (time.process_time() - began) / slices


def total_segmentator(volume: Volume) -> float | None:
    """CPU-seconds of TotalSegmentator's fastest model per slice, or None where it is not installed."""
    command = shutil.which("TotalSegmentator")
    if command is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        ct = write_image(Path(folder) / "ct.nii.gz", volume)
        roi = ["--roi_subset", "liver", "kidney_left", "kidney_right"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([command, "-i", ct, "-o", f"{folder}/out", "--fastest", "-d", "cpu", *roi], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(volume.array)


def quicker(
    volume: Volume, ready: Checkpoint, planes: tuple[str, ...], torch_result: Segmentation
) -> tuple[float, float]:
    """CPU-seconds per slice with OpenVINO, and the least Dice of its organs with torch's."""
    for_use(ready, torch.device("cpu"), "openvino")  # compiles, once for a network
    began = time.process_time()
    labels = segment(volume, ready, planes=planes, engine="openvino").labels
    spent = (time.process_time() - began) / len(volume.array)
    pairs = [(labels.mask(name), torch_result.labels.mask(name)) for name in labels.names.values()]
    return spent, min(2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in pairs)


def _table(volume: Volume, ready: Checkpoint, planes: tuple[str, ...], result: Segmentation, ours: float) -> None:
    print("\nCPU-s per axial slice of the scan, one thread")
    rows: list[tuple[str, float | None]] = [("this", ours)]
    if importlib.util.find_spec("openvino"):
        spent, least = quicker(volume, ready, planes, result)
        rows.append((f"this, OpenVINO (Dice with torch's ≥ {least:.4f})", spent))
    torch.set_num_threads(1)
    rows += [("torchvision Mask R-CNN R50", stock_r50(volume)), ("TotalSegmentator", total_segmentator(volume))]
    for name, spent in rows:
        print(f"  {name:<46}" + ("not installed" if spent is None else f"{spent:.3f}   {spent / ours:.2f} ×"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ct", type=Path, help="a CT; it is interpolated to slices of 512 × 512")
    parser.add_argument("--slices", type=int, default=130)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--planes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--peers", action="store_true", help="others on the same slices, in the same run")
    parser.add_argument("--as-is", action="store_true", help="do not interpolate")
    options = parser.parse_args()
    volume = read_image(options.ct) if options.as_is else blown_up(options.ct, options.slices)
    ready = checkpoints.load(options.checkpoint or checkpoints.starter_path())
    planes = tuple(PLANES) if options.planes == 3 else ("axial",)
    looks = 0
    look = predict._Looker.look

    def counted(*args, **kwargs):
        nonlocal looks
        looks += 1
        return look(*args, **kwargs)

    predict._Looker.look = counted  # type: ignore[method-assign]
    peak_mb(anew=True)
    before_mb = peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    result = segment(volume, ready, planes=planes, engine="torch")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    z, y, x = volume.geometry.shape
    spacing = ", ".join(f"{mm:.2f}" for mm in volume.geometry.spacing_mm)
    print(f"{z} × {y} × {x} at {spacing} mm, profile {ready.profile.name}, planes {', '.join(result.summary.planes)}")
    print(f"{cpu:.1f} CPU-s, {wall:.1f} s wall; {looks} slices looked at")
    print(f"{cpu / looks:.3f} CPU-s per slice looked at, {cpu / z:.3f} per axial slice of the scan")
    print(f"peak memory {peak_mb():.0f} MB ({before_mb:.0f} before, CT and network)")
    for name, organ in result.summary.organs.items():
        print(f"{name}: {organ.volume_ml:.0f} mL, score {organ.score:.2f}, {'; '.join(organ.flags) or 'no flags'}")
    if options.peers:
        _table(volume, ready, planes, result, cpu / z)
    return 0


if __name__ == "__main__":
    sys.exit(main())
