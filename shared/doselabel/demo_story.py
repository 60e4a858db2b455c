"""The page that `make demo` ends with: case, contours, correction, training, dose. Knows a folder's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.image
from matplotlib.figure import FigureBase

from doselabel.io.document import Block, Column, Document, Figure, Heading, Note, Table, to_html
from doselabel.io.numerals import percent
from doselabel.labels import title
from doselabel.wire import DoseResults

WIDTH_MM = 175.0


def write_story(out: Path, truth: dict[str, Any]) -> Path:
    """Write ``story.html`` from ``story.json``, the pictures and ``results.json`` in a demo's folder.

    Parameters
    ----------
    out : Path
    truth : dict
        Organ → what the phantom says of it (``mean_dose_gy``).
    """
    story = json.loads((out / "story.json").read_text("utf-8"))
    results = DoseResults.model_validate_json((out / "results.json").read_text("utf-8"))
    blocks = [
        *_chapter("The case", f"{story['case']}: {story['reason']}.", out / "1-case.png"),
        *_chapter("What the network drew", "", out / "2-model.png"),
        _contours(story),
        *_chapter(
            "What was corrected",
            f"The slices that differed most were redrawn, {story['corrected']['voxels']} voxels in all, and submitted "
            f"as version {story['corrected']['version']}.",
            out / "3-corrected.png",
        ),
        *_chapter("What training changed", _training(story["training"]), out / "4-learned.png"),
        *_chapter(
            "The dose beside the truth",
            "The phantom's truth was computed by another calculation. ± is one standard uncertainty.",
            out / "napari.png",
        ),
        _doses(results, truth),
    ]
    page = Document("The story of a demo", results.patient_id, "Research use only: not a medical device.", blocks)
    path = out / "story.html"
    path.write_text(to_html(page), "utf-8")
    return path


def _chapter(heading: str, text: str, picture: Path) -> list[Block]:
    pixels = matplotlib.image.imread(picture)
    height_mm = WIDTH_MM * pixels.shape[0] / pixels.shape[1]

    def draw(figure: FigureBase) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(pixels, interpolation="antialiased")
        axes.set_axis_off()

    shown = Figure(draw, WIDTH_MM, height_mm, alt=f"{heading}: the window", vector=False)
    return [Heading(heading), *([Note(text)] if text else []), shown]


def _contours(story: dict[str, Any]) -> Table:
    rows = [
        (
            title(name),
            f"{found['volume_ml']:.0f}",
            f"{found['score']:.2f}",
            f"{found['dice']:.3f}",
            f"{story['corrected']['dice'][name]:.3f}",
            "; ".join(found["flags"]) or "–",
        )
        for name, found in story["model"].items()
    ]
    columns = (
        Column("Organ", align="left"),
        Column("Volume", "mL"),
        Column("Score"),
        Column("Dice with the truth"),
        Column("after correction"),
        Column("Flags", align="left"),
    )
    return Table(columns, rows)


def _training(training: dict[str, Any]) -> str:
    loss = training["loss"]
    fell = f"; the loss went from {loss[0]:.2f} to {loss[-1]:.2f}" if len(loss) > 1 else ""
    cases = f"{training['cases']} corrected case{'s' * (training['cases'] != 1)}"
    return f"{training['steps']} steps on {cases}{fell}. {training['reason']}"


def _doses(results: DoseResults, truth: dict[str, Any]) -> Table:
    rows = []
    for name, organ in results.organs.items():
        true_gy = truth[name]["mean_dose_gy"]
        rows.append(
            (
                title(name),
                f"{organ.mean_dose_gy:.2f} ± {organ.dose_sd_gy:.2f}",
                f"{true_gy:.2f}",
                percent(100 * (organ.mean_dose_gy / true_gy - 1), signed=True),
            )
        )
    return Table(
        (Column("Organ", align="left"), Column("Dose", "Gy"), Column("Truth", "Gy"), Column("Difference")), rows
    )
