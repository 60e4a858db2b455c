"""Numbers as a reader of a report wants them: significant digits, uncertainties, thousands. Knows no quantities."""

from __future__ import annotations

import math

THIN_SPACE = "\u202f"
NOTHING = "–"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, never in powers of ten between 0.0001 and a billion.

    >>> significant(0.012345), significant(7593.75), significant(1.0), significant(None)
    ('0.0123', '7594', '1.00', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    rounded = round(value, digits - 1 - exponent)
    exponent = math.floor(math.log10(abs(rounded)))
    if exponent < -4 or exponent > 8:
        return f"{value:.{digits - 1}e}"
    return fixed(value, max(0, digits - 1 - exponent))


def fixed(value: float | None, decimals: int) -> str:
    """A number with so many decimals, its thousands set apart from 10 000 on, with a true minus sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{abs(value):,.{decimals}f}" if abs(value) >= 10_000 else f"{abs(value):.{decimals}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return ("−" if negative else "") + text.replace(",", THIN_SPACE)


def plus_minus(value: float | None, sd: float | None) -> str:
    """Value ± standard deviation, the latter to two significant digits, the value to the same place (GUM 7.2.6).

    >>> plus_minus(2.14159, 0.2781), plus_minus(7593.75, 421.0)
    ('2.14 ± 0.28', '7590 ± 420')
    """
    if value is None or sd is None or not math.isfinite(sd) or sd <= 0:
        return significant(value)
    place = 1 - math.floor(math.log10(sd))
    place = 1 - math.floor(math.log10(round(sd, place)))
    decimals = max(0, place)
    return f"{fixed(round(value, place), decimals)} ± {fixed(round(sd, place), decimals)}"


def percent(value: float | None, decimals: int = 1, *, signed: bool = False) -> str:
    """A percentage already multiplied by 100, with its sign when asked.

    >>> percent(-2.345, signed=True), percent(12.0)
    ('−2.3 %', '12.0 %')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    plus = "+" if signed and float(f"{value:.{decimals}f}") > 0 else ""
    return f"{plus}{fixed(value, decimals)} %"
