"""The replay set is made of nobody, the same each time, and shows what the network is to keep."""

import numpy as np

from doselabel.labels import read_labels
from doselabel.model import replay
from doselabel.model.cases import TrainCase, case_ct, case_labels


def test_each_kind_shows_kidneys_and_liver_on_a_plausible_ct(tmp_path):
    for number, kind in enumerate(replay.KINDS):
        case = replay._case(tmp_path, number)
        ct = case_ct(case)
        labels = case_labels(case, ct)
        assert kind in case.ct.name
        assert {"liver", "left_kidney"} <= set(labels.present()) or "right_kidney" in labels.present()
        assert 600 < labels.volume_ml("liver") < 3500
        liver, fat = ct.array[labels.mask("liver")], np.percentile(ct.array[ct.array > -200], 5)
        assert 20 < np.median(liver) < 200
        assert fat < 0 < ct.array.max()
        for side, kidney in ((1, "left_kidney"), (-1, "right_kidney")):
            if (mask := labels.mask(kidney)).any():
                x_mm = ct.geometry.index_to_lps(np.argwhere(mask).mean(0))[0]
                assert side * (x_mm - ct.geometry.index_to_lps(np.argwhere(ct.array > -200).mean(0))[0]) > 20


def test_what_is_there_stays_and_a_new_one_is_the_same(tmp_path):
    first = replay._case(tmp_path / "a", 1)
    written = first.ct.stat().st_mtime_ns
    assert replay._case(tmp_path / "a", 1) == first
    assert first.ct.stat().st_mtime_ns == written
    again = replay._case(tmp_path / "b", 1)
    assert np.array_equal(read_labels(first.labels).array, read_labels(again.labels).array)
    assert np.array_equal(case_ct(first).array, case_ct(again).array)


def test_of_a_given_folder_a_quarter_of_the_patients_judges(tmp_path):
    cases = [TrainCase(tmp_path / f"{n}", tmp_path / "l", f"P-{n // 2}") for n in range(16)]
    trained, judged = replay.parted(cases)
    assert {case.patient for case in judged} == {"P-3", "P-7"}
    assert len(trained) + len(judged) == 16
    assert not {case.patient for case in trained} & {case.patient for case in judged}
    assert replay.parted(cases[:2]) == (cases[:2], [])
