"""The cases with known answers, T1 to T10, and the documentation that shows them. None of these may be skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cases
from benchmarks.known import Case, Known, between, table
from doselabel.errors import DoselabelError

DOCUMENT = Path(__file__).parents[3] / "docs" / "dosimetry.md"


@pytest.fixture(scope="module")
def computed() -> dict[str, tuple[float, ...]]:
    """Every case once: the tests below and the table share it."""
    return {}


@pytest.mark.parametrize("case", cases.all_cases(), ids=lambda case: case.id)
def test_every_known_number_is_met_within_its_tolerance(case, computed):
    computed[case.id] = case.compute()
    assert len(computed[case.id]) == len(case.known)
    missed = [
        f"{known.what}: expected {known.expected:.6g} {known.unit}, computed {value:.6g}"
        for known, value in zip(case.known, computed[case.id], strict=True)
        if not known.holds(value)
    ]
    assert not missed


def test_the_cases_are_t1_to_t10():
    assert [case.id for case in cases.all_cases()] == [f"T{i}" for i in range(1, 11)]


def test_the_documentation_shows_what_is_computed_now(computed):
    assert cases.is_current(DOCUMENT, computed), "run `python benchmarks/cases.py --write docs/dosimetry.md`"


def test_a_number_outside_its_tolerance_fails_and_is_marked():
    known = Known("dose", 2.0, 0.01, "Gy")
    assert known.holds(2.0199)
    assert not known.holds(2.03)
    case = Case("T0", "title", "source", (known,), lambda: (2.03,))
    assert "| 2.000 Gy | 2.030 Gy | +1.5 % | 1 % **FAILS** |" in table([case])


def test_writing_replaces_the_table_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "doc.md"
    path.write_text(f"before\n{cases.BEGIN}\nold\n{cases.END}\nafter\n", "utf-8")
    monkeypatch.setattr(cases, "all_cases", lambda: (cases._t2(),))
    assert cases.main(["--check", str(path)]) == 1
    assert cases.main(["--write", str(path)]) == 0
    text = path.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "0.08532 Gy" in text
    assert "old" not in text
    assert cases.main(["--check", str(path)]) == 0


def test_a_document_without_a_place_for_the_table_is_refused():
    with pytest.raises(DoselabelError, match="no place for the table"):
        between(cases.BEGIN, cases.END, "nothing here", "table")
