"""Sample patients that several tests look at: each is made once for the whole run, and nobody changes them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sample_data import phantom

SEED = 7
FOLDER = "DOSELABEL_TEST_SAMPLES"
"""Environment variable: where the processes of this run keep them."""


def sample(number: int) -> Path:
    """Folder of one of the patients that ``doselabel sample --seed 7`` makes, from 1; its tests only read it."""
    kept = Path(os.environ[FOLDER])
    name = f"sample-{SEED}-{number:03d}"
    if not (kept / name).exists():
        kept.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=kept, prefix=".") as own:
            made = phantom.patient(Path(own), SEED, number - 1)
            with suppress(OSError):  # the other process was quicker
                made.rename(kept / name)
    return kept / name
