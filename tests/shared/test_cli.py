"""The command: exit codes and messages a person can act on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from doselabel.cli import build_parser, main
from doselabel.cli_dose import options_of
from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import DoseError


def test_study_check_passes_a_good_study(small_study, capsys):
    assert main(["study", "check", str(small_study.folder.parent)]) == 0
    assert "P-001: ok (Lu-177, 7400 MBq, SPECT at 0.5, 6, 24, 72 h)" in capsys.readouterr().out


def test_bad_input_exits_2_without_a_traceback(small_study):
    (small_study.folder / "spect_tp2.nii.gz").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "doselabel.cli", "study", "check", str(small_study.folder)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2
    assert "time_points[1].spect" in done.stderr
    assert "spect_tp2.nii.gz" in done.stderr
    assert "→" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder_says_how_to_make_a_study(tmp_path, capsys):
    assert main(["study", "check", str(tmp_path)]) == 2
    assert "doselabel sample" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["sample", "x", "--patients", "0"], ["dose"], ["nonsense"]])
def test_wrong_arguments_exit_2(args):
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2


def test_labels_prints_the_table(capsys):
    assert main(["labels"]) == 0
    assert "left_kidney" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], (None, None, None)), (["--consensus"], (None, False, None)),
     (["--consensus", "vote", "--score", "0.9", "--fill", "linear"], (0.9, "vote", "linear"))],
)  # fmt: skip
def test_segment_leaves_to_the_model_what_is_not_said(options, expected):
    args = build_parser().parse_args(["segment", "ct.nii.gz", "--out", "x.nii.gz", *options])
    assert (args.score, args.consensus, args.fill) == expected


def test_every_option_of_a_dose_is_an_argument_with_its_own_words(capsys):
    args = build_parser().parse_args(
        ["dose", "P-1", "--out", "x", "--preset", "expert2", "--organ-density-g-cm3", "liver:1.06/tumour:1.00",
         "--alpha-beta-gy", "liver:2.5", "--repair-half-life-h", "1.5", "--psf-fwhm-mm", "12/11/11", "--reference", "2"]
    )  # fmt: skip
    options = options_of(args)
    assert (options.preset, options.voi, options.psf_fwhm_mm) == ("expert2", "threshold", (12.0, 11.0, 11.0))
    assert (options.density_of("liver"), options.density_of("tumour_3")) == (1.06, 1.0)
    assert (options.alpha_beta_gy["liver"], options.repair_half_life_h, options.reference) == (2.5, 1.5, 2)
    with pytest.raises(SystemExit) as caught:
        main(["dose", "--help"])
    assert caught.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name in DoseOptions.model_fields:
        assert f"--{name.replace('_', '-')} " in said


def test_a_preset_gives_way_to_what_is_stated():
    assert DoseOptions.read({"preset": "ai"}).voi == "margin"
    assert DoseOptions.read({"preset": "expert1", "voi": "gtm", "gaussian_sigma_mm": 5}).voi == "gtm"
    with pytest.raises(DoseError, match="'preset'"):
        DoseOptions.read({"preset": "expert3"})


@pytest.mark.parametrize(
    ("absent", "extra", "words"),
    [
        ("torch", "server", ["segment", "ct.nii.gz", "--out", "labels.nii.gz"]),
        ("monailabel", "server", ["serve", "."]),
        ("monailabel", "server", ["users", "list", "."]),
        ("napari", "napari", ["demo", "--out", "demo"]),
        ("pydicom", "dicom", ["import", ".", "studies"]),
        ("dicomweb_client", "dicom", ["push", "https://pacs.example/dicom-web", "object.dcm"]),
    ],
)
def test_a_part_that_is_not_installed_is_named_with_its_extra(absent, extra, words, tmp_path):
    code = f"import sys; sys.modules[{absent!r}] = None; from doselabel.cli import main; sys.exit(main({words!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert f"'{absent}'" in done.stderr
    assert f"doselabel[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
