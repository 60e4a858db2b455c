"""The makers of DICOM, and a study of the same patient that never was DICOM."""

from __future__ import annotations

import pytest

pytest.importorskip("pydicom")

from doselabel.cli import main
from tests.shared.dicom import makers as make


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The patient as a NIfTI study, with masks, and its doses."""
    study = make.nifti_study(tmp_path_factory.mktemp("reference") / "P-1")
    make.write_masks(study)
    from doselabel.dosimetry import pipeline
    from doselabel.dosimetry.options import DoseOptions

    done = pipeline.compute(study, "drawn", DoseOptions(registration="identity"))
    return study, done


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """The patient as DICOM: reconstructed NM objects, one per time point."""
    return make.patient(tmp_path_factory.mktemp("dicom") / "patient")


@pytest.fixture
def run(tmp_path, capsys):
    """Import on the command line; gives exit code, what was said, and the folder of studies."""

    def call(*arguments, studies=None):
        studies = studies or tmp_path / "studies"
        code = main(["import", *map(str, arguments), str(studies), "--key", str(tmp_path / "key.json")])
        said = capsys.readouterr()
        return code, said.out + said.err, studies

    return call
