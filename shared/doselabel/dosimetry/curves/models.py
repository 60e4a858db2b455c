"""Curves and their least-squares fits: knows times, activities and decay rates, not studies, guards or warnings.

A *curve* is what every time-activity model ends as: straight lines through knots (none for the exponential
models), then a sum of exponentials. Whatever a dose needs of it is closed form: value, area, tail, and the
Lea-Catcheside factor in `doselabel.dosimetry.dose.bed`.

The exponential models are parameterised so that no effective rate can fall below the physical one:
``lambda1 = lambda_phys + b`` with ``b >= 0`` and ``lambda2 = lambda1 + d`` with ``d > 0``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeResult, least_squares

Array = NDArray[np.float64]
Bounds = tuple[list[float], list[float]]

PARAMETER_NAMES = {
    "mono": ("amplitude_mbq", "lambda1_per_h"),
    "uptake": ("amplitude_mbq", "lambda1_per_h", "lambda2_per_h"),
    "bi": ("amplitude1_mbq", "lambda1_per_h", "amplitude2_mbq", "lambda2_per_h"),
}

FASTEST_IN_FIRST_TIMES = 20.0
"""Rates above this over the first sampled time have decayed to e^-20 there: no datum can tell them apart."""

CLOSEST_RATES = 0.01
"""``lambda2 - lambda1`` is at least this fraction of the physical rate; closer, the two terms are one."""

STARTS = {"mono": 2, "uptake": 2, "bi": 6}
"""Local searches, begun at the best well-separated cells of the rate grid. Of 150 random patients on four schedules the
first cell alone leads `mono` and `uptake` to the TIA that six lead to, within 3e-9; `bi` has more valleys."""


@dataclass(frozen=True)
class Curve:
    """Activity over time: straight lines through the knots, then a sum of exponentials.

    Parameters
    ----------
    amplitudes_mbq, rates_per_h : tuple of float
        ``A(t) = sum a_i exp(-l_i (t - t0))`` for t >= t0, where t0 is the last knot, or 0 without knots.
    knots_h, knots_mbq : tuple of float
        Times from 0 on and the activities there; empty for the exponential models.
    """

    amplitudes_mbq: tuple[float, ...]
    rates_per_h: tuple[float, ...]
    knots_h: tuple[float, ...] = ()
    knots_mbq: tuple[float, ...] = ()

    @property
    def tail_start_h(self) -> float:
        """Time from which the exponentials hold, hours."""
        return self.knots_h[-1] if self.knots_h else 0.0

    def activity_mbq(self, times_h: ArrayLike) -> Array:
        """Activity at the given times (h), same shape, MBq."""
        times = np.asarray(times_h, dtype=float)
        since = np.maximum(times - self.tail_start_h, 0.0)
        tail = sum((a * np.exp(-r * since) for a, r in self._terms()), np.zeros_like(times))
        if not self.knots_h:
            return tail
        return np.where(times < self.tail_start_h, np.interp(times, self.knots_h, self.knots_mbq), tail)

    def integral_mbq_h(self, from_h: float = 0.0) -> float:
        """Area under the curve from a time (h) to infinity, MBq·h."""
        since = max(from_h - self.tail_start_h, 0.0)
        area = sum(a / r * np.exp(-r * since) for a, r in self._terms())
        for (t0, a0), (t1, a1) in pairwise(zip(self.knots_h, self.knots_mbq, strict=True)):
            start = min(max(from_h, t0), t1)
            at_start = a0 + (a1 - a0) * (start - t0) / (t1 - t0)
            area += (at_start + a1) / 2.0 * (t1 - start)
        return float(area)

    def _terms(self) -> Iterator[tuple[float, float]]:
        return zip(self.amplitudes_mbq, self.rates_per_h, strict=True)


@dataclass(frozen=True, eq=False)
class Solution:
    """The least-squares optimum of an exponential model.

    ``values`` (p,) follow `PARAMETER_NAMES`. The search has its own dimensionless coordinates z (p,), in which
    a step of 1 is a factor of about e: ``jacobian`` (n, p) is dA(t_i)/dz_j in MBq, ``chain`` (p, p) is
    d(values)/dz, and ``free`` (p,) is False for a coordinate that stopped at a bound beyond which the data say
    nothing. The physical floor of a rate is not such a bound: its one-sided uncertainty is not to be hidden.
    """

    values: Array
    jacobian: Array
    chain: Array
    free: NDArray[np.bool_]


def curve_of(model: str, values: ArrayLike) -> Curve:
    """The curve of an exponential model from its parameters in the order of `PARAMETER_NAMES`."""
    v = [float(x) for x in np.asarray(values, dtype=float)]
    if model == "mono":
        return Curve((v[0],), (v[1],))
    if model == "uptake":
        return Curve((v[0], -v[0]), (v[1], v[2]))
    return Curve((v[0], v[2]), (v[1], v[3]))


def tia_gradient(model: str, values: ArrayLike) -> Array:
    """Derivative of the time-integrated activity by the parameters, in the order of `PARAMETER_NAMES`."""
    v = np.asarray(values, dtype=float)
    if model == "mono":
        return np.array([1 / v[1], -v[0] / v[1] ** 2])
    if model == "uptake":
        return np.array([1 / v[1] - 1 / v[2], -v[0] / v[1] ** 2, v[0] / v[2] ** 2])
    return np.array([1 / v[1], -v[0] / v[1] ** 2, 1 / v[3], -v[2] / v[3] ** 2])


def jacobian_of(model: str, values: ArrayLike, times_h: Array) -> Array:
    """Derivative of the activities (n,) by the parameters (p,) of an exponential model, (n, p)."""
    v, t = np.asarray(values, dtype=float), times_h
    e1 = np.exp(-v[1] * t)
    if model == "mono":
        return np.stack([e1, -v[0] * t * e1], axis=1)
    if model == "uptake":
        e2 = np.exp(-v[2] * t)
        return np.stack([e1 - e2, -v[0] * t * e1, v[0] * t * e2], axis=1)
    e2 = np.exp(-v[3] * t)
    return np.stack([e1, -v[0] * t * e1, e2, -v[2] * t * e2], axis=1)


def rate_limits(times_h: Array, physical_per_h: float) -> tuple[float, float]:
    """Least difference of two rates, and largest rate or difference, that points at these times can show, 1/h."""
    fastest = FASTEST_IN_FIRST_TIMES / float(times_h[times_h > 0][0])
    return CLOSEST_RATES * physical_per_h, max(fastest, 4 * physical_per_h)


def solve(model: str, times_h: Array, activity_mbq: Array, root_weights: Array, physical_per_h: float) -> Solution:
    """Weighted least squares of an exponential model: every rate cell of a grid, then the best ones refined.

    Parameters
    ----------
    model : {"mono", "uptake", "bi"}
    times_h, activity_mbq, root_weights : ndarray, shape (n,)
        ``root_weights * (curve - activity)`` is what is squared and summed.
    physical_per_h : float
        Physical decay rate, the floor of every effective rate.

    Notes
    -----
    The amplitudes enter linearly, so a grid over the rates alone (variable projection) sees every valley of
    the cost: the starts are deterministic and a poor one cannot decide the answer.
    """
    scale = float(activity_mbq.max())
    y, w = activity_mbq / scale, root_weights / root_weights.max()
    closest, fastest = rate_limits(times_h, physical_per_h)
    bounds = _bounds(model, fastest, closest)

    def residuals(x: Array) -> Array:
        return w * (curve_of(model, _values(model, x, physical_per_h)).activity_mbq(times_h) - y)

    def jacobian(x: Array) -> Array:
        natural = jacobian_of(model, _values(model, x, physical_per_h), times_h)
        return w[:, None] * (natural @ _chain(model, x))

    def refined(start: Array, tolerance: float, evaluations: int) -> OptimizeResult:
        return least_squares(
            residuals,
            np.clip(start, bounds[0], bounds[1]),
            jacobian,
            bounds=bounds,
            x_scale="jac",
            xtol=tolerance,
            ftol=tolerance,
            gtol=tolerance,
            max_nfev=evaluations,
        )

    starts = _starts(model, times_h, y, w, physical_per_h, fastest, closest)
    valley = min((refined(start, 1e-8, 60) for start in starts), key=lambda found: found.cost)
    best = refined(valley.x, 1e-14, 200)
    x = _polished(best.x, residuals, jacobian, bounds)
    # The reflective search stays strictly inside; where the floor itself is as good, the answer is the floor.
    floored = x.copy()
    floored[1] = 0.0
    if x[1] < 1e-6 * physical_per_h and 0.5 * float(np.sum(residuals(floored) ** 2)) <= best.cost + 1e-15:
        x = floored
    values, chain = _values(model, x, physical_per_h), _chain(model, x)
    size = [x[0], values[1]]
    if model == "bi":
        size.append(max(x[0], x[2]))
    if model != "mono":
        size.append(1.0)
    chain = chain * np.asarray(size)
    in_mbq = np.array([scale if name.endswith("_mbq") else 1.0 for name in PARAMETER_NAMES[model]])
    values, chain = values * in_mbq, chain * in_mbq[:, None]
    return Solution(values, jacobian_of(model, values, times_h) @ chain, chain, _free(model, x, bounds))


def _polished(
    x: Array, residuals: Callable[[Array], Array], jacobian: Callable[[Array], Array], bounds: Bounds
) -> Array:
    """A few Gauss-Newton steps, judged by the gradient: the cost is flat to rounding before the parameters are."""

    def gradient(at: Array) -> float:
        j = jacobian(at)
        return float(np.linalg.norm(j.T @ residuals(at) / np.maximum(np.linalg.norm(j, axis=0), 1e-300)))

    for _ in range(4):
        tried = x - np.linalg.lstsq(jacobian(x), residuals(x), rcond=1e-10)[0]
        inside = np.all(tried > bounds[0]) and np.all(tried < bounds[1])
        if not inside or gradient(tried) >= gradient(x):
            break
        x = tried
    return x


# Inside `solve`, x is (amplitude, b) for mono, (amplitude, b, ln d) for uptake, and (a1, b, a0, ln d) for bi
# with a0 = A(0) = amplitude1 + amplitude2: a1, a0 >= 0 then keep the whole curve positive.


def _values(model: str, x: Array, physical: float) -> Array:
    rate1 = physical + x[1]
    if model == "mono":
        return np.array([x[0], rate1])
    if model == "uptake":
        return np.array([x[0], rate1, rate1 + np.exp(x[2])])
    return np.array([x[0], rate1, x[2] - x[0], rate1 + np.exp(x[3])])


def _chain(model: str, x: Array) -> Array:
    """Derivative of `_values` by x, (p, p)."""
    if model == "mono":
        return np.eye(2)
    d = np.exp(x[-1])
    if model == "uptake":
        return np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, d]])
    return np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 1, 0], [0, 1, 0, d]])


def _bounds(model: str, fastest: float, closest: float) -> Bounds:
    log_closest, log_fastest = float(np.log(closest)), float(np.log(fastest))
    if model == "mono":
        return [0.0, 0.0], [np.inf, fastest]
    if model == "uptake":
        return [0.0, 0.0, log_closest], [np.inf, fastest, log_fastest]
    return [0.0, 0.0, 0.0, log_closest], [np.inf, fastest, np.inf, log_fastest]


def _free(model: str, x: Array, bounds: Bounds) -> NDArray[np.bool_]:
    free = np.ones(len(x), dtype=bool)
    if model != "mono":
        low, high = bounds[0][-1], bounds[1][-1]
        free[-1] = low + 1e-3 < x[-1] < high - 1e-3
    if model == "bi":
        free[0], free[2] = x[0] > 1e-9 * x[2], x[2] > 1e-9 * x[0]
    return free


def _starts(
    model: str, times: Array, y: Array, w: Array, physical: float, fastest: float, closest: float
) -> list[Array]:
    """The best well-separated cells of the rate grid, each with its best amplitudes."""
    excess = np.concatenate([[0.0], np.geomspace(0.02 * physical, fastest / 4, 24)])
    if model == "mono":
        cells = [(b, np.nan) for b in excess]
    else:
        cells = [(b, d) for b in excess for d in np.geomspace(2 * closest, fastest / 2, 24)]
    b, d = np.array(cells).T
    e1 = np.exp(-(physical + b)[:, None] * times)
    basis = [e1]
    if model != "mono":
        e2 = np.exp(-(physical + b + d)[:, None] * times)
        basis = [e1 - e2] if model == "uptake" else [e1 - e2, e2]
    amplitudes, norms = _amplitudes([w * part for part in basis], w * y)
    coordinates = [amplitudes[0], b, *amplitudes[1:], *([] if model == "mono" else [np.log(d)])]
    ranked = list(zip(norms, np.stack(coordinates, axis=1), strict=True))
    ranked.sort(key=lambda item: item[0])
    chosen: list[Array] = []
    for _, x in ranked:
        rates = np.log(np.maximum(_rates(model, x, physical), 1e-12))
        if all(np.abs(rates - np.log(_rates(model, c, physical))).max() > 0.7 for c in chosen):
            chosen.append(x)
        if len(chosen) == STARTS[model]:
            break
    return chosen


def _amplitudes(basis: Sequence[Array], y: Array) -> tuple[list[Array], Array]:
    """Non-negative least squares by one or two columns (cells, n) in every cell: amplitudes, and what is left over."""

    def alone(column: Array) -> Array:
        power = np.sum(column**2, axis=1)
        return np.maximum(column @ y, 0) / np.where(power > 0, power, np.inf)

    def left(*amplitudes: Array) -> Array:
        return np.linalg.norm(sum(a[:, None] * c for a, c in zip(amplitudes, basis, strict=True)) - y, axis=1)

    if len(basis) == 1:
        only = alone(basis[0])
        return [only], left(only)
    u, v = basis
    uu, vv, uv = (np.sum(p * q, axis=1) for p, q in ((u, u), (v, v), (u, v)))
    det = uu * vv - uv**2
    det = np.where(det > 1e-14 * uu * vv, det, np.inf)
    none = np.zeros(len(u))
    both = (vv * (u @ y) - uv * (v @ y)) / det, (uu * (v @ y) - uv * (u @ y)) / det
    tried = [both, (alone(u), none), (none, alone(v))]
    costs = np.stack([left(*pair) for pair in tried])
    costs[0][(both[0] < 0) | (both[1] < 0)] = np.inf
    best = costs.argmin(axis=0)
    picked = [np.choose(best, [pair[k] for pair in tried]) for k in (0, 1)]
    return picked, costs.min(axis=0)


def _rates(model: str, x: Array, physical: float) -> Array:
    values = _values(model, x, physical)
    return np.array([v for v, name in zip(values, PARAMETER_NAMES[model], strict=True) if name.startswith("lambda")])
