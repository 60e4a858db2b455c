"""Champion and challenger: the rule of design/segmentation.md."""

from dataclasses import dataclass, replace

from monailabel_app.trainers.promotion import decide


@dataclass(frozen=True)
class Row:
    patient: str
    dice: float
    ct: str = "ct"
    organ: str = "liver"
    volume_ml: float = 1500.0
    volume_error_percent: float = 0.0


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
    assert not decide(OLD, changed(dice=0.95, volume_error_percent=-2.1)).promote


def test_a_newly_missed_organ_stops_it_and_is_named():
    new = changed(dice=0.95)
    new[3] = replace(new[3], volume_ml=0.0)
    decision = decide(OLD, new)
    assert not decision.promote
    assert "misses the liver in P-3/ct" in decision.reason


def test_too_few_patients_decide_nothing_however_many_cts_they_have():
    few = [Row(f"P-{n % 2}", 0.9, ct=f"ct_tp{n}") for n in range(12)]
    decision = decide(few, [replace(row, dice=0.99) for row in few])
    assert not decision.promote
    assert decision.reason.startswith("Not decidable: 2 validation patient(s)")
