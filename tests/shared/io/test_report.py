"""The dose report: what it says, and that it needs nothing beside itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import Cancelled, DoseError
from doselabel.io import report_method, report_stated, report_tables
from doselabel.io.document import STYLE, Column, Document, Figure, Heading, Note, Table, new_figure, to_html
from doselabel.io.figures import differential
from doselabel.io.pdf import BOTTOM_MM, PAGE_MM, TOP_MM, _column_widths, _Layout, _width_mm, _wrap, to_pdf
from doselabel.io.report import NOT_REVIEWED, build, in_ct_frame, read_truth, sections, write_report
from doselabel.io.words import SMALL_PRINT
from doselabel.study_fields import Reporting
from doselabel.wire import HalfLife, HalfLifePrior, LabelVersion, MarrowDose


class Page(HTMLParser):
    """Text and addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.addresses, self._skip = "", [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._skip = tag == "style"
        self.addresses += [value for key, value in attrs if key in ("src", "href", "srcset") and value]

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        self.text += "" if self._skip else data + " "


@pytest.fixture(scope="module")
def written(example, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return write_report(example.results, example.study, example.labels, example.dose, out, truth=example.truth)


@pytest.fixture(scope="module")
def html(written) -> str:
    return written.html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_the_page_loads_nothing_from_anywhere(html, page):
    assert page.addresses
    assert all(a.startswith(("data:image/", "#")) for a in page.addresses)
    outside = re.sub(r"data:image/[^\"]*", "", html)
    assert "http" not in outside
    assert "url(" not in outside
    assert "@import" not in outside


def test_it_says_who_it_is_about_and_what_it_is_not(page):
    assert SMALL_PRINT in page.text
    assert "P-001" in page.text


def test_masks_that_nobody_reviewed_raise_an_alarm(html, example):
    assert '<div class="note alarm" role="alert"><p>' + NOT_REVIEWED in html
    reviewed = example.results.model_copy(update={"reviewed": True})
    blocks = build(reviewed, example.study, example.labels, example.dose).blocks
    assert not [b for b in blocks if isinstance(b, Note) and b.kind == "alarm"]


def test_every_warning_is_told_and_one_that_organs_share_is_told_once(example):
    texts = report_tables.all_warnings(example.results)
    assert texts[0] == example.results.warnings[0]
    assert len(texts) == 2
    assert texts[1].startswith("Left kidney, Right kidney, Liver: extrapolation")


def test_the_summary_gives_every_organ_with_units_and_one_standard_uncertainty(example):
    table = report_tables.summary(example.results)
    units = [column.unit for column in table.columns]
    assert units == ["", "mL", "g", "MBq·h", "h", "Gy", "Gy/GBq", "Gy", "Gy", "spread"]
    assert [row[0] for row in table.rows] == ["Left kidney", "Right kidney", "Liver"]
    assert re.fullmatch(r"2\.\d\d ± 0\.30", table.rows[0][5])
    assert "k = 1" in table.caption


def test_engines_that_differ_by_more_than_five_percent_are_flagged(example):
    kidney = example.results.organs["left_kidney"]
    mean = kidney.mean_dose_gy
    apart = kidney.model_copy(update={"dose_gy_by_engine": {"organ": 1.06 * mean, "voxel-s": mean}})
    results = example.results.model_copy(update={"organs": {"left_kidney": apart}})
    assert report_tables.summary(results).rows[0][-1] == "⚠ 6.0 %"


@pytest.mark.parametrize(
    "field",
    ["Administered activity and time", "Calibration", "Acquisition", "Time points", "Volumes of interest", "Masses",
     "Density and its source", "Time-activity fit", "Goodness of fit", "Extrapolated part of the TIA",
     "S-values: source and version", "Uncertainty of the mean dose", "Software", "Model that drew the masks",
     "Manual edits"],
)  # fmt: skip
def test_every_field_of_the_eanm_table_is_there(page, field):
    assert field in page.text


def test_the_report_shows_what_the_study_states_and_what_it_does_not(example):
    said = Reporting(
        radiopharmaceutical="177Lu-DOTATATE", cycle=2, residual_activity_mbq=31.0, camera="Camera X", collimator="MEGP",
        reconstruction="OSEM, 4 × 8", corrections="attenuation, scatter", calibration="cylinder of 6 L",
        calibration_date="2026-01-15", responsible="Ada",
    )  # fmt: skip
    study = example.study.model_copy(update={"reporting": said})
    study._folder = example.study.folder
    fields = report_stated.stated(example.results, study)
    assert fields["Residual activity"] == "31.0 MBq, beside the administered"
    assert (fields["Cycle"], fields["Calibrated on"], fields["Responsible"]) == ("2", "2026-01-15", "Ada")
    assert fields["Matrix"].startswith("80 × 56 × 40 voxels of 5.00 × 5.00 × 6.00 mm")
    assert {name for name, text in fields.items() if not text} == {"Scan duration", "Dead time"}
    assert report_stated.missing(example.results, study).text.startswith("Not stated: scan duration, dead time.")
    rows = dict(report_stated.stated_table(example.results, study).rows)
    assert rows["Dead time"] == report_stated.MISSING
    assert "Collimator" in report_stated.missing(example.results, example.study).text.title()


def test_values_that_nobody_stated_are_marked_as_assumed_with_their_source(example):
    def rows(results, study=example.study):
        return {what: (value, source) for what, value, source in report_stated.assumed(results, study).rows}

    found = rows(example.results)
    assert found["Volume of a contour, ±"] == ("9.6 %", "Nazari et al. 2021, table 3 (at most)")
    assert found["Density, left kidney"] == ("1.06 g/cm³", "Nazari et al. 2021")
    given = {"organ_density_g_cm3": {"left_kidney": 1.05}, "contour_sd_percent": 5.0, "psf_fwhm_mm": [12, 12, 12]}
    results = example.results.model_copy(update={"options": {**example.results.options, **given}})
    stated = rows(results, example.study.model_copy(update={"calibration_sd_percent": 3.0}))
    gone = {"Density, left kidney", "Volume of a contour, ±", "Resolution, for the ± only", "Calibration, ±"}
    assert gone & stated.keys() == set()
    assert {"Density, right kidney", "Attenuation and scatter, ±"} <= stated.keys()
    assert rows(results.model_copy(update={"options": DoseOptions().model_dump(mode="json")}))["Repair half-life"]


def test_hashes_of_inputs_and_all_options_are_there(page, example):
    for value in ("ab" * 32, "cd" * 32, "gtm", "doselabel.results/1"):
        assert value in page.text


def test_each_organ_has_its_overlay_and_its_charts(html, example):
    for name in ("left kidney", "right kidney", "liver"):
        assert f'alt="Isodose lines on three planes through the {name}"' in html
        assert f'alt="Time-activity curve, residuals and dose-volume histogram of the {name}"' in html
    for time_h in example.results.time_h:
        assert f'alt="SPECT and CT overlays at {time_h:g} h"' in html


def test_the_truth_of_a_phantom_stands_beside_the_numbers(page, example):
    assert "Against the phantom's truth" in page.text
    differences = report_tables.truth_differences(example.results, example.truth["organs"])
    assert [round(d, 2) for _, d, _ in differences] == [-2.91] * 3
    without = build(example.results, example.study, example.labels, example.dose)
    assert "Against the phantom's truth" not in sections(without)


def test_marrow_is_shown_as_an_estimate_with_what_it_assumes(example):
    assert report_tables.marrow(example.results) == []
    found = MarrowDose(
        method="blood", self_gy=0.031, photons_gy=0.012, dose_gy=0.043, dose_sd_gy=0.010, effective_half_life_h=23.1,
        said=["marrow over blood 1"],
    )  # fmt: skip
    results = example.results.model_copy(update={"marrow": [found]})
    heading, note, table = report_tables.marrow(results)
    assert (heading.text, note.text.split(":")[0]) == ("Bone marrow, estimated", "An estimate")
    assert table.rows[0][:4] == ["blood samples", "0.0310", "0.0120", "0.043 ± 0.010"]
    assert table.rows[0][-1] == "marrow over blood 1"
    page = to_html(build(results, example.study, example.labels, example.dose))
    assert "Bone marrow, estimated" in page


def test_a_truth_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "truth.json").write_text("{", "utf-8")
    with pytest.raises(DoseError, match="can't be read"):
        read_truth(tmp_path / "truth.json")
    (tmp_path / "other.json").write_text(json.dumps({"patients": 1}), "utf-8")
    with pytest.raises(DoseError, match="has no 'organs'"):
        read_truth(tmp_path / "other.json")


def test_a_report_can_be_made_without_masks_or_extras(example, tmp_path):
    kidney = example.results.organs["left_kidney"].model_copy(
        update={"bed_gy": None, "eqd2_gy": None, "recovery_coefficient": []}
    )
    bare = example.results.model_copy(
        update={"organs": {"left_kidney": kidney}, "registration": [], "provenance": {}, "options": {}}
    )
    files = write_report(bare, example.study, {}, example.dose, tmp_path)
    assert "Left kidney" in Page(files.html.read_text("utf-8")).text


def test_progress_is_told_and_a_cancel_leaves_no_report(example, tmp_path):
    def stop(stage: str, fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        write_report(example.results, example.study, example.labels, example.dose, tmp_path, progress=stop)
    assert list(tmp_path.iterdir()) == []


# ---- paper


def test_the_pdf_has_a4_pages(written):
    content = written.pdf.read_bytes()
    assert content.startswith(b"%PDF")
    boxes = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", content)
    assert len(boxes) >= 5
    for width, height in boxes:
        assert float(width) == pytest.approx(PAGE_MM[0] / 25.4 * 72, abs=0.5)
        assert float(height) == pytest.approx(PAGE_MM[1] / 25.4 * 72, abs=0.5)


LOWEST_INK = """
import sys, numpy as np
from PySide6.QtCore import QSize
from PySide6.QtGui import QGuiApplication, QImage
from PySide6.QtPdf import QPdfDocument
app, pdf = QGuiApplication(["pages", "-platform", "offscreen"]), QPdfDocument()
pdf.load(sys.argv[1])
for number in range(pdf.pageCount()):
    page = pdf.render(number, QSize(210, 297)).convertToFormat(QImage.Format.Format_RGBA8888)
    pixels = np.frombuffer(page.constBits(), np.uint8).reshape(297, -1, 4)[:282]
    print(np.flatnonzero(((pixels[..., :3] < 200).any(-1) & (pixels[..., 3] > 0)).any(1)).max())
"""
"""How far down (mm, above the rule at the foot) each page is printed; in a process of its own, without a screen."""


def test_no_page_is_half_empty(written):
    pytest.importorskip("PySide6.QtPdf")
    done = subprocess.run(
        [sys.executable, "-c", LOWEST_INK, str(written.pdf)], capture_output=True, encoding="utf-8", check=True
    )
    lowest_mm = [int(line) for line in done.stdout.split()]
    assert len(lowest_mm) > 3
    assert min(lowest_mm[:-1]) > 185, lowest_mm


def test_lines_are_no_wider_than_asked_and_lose_nothing():
    text = "Left kidney 2.32 ± 0.30 Gy, extrapolated 35.8 % " * 8 + "ab" * 64
    lines = _wrap(text.strip(), 60.0, 8.0)
    assert max(_width_mm(line, 8.0, False) for line in lines) <= 60.0
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_columns_fill_the_page_and_numbers_are_never_broken():
    table = Table([Column("Field", align="left"), Column("Dose", "Gy")], [["a long text " * 30, "2.32 ± 0.30"]])
    left, right = _column_widths(table)
    assert left + right == pytest.approx(178.0)
    assert len(_wrap("2.32 ± 0.30", right - 2.4, 7.3)) == 1


def test_a_table_longer_than_a_page_goes_on_with_its_head(tmp_path):
    table = Table([Column("n"), Column("what", align="left")], [[str(i), "row"] for i in range(120)])
    to_pdf(Document("t", "s", "p", [Heading("Rows"), table]), tmp_path / "long.pdf")
    assert (tmp_path / "long.pdf").read_bytes().count(b"/Type /Page ") == 3


@pytest.mark.parametrize("rows", [4, 15, 60])
def test_a_title_stays_with_its_table_wherever_on_the_page_it_comes(rows):
    table = Table([Column("Input", align="left"), Column("SHA-256")], [[str(i), "0" * 64] for i in range(rows)], "Why.")
    for down_mm in np.arange(TOP_MM, BOTTOM_MM, 4.0):
        layout = _Layout()
        layout.put(lambda page: None)
        layout.y = down_mm
        part = [Heading("Provenance"), table]
        layout.begin(part)
        layout.add(part[0])
        there = len(layout.pages)
        drawn = len(layout.pages[-1])
        layout.add(table)
        assert len(layout.pages[there - 1]) > drawn, down_mm  # the table's first row is on the title's page


def test_the_differential_histogram_is_the_slope_of_the_cumulative_one(example):
    dose = np.linspace(0, 4, 400)
    middle, density = differential(dose, 100 * (1 - dose / 4))
    assert density == pytest.approx(25.0)
    assert np.sum(density) * (middle[1] - middle[0]) == pytest.approx(100.0)


def test_no_title_or_axis_label_of_a_figure_is_cut(example):
    document = build(example.results, example.study, example.labels, example.dose, truth=example.truth)
    drawn = [block for block in document.blocks if isinstance(block, Figure)]
    assert len(drawn) >= 8
    for block in drawn:
        with matplotlib.rc_context(STYLE):
            canvas = new_figure(block.width_mm, block.height_mm)
            block.draw(canvas)
            canvas.draw_without_rendering()
            for axes in canvas.axes:
                for word in (axes.xaxis.label, axes.yaxis.label, axes.title, axes._left_title):
                    at = word.get_window_extent().padded(-1)
                    assert not word.get_text() or canvas.bbox.fully_contains(at.x0, at.y0), (block.alt, word)
                    assert not word.get_text() or canvas.bbox.fully_contains(at.x1, at.y1), (block.alt, word)


def test_the_parts_come_in_the_order_a_reader_wants(example):
    titles = sections(build(example.results, example.study, example.labels, example.dose, truth=example.truth))
    assert titles == ["Absorbed dose", "Against the phantom's truth", "Left kidney", "Right kidney", "Liver",
                      "SPECT and CT together", "How it was done", "Provenance"]  # fmt: skip


def test_the_version_of_the_masks_is_found_by_its_hash_and_its_author_named(example):
    store = example.study.folder / "labels" / "versions" / "ct"
    store.mkdir(parents=True)
    version = LabelVersion(
        image_id="P-001__ct", version=2, created="2026-03-08T10:00:00Z", author="Ada", comment="pelvis out",
        started_from="ef" * 32, sha256="12" * 32,
    )  # fmt: skip
    (store / "v0002.json").write_text(version.model_dump_json(), "utf-8")
    (store / "v0001.json").write_text("damaged", "utf-8")
    used = dict(example.results.provenance["inputs"], **{"labels of ct.nii.gz": "12" * 32})
    results = example.results.model_copy(update={"provenance": {**example.results.provenance, "inputs": used}})
    table = report_method.history(results, example.study)
    assert table is not None
    assert table.rows[0][:4] == ["ct.nii.gz", "2", "corrected by hand", "Ada"]
    fields = dict(report_method.protocol(results, example.study).rows)
    assert fields["Manual edits"] == "masks of ct.nii.gz: version 2 by Ada"
    assert fields["Model that drew the masks"] == "ef" * 32
    assert report_method.history(example.results, example.study) is None


def test_half_lives_known_before_stand_with_their_sources_and_what_the_scans_alone_said(example):
    organ = example.results.organs["left_kidney"]
    population, liver = HalfLife(half_life_h=50.0, sd_h=10.0), HalfLife(half_life_h=80.0, sd_h=6.0)
    prior = HalfLifePrior(
        half_life_h=54.0, sd_h=8.0, own=HalfLife(half_life_h=71.0, sd_h=15.0),
        sources={"population": population, "liver, this cycle": liver},
    )  # fmt: skip
    weighed = organ.model_copy(update={"tac": organ.tac.model_copy(update={"half_life_prior": prior})})
    options = {
        **example.results.options, "half_life_prior": "patient", "half_life_shared": 0.5,
        "population_half_life_h": {"left_kidney": 50.0}, "population_half_life_sd_h": {"left_kidney": 10.0},
    }  # fmt: skip
    results = example.results.model_copy(update={"organs": {"left_kidney": weighed}, "options": options})
    rest = (example.study, example.labels, example.dose)
    table = report_method.half_lives(results)
    assert table is not None
    together = f"{organ.effective_half_life_h:.1f}"
    known = "population 50 ± 10, liver, this cycle 80.0 ± 6.0"
    assert table.rows == [["Left kidney", "71 ± 15", "54.0 ± 8.0", known, together]]
    assert "50.0 %" in table.caption
    fields = dict(report_method.protocol(results, example.study).rows)
    assert fields["Half-lives taken as known"] == "Left kidney 50 ± 10 h (as stated)"
    assert any(known in str(getattr(block, "rows", "")) for block in build(results, *rest).blocks)
    assert report_method.half_lives(example.results) is None


def test_a_map_on_the_spects_grid_is_shown_where_the_spect_was_moved(example):
    on_spect = {**example.results.provenance, "dose_map": {"grid": "spect"}}
    results = example.results.model_copy(update={"provenance": on_spect, "options": {"reference": 1}})
    name, dose = in_ct_frame(results, example.study, example.dose)
    assert name == "ct_tp2.nii.gz"
    moved = np.array(dose.geometry.origin_mm) - np.array(example.dose.geometry.origin_mm)
    assert moved == pytest.approx([0.0, 0.0, -12.0])
    assert in_ct_frame(example.results, example.study, example.dose) == ("ct.nii.gz", example.dose)
