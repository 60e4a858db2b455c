"""All measurements in one page: ``make bench`` runs them and writes docs/benchmarks.md.

    python benchmarks/all.py [--only NAME …] [--long] [--ct FILE] [--out docs/benchmarks.md]

Each is a command of its own, whose output stands on the page as it was printed, with how busy the machine was before
and after. ``--long`` adds those that take more than a few minutes. What is not run this time keeps its place on the
page, with its own date.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("numpy", "scipy", "torch", "torchvision", "SimpleITK", "napari", "monailabel", "openvino", "nncf")


@dataclass(frozen=True)
class Bench:
    """One measurement: ``words`` after ``python benchmarks/``; CT: a CT of a sample patient, OUT: a folder."""

    name: str
    title: str
    words: str
    wanted: str
    long: bool = False


BENCHES = (
    Bench(
        "segment",
        "Segmentation, and peers on the same slices",
        "bench_segment.py CT --peers",
        "≤ .06 CPU-s, OpenVINO ≤ .04, with bfloat16",
    ),
    Bench("dose", "A dose", "bench_dose.py", "128³ ≤ 10 CPU-s, 256³ ≤ 45 CPU-s"),
    Bench("edit", "An edited mask", "bench_edit.py", "≤ 2 s of wall time on two idle cores; no number differs"),
    Bench(
        "window", "The window", "bench_window.py", "≤ 100 ms at a stretch; table ≤ 200 ms; dock ≤ 2 s, on idle cores"
    ),
    Bench("follow", "The dose follows a stroke", "bench_follow.py", "≤ 2 s of wall time on two idle cores"),
    Bench("read", "Reading through the door", "bench_read.py --repeats 2", "not above SimpleITK's own"),
    Bench("start", "A server starts", "bench_server.py start", "first segmentation within 20 s on two idle cores"),
    Bench(
        "scale", "A thousand patients", "bench_server.py scale", "/info/ < 0.1 s, first look < 5 s, new folder < 2 s"
    ),
    Bench("annotators", "Ten annotators", "bench_server.py annotators", "no error, p95 of /info/ < 0.3 s", long=True),
    Bench("kill", "Kill −9 in the middle of saves", "bench_server.py kill", "nothing acknowledged is lost", long=True),
    Bench("cohort", "A cohort", "bench_cohort.py --patients 0 --compare 24", "two workers ≥ 1.7 × one", long=True),
    Bench(
        "coverage",
        "Does the ± cover?",
        "coverage.py --phantoms 6 --seed 6 --out OUT",
        "60–80 % within 1σ, ≥ 92 % within 2σ, of 40 patients (docs/dosimetry.md); six show its kind",
        long=True,
    ),
    Bench("retrain", "Six corrected cases", "bench_retrain.py", "≥ +10 points, ≤ 1 lost, ≤ 180 CPU-s", long=True),
    Bench("peers", "Dose maps of others", "bench_peers.py", "error and closure below theirs", long=True),
)


def section(bench: Bench, ct: Path, scratch: Path) -> str:
    """Run one, and say how it went."""
    stands_for = {"CT": str(ct), "OUT": str(scratch / bench.name)}
    words = [stands_for.get(word, word) for word in bench.words.split()]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "shared"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    before, began = os.getloadavg()[0], time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / words[0]), *words[1:]],
        env=os.environ | paths,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    seconds, after = time.monotonic() - began, os.getloadavg()[0]
    printed = done.stdout.strip().replace(str(ct), "CT").replace(str(ROOT) + os.sep, "")
    if done.returncode:
        printed += f"\nended with {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"
    return (
        f"## {bench.title}\n\n`python benchmarks/{bench.words}`. Wanted: {bench.wanted}.\n\n```text\n{printed}\n```\n\n"
        f"{time.strftime('%Y-%m-%d')}, {seconds:.0f} s; load {before:.1f} before and {after:.1f} after, of "
        f"{os.cpu_count()} cores; {processor()}.\n"
    )


def processor() -> str:
    """The processor, and which of its instructions matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"model name\s*: (.*)", text)
    able = [flag for flag in ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8") if f" {flag}" in text]
    return f"{name[1] if name else platform.machine()} ({', '.join(able) or 'no vector instructions known'})"


def versions() -> str:
    """What was installed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(found)}"


def sections(page: str) -> dict[str, str]:
    """The sections of a page by their titles."""
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part.rstrip() + "\n" for part in parts}


def write(out: Path, found: dict[str, str]) -> None:
    """Put new sections in their places; what is not there has not been run yet."""
    kept = sections(out.read_text("utf-8")) if out.is_file() else {}
    kept.update(found)
    about = (
        "# Measurements\n\nWritten by `make bench`; each block is what its command printed. Seconds of a processor "
        "say more than the clock's on a machine that others use: compare ratios within one block.\n\n"
        f"Last run with {versions()}.\n"
    )
    out.write_text("\n".join([about, *(kept[b.title] for b in BENCHES if b.title in kept)]), "utf-8")


def main() -> int:
    """Run what was asked for; the page is written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[bench.name for bench in BENCHES], help="these alone")
    parser.add_argument("--long", action="store_true", help="also those that take more than a few minutes")
    parser.add_argument("--ct", type=Path, help="a CT to segment (default: a sample patient's)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    args = parser.parse_args()
    chosen = [b for b in BENCHES if (b.name in args.only if args.only else args.long or not b.long)]
    with tempfile.TemporaryDirectory() as scratch:
        ct = args.ct
        if ct is None and any("CT" in bench.words.split() for bench in chosen):
            from sample_data.phantom import generate

            ct = generate(Path(scratch), patients=1, seed=5)[0] / "ct.nii.gz"
        for bench in chosen:
            print(f"{bench.name}: {bench.words}", flush=True)
            write(args.out, {bench.title: section(bench, ct or Path("CT"), Path(scratch))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
