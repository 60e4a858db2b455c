"""The dosimetry's own name for `doselabel.nuclides`, whose half-lives a study's check needs as well."""

from doselabel.nuclides import ICRP_107, KEV_IN_JOULE, NUCLIDES, SECONDS_PER_HOUR, Nuclide, nuclide

__all__ = ["ICRP_107", "KEV_IN_JOULE", "NUCLIDES", "SECONDS_PER_HOUR", "Nuclide", "nuclide"]
