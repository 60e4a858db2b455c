"""How long the window makes its user wait: the figures of its own speed tests, with a real window and real strokes.

    python benchmarks/bench_window.py

CPU time of the window's thread at a stretch, and of the dock until it is drawn; for the live table the time until it
is right. Each is the least of a few rounds. Without a display a virtual one is started, where there is xvfb-run.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {
    "test_stalls.py::test_nothing_stalls_the_window_for_100_ms": "at a stretch, 512×512×130",
    "test_editing.py::test_the_numbers_follow_paint_undo_and_redo_within_200_ms_on_a_large_ct": "table, 512×512×400",
    "test_dock_opens.py::test_a_dock_is_drawn_before_what_it_does_not_need_yet_is_loaded": "the dock opens",
}


def main() -> int:
    """Run each and print what it measured."""
    failed = 0
    for test, words in TESTS.items():
        done = subprocess.run(
            [
                str(ROOT / ".ci" / "with-display"),
                sys.executable,
                "-m",
                "pytest",
                "-n0",
                "-qs",
                f"tests/napari_plugin/{test}",
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "shared"), str(ROOT)])},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        print(words)
        failed += done.returncode != 0
        for line in re.findall(r"^\.*(\{.*\})$", done.stdout, re.MULTILINE):
            for name, value in ast.literal_eval(line).items():
                if name == "spent_s":
                    name, value = "click to drawn", f"{1000 * value:.0f} ms"
                if isinstance(value, str):
                    print(f"  {name:28}{value:>8}")
        if done.returncode:
            print("  " + done.stdout.strip().splitlines()[-1])
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
