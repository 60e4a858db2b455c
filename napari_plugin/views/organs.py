"""The organs with their live numbers: always in sight. A click chooses which one is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import Signal

from doselabel.labels import ORGANS
from doselabel.wire import OrganSegmentation
from napari_plugin.session.measure import OrganMeasure
from napari_plugin.views.kit import Table, swatch

COLUMNS = ("Organ", "Volume\nmL", "Mass\ng", "CT\nHU", "SPECT\nkBq/mL")


class OrganTable(Table):
    """Volume, mass, CT number and activity of each organ."""

    organ_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__(COLUMNS)
        self.set_rows([[organ.title, *["–"] * 4] for organ in ORGANS])
        for i, organ in enumerate(ORGANS):
            self.item(i, 0).setIcon(swatch(organ.color))
        self.setToolTip(
            "Click an organ to edit it. Mass = volume × density of the label table; CT and SPECT are means over "
            "the organ, SPECT at the time point on screen."
        )
        self.itemSelectionChanged.connect(self._chosen)

    def set_measures(self, measures: Sequence[OrganMeasure]) -> None:
        """Show each organ's numbers; "–" where there are none."""
        found = {measure.value: measure for measure in measures}
        for i, organ in enumerate(ORGANS):
            for j, text in enumerate(_cells(found.get(organ.index)), start=1):
                self.set_cell(i, j, text)

    def set_flags(self, said: Mapping[str, OrganSegmentation]) -> None:
        """Mark the organs that the network has doubts of; the mouse at rest says which."""
        for i, organ in enumerate(ORGANS):
            found = said.get(organ.name)
            flags = [] if found is None else [f"⚠ {flag}" for flag in found.flags]
            if found is not None and found.doubts:
                flags.append(f"{len(found.doubts)} slices to look at: keys , and .")
            if found is not None and found.dose_doubt_percent is not None:
                flags.append(f"{found.dose_doubt_percent:.0f} % of its uptake hangs on doubtful voxels")
            self.item(i, 0).setText(f"{organ.title} ⚠" if found is not None and found.flags else organ.title)
            self.item(i, 0).setToolTip("\n".join(flags))

    def numbers(self, name: str) -> dict[str, float]:
        """What the table shows of an organ: unit → number."""
        i = [organ.name for organ in ORGANS].index(name)
        units = [column.split("\n")[-1] for column in COLUMNS[1:]]
        texts = [self.item(i, j).text() for j in range(1, len(COLUMNS))]
        return {unit: float(text) for unit, text in zip(units, texts, strict=True) if text != "–"}

    def set_organ(self, value: int) -> None:
        """Mark the organ that is edited."""
        self.blockSignals(True)
        rows = [i for i, organ in enumerate(ORGANS) if organ.index == value]
        if rows:
            self.selectRow(rows[0])
        else:
            self.clearSelection()
        self.blockSignals(False)

    def _chosen(self) -> None:
        for i in {index.row() for index in self.selectedIndexes()}:
            self.organ_chosen.emit(ORGANS[i].index)


def _cells(measure: OrganMeasure | None) -> list[str]:
    if measure is None:
        return ["–"] * 4
    return [
        f"{measure.volume_ml:.1f}",
        "–" if measure.mass_g is None else f"{measure.mass_g:.1f}",
        f"{measure.mean_hu:.0f}",
        "–" if measure.mean_bq_ml is None else f"{measure.mean_bq_ml / 1000:.4g}",
    ]
