"""Twelve small patients, made once and only read; where a test changes a study it makes its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shared.cohort.makers import make_patient


@pytest.fixture(scope="session")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohort") / "studies"
    for number in range(12):
        make_patient(root / f"P-{number:03d}", number)
    return root
