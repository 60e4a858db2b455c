"""Champion and challenger: the rule of design/segmentation.md."""

from dataclasses import dataclass, replace

import pytest

from monailabel_app.trainers.promotion import decide


@dataclass(frozen=True)
class Row:
    patient: str
    dice: float
    ct: str = "ct"
    organ: str = "liver"
    volume_ml: float = 1500.0
    volume_error_percent: float = 0.0
    wrong_side: bool = False


OLD = [Row(f"P-{n}", 0.90) for n in range(6)]


def changed(**values) -> list[Row]:
    return [replace(row, **values) for row in OLD]


def test_a_model_that_is_better_on_every_patient_is_promoted():
    decision = decide(OLD, changed(dice=0.92))
    assert decision.promote
    assert "+2.00 points" in decision.reason


def test_the_same_model_again_is_promoted_because_nothing_is_lost():
    assert decide(OLD, OLD).promote


def test_a_worse_model_is_not():
    assert not decide(OLD, changed(dice=0.899)).promote


def test_a_mean_gain_that_one_patient_makes_alone_is_not_enough():
    mixed = [replace(row, dice=0.86 if n < 2 else 0.93) for n, row in enumerate(OLD)]
    decision = decide(OLD, mixed)
    assert sum(row.dice for row in mixed) > sum(row.dice for row in OLD)
    assert not decision.promote


def test_a_volume_bias_above_two_percent_stops_it():
    assert decide(OLD, changed(dice=0.95, volume_error_percent=1.9)).promote
    refused = decide(OLD, changed(dice=0.95, volume_error_percent=-2.1))
    assert not refused.promote
    assert "liver's mean volume error is -2.1 % (+0.0 % before)" in refused.reason


@pytest.mark.parametrize(("old", "new", "promoted"), [(-7.0, 2.8, True), (2.8, 3.7, True), (2.8, 3.9, False)])
def test_the_volume_bias_is_judged_against_the_champions(old, new, promoted):
    champion = changed(dice=0.7, volume_error_percent=old)
    assert decide(champion, changed(dice=0.9, volume_error_percent=new)).promote is promoted


def test_opposite_biases_of_two_organs_do_not_hide_each_other():
    new = [replace(row, dice=0.95, volume_error_percent=6.0) for row in OLD]
    new += [replace(row, organ="spleen", dice=0.95, volume_error_percent=-6.0) for row in OLD]
    assert not decide([*OLD, *(replace(row, organ="spleen") for row in OLD)], new).promote


@pytest.mark.parametrize(("lost", "promoted"), [(0.004, True), (0.02, False)])
def test_a_gain_in_one_organ_does_not_pay_for_a_loss_in_another(lost, promoted):
    old = [*OLD, *(replace(row, organ="left_kidney") for row in OLD)]
    new = [*changed(dice=0.98), *(replace(row, organ="left_kidney", dice=0.9 - lost) for row in OLD)]
    decision = decide(old, new)
    assert decision.promote is promoted
    assert promoted or "The left kidney loses 2.0 points" in decision.reason


@pytest.mark.parametrize("wrong", [{"volume_ml": 0.0, "dice": 0.0}, {"volume_ml": 40.0, "dice": 0.0}])
def test_a_newly_missed_organ_stops_it_and_is_named(wrong):
    new = changed(dice=0.99)
    new[3] = replace(new[3], **wrong)
    decision = decide(changed(dice=0.5), new)
    assert not decision.promote
    assert "misses the liver in P-3/ct" in decision.reason


def test_a_new_side_swap_stops_it_and_an_old_one_does_not():
    swapped = [replace(row, dice=0.95, wrong_side=n == 2) for n, row in enumerate(OLD)]
    decision = decide(OLD, swapped)
    assert not decision.promote
    assert "puts the liver in P-2/ct on the wrong side" in decision.reason
    assert decide([replace(row, wrong_side=n == 2) for n, row in enumerate(OLD)], swapped).promote


@pytest.mark.parametrize(("after", "promoted"), [(0.891, True), (0.889, False)])
def test_at_most_one_point_may_be_lost_on_the_old_domain(after, promoted):
    known = [Row(f"old-{n}", 0.90) for n in range(3)]
    decision = decide(OLD, changed(dice=0.99), old_domain=(known, [replace(row, dice=after) for row in known]))
    assert decision.promote is promoted
    assert "on the old domain" in decision.reason
    assert promoted or "On the old domain the liver loses 1.1 points" in decision.reason


def test_an_organ_newly_missed_on_the_old_domain_stops_it():
    known = [Row(f"old-{n}", 0.90) for n in range(3)]
    missed = [replace(known[0], dice=0.0, volume_ml=0.0), *(replace(row, dice=1.0) for row in known[1:])]
    assert "misses the liver in old-0/ct" in decide(OLD, changed(dice=0.99), old_domain=(known, missed)).reason


def test_too_few_patients_decide_nothing_however_many_cts_they_have():
    few = [Row(f"P-{n % 2}", 0.9, ct=f"ct_tp{n}") for n in range(12)]
    decision = decide(few, [replace(row, dice=0.99) for row in few])
    assert not decision.promote
    assert decision.reason.startswith("Not decidable: 2 validation patient(s)")
