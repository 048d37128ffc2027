"""A histogram as shapes in a box of `WIDTH` by `HEIGHT`, for inline SVG."""

from typing import NamedTuple

import numpy as np

from mmkp_jax.data.statistics import histogram

WIDTH, HEIGHT = 640, 150
TICKS = 8
"""Most ticks along the axis."""


class HistogramBar(NamedTuple):
    """The bar of one bin."""

    x: float
    y: float
    width: float
    height: float
    tooltip: str


class HistogramChart(NamedTuple):
    """Shapes of a histogram; y grows downwards."""

    title: str
    caption: str
    bars: list[HistogramBar]
    ticks: list[tuple[float, str]]
    limit: tuple[float, str] | None
    """The position of a vertical line, and its label."""


def histogram_chart(title: str, values: np.ndarray, limit: tuple[str, int] | None = None) -> HistogramChart:
    """The histogram of posts by `values`.

    Args:
        title: `what, unit`.
        limit: name and value of a vertical line; the caption counts the posts above it, even if it is off the axis.
    """
    bins = histogram(values)
    beyond = [bins.beyond] if bins.beyond else []
    counts = [*bins.count_B.tolist(), *beyond]
    end, most, unit = len(bins.count_B) * bins.width, max(*counts, 1), title.rpartition(", ")[2]
    step = WIDTH / (len(counts) + len(beyond))  # larger values follow after one empty bin
    bars = []
    for number, posts in enumerate(counts):
        low, high = number * bins.width, (number + 1) * bins.width - 1
        where = f"{low:,} and more" if low == end else f"{low:,}" if low == high else f"{low:,}–{high:,}"
        height = HEIGHT * posts / most
        x = (number + (low == end)) * step
        bars.append(HistogramBar(x, HEIGHT - height, step * 0.9, height, f"{where} {unit}: {posts:,} posts"))
    caption, line = f"highest bar: {max(counts):,} posts", None
    if limit:
        name, value = limit
        caption += f"; above {name}: {int((values > value).sum()):,}"
        line = (value / bins.width * step, f"{name} {value:,}") if value <= end else None
    return HistogramChart(title, caption, bars, _ticks(len(bins.count_B), bins.width, step, bool(beyond)), line)


def _ticks(bins: int, width: int, step: float, beyond: bool) -> list[tuple[float, str]]:
    every = next(n for n in (1, 2, 5, 10) if n * TICKS >= bins)
    shift = step * 0.45 if width == 1 else 0  # a bin of one value has its tick at its middle, others at their start
    ticks = [(number * step + shift, _short(number * width)) for number in range(0, bins, every)]
    if beyond:
        ticks = [*(tick for tick in ticks if tick[0] < WIDTH * 0.8), (WIDTH, f"≥ {_short(bins * width)}")]
    return ticks


def _short(value: int) -> str:
    """A number for the axis, such as `1.25M`; small numbers in full."""
    if value >= 10**6:
        return f"{value / 10**6:g}M"
    return f"{value / 1000:g}k" if value >= 10**4 else f"{value:,}"
