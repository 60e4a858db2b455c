"""The radionuclides of molecular radiotherapy: half-lives and energies per decay, each with its source.

Knows numbers of the decay, nothing of tissue, voxels or patients.

To add a nuclide: add a `Nuclide` to `NUCLIDES` below with the source of every number, put its radial dose-point kernel
in ``dosimetry/physics/data/`` and list that file in ``index.json`` there (``PROVENANCE.md`` says how ours were made).
The kernel is refused unless the energy it deposits equals the energy given here. A `Nuclide` made by the caller
is accepted wherever a name is; it then serves everything that needs no dose-point kernel.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from doselabel.errors import DoseError

KEV_IN_JOULE = 1.602176634e-16
"""One keV in joule (exact, SI 2019)."""

SECONDS_PER_HOUR = 3600.0

ICRP_107 = "ICRP Publication 107 (2008), Nuclear decay data for dosimetric calculations"


@dataclass(frozen=True)
class Nuclide:
    """Decay data of one radionuclide.

    Parameters
    ----------
    name : str
        Element and mass number as in ``"Lu-177"``.
    half_life_h : float
        Physical half-life in hours.
    beta_kev, mono_kev, photon_kev : float
        Mean energy per decay in keV of β particles, of conversion and Auger electrons, and of γ and X rays.
    sources : dict of str to str
        Where each of the numbers above was taken from.
    """

    name: str
    half_life_h: float
    beta_kev: float
    mono_kev: float
    photon_kev: float
    sources: dict[str, str] = field(compare=False)

    def __post_init__(self) -> None:
        energies = (self.beta_kev, self.mono_kev, self.photon_kev)
        if not (math.isfinite(self.half_life_h) and self.half_life_h > 0):
            raise DoseError(f"{self.name}: half_life_h is {self.half_life_h}, expected a positive number of hours.")
        if not all(math.isfinite(e) and e >= 0 for e in energies):
            raise DoseError(f"{self.name}: energies per decay are {energies} keV, expected finite and >= 0.")

    @property
    def decay_constant_per_h(self) -> float:
        """Physical decay constant ln 2 / T½ in 1/h."""
        return math.log(2.0) / self.half_life_h

    @property
    def electron_kev(self) -> float:
        """Energy of all electrons (β, conversion, Auger) per decay in keV."""
        return self.beta_kev + self.mono_kev

    @property
    def local_constant_g_gy_per_gbq_h(self) -> float:
        """Dose constant of complete local absorption of the electrons, g·Gy/(GBq·h).

        Energy per decay × decays in 1 GBq·h / 1 g (MIRD Pamphlet 21, absorbed fraction 1): 85.32 for Lu-177.
        """
        return self.electron_kev * KEV_IN_JOULE * 1e9 * SECONDS_PER_HOUR / 1e-3


def _icrp107(name: str, half_life_h: float, beta_kev: float, mono_kev: float, photon_kev: float) -> Nuclide:
    fields = ("half_life_h", "beta_kev", "mono_kev", "photon_kev")
    return Nuclide(name, half_life_h, beta_kev, mono_kev, photon_kev, dict.fromkeys(fields, ICRP_107))


# T½(Lu-177) is 6.6443 d in ENSDF; ICRP-107's 6.647 d is kept so that half-life and spectrum agree (0.04 %).
NUCLIDES: tuple[Nuclide, ...] = (
    _icrp107("Lu-177", 159.528, beta_kev=133.270, mono_kev=14.653, photon_kev=35.098),
    _icrp107("Y-90", 64.10, beta_kev=932.905, mono_kev=0.201, photon_kev=0.001),
    _icrp107("I-131", 192.4968, beta_kev=181.868, mono_kev=9.980, photon_kev=382.758),
)

_ELEMENT_FIRST = re.compile(r"([A-Za-z]{1,2})[-_ ]?(\d{1,3})")
_MASS_FIRST = re.compile(r"(\d{1,3})[-_ ]?([A-Za-z]{1,2})")


def nuclide_name(text: str) -> str:
    """A nuclide's name as this package writes it (``"177lu"``: ``"Lu-177"``), known or not; other text as it is."""
    text = text.strip()
    if match := _ELEMENT_FIRST.fullmatch(text):
        return f"{match[1].capitalize()}-{int(match[2])}"
    if match := _MASS_FIRST.fullmatch(text):
        return f"{match[2].capitalize()}-{int(match[1])}"
    return text


def nuclide(name: str | Nuclide) -> Nuclide:
    """Look a nuclide up by any usual spelling: ``"Lu-177"``, ``"177Lu"``, ``"lu177"``, ``"LU_177"``.

    Raises
    ------
    DoseError
        If the name is not one of `NUCLIDES`.

    Examples
    --------
    >>> nuclide("177Lu").half_life_h
    159.528
    """
    if isinstance(name, Nuclide):
        return name
    wanted = nuclide_name(str(name))
    for known in NUCLIDES:
        if known.name == wanted:
            return known
    names = ", ".join(known.name for known in NUCLIDES)
    raise DoseError(
        f"Nuclide {name!r} is not known; expected one of {names}.",
        "Write it as 'Lu-177' or '177Lu'; doselabel.nuclides says how to add another.",
    )
