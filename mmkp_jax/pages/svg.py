"""Lines, bars and dots as shapes in a box of `WIDTH` by `HEIGHT`, for inline SVG; y grows downwards.

Legend: `S` points of a series.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.evaluation.significance import Interval

WIDTH, HEIGHT = 480, 220
POINTS = 500
"""Most points of a line."""
COLOURS = 8
"""Number of colours of series; the ninth series has the first one's again."""
SMOOTHED = 25
"""Windows of a line: a smoothed point is a mean over one window around it, with most weight on its middle."""
TICKS = 6
"""Most ticks along an axis, not counting the ends."""

Ticks = list[tuple[float, str]]
"""The position and label of each tick."""


class ChartLine(NamedTuple):
    """One series; paths as SVG's `d`."""

    name: str
    raw: str
    """The path before smoothing; empty if the line is not smoothed."""
    line: str
    colour: int
    """The number of the series, which gives its colour."""
    is_dashed: bool = False


class LineChart(NamedTuple):
    """Series over a common axis."""

    title: str
    lines: list[ChartLine]
    x_ticks: Ticks
    y_ticks: Ticks
    x_name: str


class Bar(NamedTuple):
    """One bar with its interval."""

    x: float
    y: float
    width: float
    height: float
    low: float | None
    high: float | None
    colour: int
    tooltip: str


class BarChart(NamedTuple):
    """Bars in groups."""

    bars: list[Bar]
    x_ticks: Ticks
    y_ticks: Ticks


class Dot(NamedTuple):
    """One point of a scatter plot."""

    x: float
    y: float
    colour: int
    tooltip: str


def line_chart(
    title: str,
    series: Sequence[tuple[str, np.ndarray, np.ndarray]],
    *,
    x_name: str,
    y_end: float | None = None,
    smooth: bool = True,
) -> LineChart | None:
    """Lines of at most `POINTS` points through (name, x_S, y_S), with y from 0; None if no value is finite.

    Args:
        y_end: the end of the axis; by default the largest value except rare peaks, which leave the chart.
        smooth: draw a moving mean over the line.
    """
    thinned = [(name, *_thinned(x_S, y_S)) for name, x_S, y_S in series]
    finite = np.concatenate([np.zeros(0), *(y_S[np.isfinite(y_S)] for _, _, y_S in thinned)])
    if not len(finite):
        return None
    x_all = np.concatenate([x_S for _, x_S, _ in thinned])
    x_low, x_high = float(x_all.min()), float(x_all.max())
    top = y_end or max(float(np.quantile(finite, 0.995)), float(finite.mean())) * 1.05 or 1.0

    def x_at(x: float) -> float:
        return WIDTH * (x - x_low) / max(x_high - x_low, 1e-12)

    def y_at(y: float) -> float:
        return HEIGHT * (1 - y / top)

    lines = []
    for colour, (name, x_S, y_S) in enumerate(thinned):
        if not len(x_S):  # the others keep their colours
            continue
        raw = _path(x_at(x_S), y_at(y_S))
        lines.append(
            ChartLine(name, raw, _path(x_at(x_S), y_at(_smoothed(y_S))), colour)
            if smooth
            else ChartLine(name, "", raw, colour)
        )
    return LineChart(title, lines, ticks(x_low, x_high, x_at), ticks(0, top, y_at), x_name)


def bar_chart(
    groups: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[float, Interval | None] | None]]]
) -> BarChart:
    """Bars in percent, for each group one of each (name, [(fraction, interval) or None for each group])."""
    ends = [found.high if found else value for _, cells in rows for value, found in filter(None, cells)]
    top = max(*ends, 0.01) * 1.05
    step = WIDTH / len(groups)
    width = step * 0.8 / len(rows)

    def y_at(value: float) -> float:
        return HEIGHT * (1 - value / top)

    bars = []
    for colour, (name, cells) in enumerate(rows):
        for number, (group, cell) in enumerate(zip(groups, cells, strict=True)):
            if cell is None:
                continue
            value, found = cell
            low, high = (y_at(found.low), y_at(found.high)) if found else (None, None)
            x = number * step + step * 0.1 + colour * width
            tooltip = f"{name}, {group}: {100 * value:.2f}"
            bars.append(Bar(x, y_at(value), width * 0.9, HEIGHT - y_at(value), low, high, colour, tooltip))
    x_ticks = [((number + 0.5) * step, group) for number, group in enumerate(groups)]
    return BarChart(bars, x_ticks, ticks(0, 100 * top, lambda percent: y_at(percent / 100)))


def ticks(low: float, high: float, at: Callable[[float], float]) -> Ticks:
    """Ticks at round numbers from `low` to `high`, each at the position that `at` gives."""
    rough = max(high - low, 1e-12) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
    numbers = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return [(at(float(number)), _label(float(number))) for number in numbers]


def _label(number: float) -> str:
    if abs(number) >= 10_000:
        return f"{number / 1000:g}k"
    if 0 < abs(number) < 0.01:
        power = math.floor(math.log10(abs(number)) + 1e-9)
        return f"{number / 10**power:g}e{power}"
    return f"{number:g}"


def _thinned(x_S: np.ndarray, y_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` points, each the mean of adjacent finite values; NaN if there are none."""
    if len(x_S) <= POINTS:
        return x_S, y_S
    part_S = np.arange(len(x_S)) * POINTS // len(x_S)
    finite_S = np.isfinite(y_S)
    total = np.bincount(part_S, np.where(finite_S, y_S, 0), POINTS)
    number = np.bincount(part_S, finite_S, POINTS)
    mean = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return np.bincount(part_S, x_S) / np.bincount(part_S), mean


def _smoothed(y_S: np.ndarray) -> np.ndarray:
    """The weighted mean of the finite values around each point; fewer of them at the ends."""
    window = np.hanning(2 * (len(y_S) // SMOOTHED) + 3)[1:-1]
    finite_S = np.isfinite(y_S)
    total, number = (
        np.convolve(each, window, "full")[len(window) // 2 :][: len(y_S)]
        for each in (np.where(finite_S, y_S, 0), finite_S.astype(float))
    )
    return np.where(number > 0, total / np.maximum(number, 1e-9), np.nan)


def _path(x_S: np.ndarray, y_S: np.ndarray) -> str:
    """A path `M… L…`, restarted after values that are not finite; `h0` draws an isolated point as a dot."""
    commands, pen = [], "M"
    for x, y in zip(x_S, y_S, strict=True):
        if math.isfinite(y):
            commands.append(f"{pen}{x:.1f} {y:.1f}" + "h0" * (pen == "M"))
            pen = "L"
        else:
            pen = "M"
    return "".join(commands)
