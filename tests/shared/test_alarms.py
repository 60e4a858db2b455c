"""Alarms: the gravest come first, every code has a remedy, and the documentation lists exactly these."""

from __future__ import annotations

from pathlib import Path

import pytest

from doselabel.alarms import CATALOGUE, Alarm, finding, ordered, table, told

DOCS = Path(__file__).parents[2] / "docs" / "study.md"


def test_docs_study_md_lists_every_code_with_what_to_do():
    assert table() in DOCS.read_text("utf-8"), f"put this into docs/study.md:\n{table()}"


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_code_says_what_it_means_and_what_to_do(code):
    kind = CATALOGUE[code]
    assert kind.means.endswith(".")
    assert kind.what_to_do.endswith(".")
    assert finding(code, "x").what_to_do == kind.what_to_do


def test_the_gravest_come_first_and_each_once():
    note, alarm = finding("spect-negative", "a few"), finding("spect-clipped", "cut off", numbers={"share": 1})
    assert ordered([note, alarm, note]) == [alarm, note]
    assert told(["routine", note, alarm, "routine"]) == ([alarm, note], ["cut off", "routine", "a few"])


def test_an_alarm_survives_json_and_a_code_of_another_version_is_read():
    alarm = finding("spect-twice", "same", numbers={"factor": 0.5}, time_point=2, file="a.nii.gz")
    assert Alarm.model_validate_json(alarm.model_dump_json()) == alarm
    assert Alarm(code="of-tomorrow", sentence="?").what_to_do == ""


def test_a_code_that_is_not_in_the_catalogue_is_a_mistake_of_ours():
    with pytest.raises(KeyError):
        finding("no-such-code", "x")
