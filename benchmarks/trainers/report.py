"""The report of `benchmarks/train.py`: its figures as tables."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.trainers.job import STRATEGIES
from benchmarks.trainers.worker import SIDES

OURS, THEIRS = SIDES


def report(figures: dict[str, Any]) -> str:
    """The figures of `benchmarks.train.compare`, as Markdown."""
    return "\n".join(_lines(figures))


def ratio(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> float:
    """Our posts a second over theirs: the median over rounds of the ratio within a round."""
    return statistics.median(other["seconds"] / own["seconds"] for own, other in zip(ours, theirs, strict=True))


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    ours, theirs = figures[OURS], figures[THEIRS]
    peak = max(ours["product_peak"], theirs["product_peak"])
    yield f"{ours['machine']}; PyTorch {theirs['torch']}, transformers {theirs['transformers']}, {theirs['device']}"
    yield figures["job"]
    sizes = f"{_millions(ours['trainable'])} parameters train, {_millions(ours['frozen'])} are frozen"
    yield sizes + (f"; γ {figures['gamma']:.4f}" if "dyncot" in figures["strategies"] else "")
    yield (
        f"The largest product's GFLOP/s: XLA {ours['product_peak'] / 1e9:,.0f}, PyTorch "
        f"{theirs['product_peak'] / 1e9:,.0f}; shares are of the larger"
    )
    for strategy, of in figures["strategies"].items():
        yield ""
        yield from _strategy_lines(STRATEGIES[strategy], of, peak)


def _strategy_lines(name: str, of: dict[str, Any], peak: float) -> Iterator[str]:
    equal, gradient = of["equal"], of["equal"]["gradient"]
    on_cot = f", {of['on_cot']} of {of['posts']} posts on their CoT targets" if 0 < of["on_cot"] < of["posts"] else ""
    yield (
        f"{name}{on_cot}: losses of {equal['ways']} ways are equal to {equal['losses']:.1e}, gradients to "
        f"{gradient['of_all']:.1e} ({gradient['tensors']} tensors; at most {gradient['worst']:.1e}, "
        f"{gradient['worst_tensor']})"
    )
    yield ""
    yield f"| {name} | posts/s | real tokens/s | GFLOP/s | of the peak | GB at most |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for side in SIDES:
        for way, runs in of["runs"][side].items():
            seconds = statistics.median(run["seconds"] for run in runs)
            memory = max((run["memory"] for run in runs if run["memory"]), default=None)
            speed = of["needed_flops"] / seconds
            yield (
                f"| {side}, {way} | {of['posts'] / seconds:.2f} | {of['tokens'] / seconds:,.0f} | {speed / 1e9:,.0f} | "
                f"{speed / peak:.1%} | {'' if memory is None else f'{memory / 1e9:.2f}'} |"
            )
    yield ""
    yield "; ".join(_ratios(of["runs"]))
    for side in SIDES:
        speeds = (f"{way} {of['posts'] / s:.2f}" if s else f"{way} –" for way, s in of["tried"][side].items())
        yield f"Tried once, {side}, posts/s: {', '.join(speeds)}"
    if total := sum(of["profile"].values()):
        yield "Our step by part: " + ", ".join(f"{part} {s / total:.1%}" for part, s in of["profile"].items())


def _ratios(runs: dict[str, dict[str, list]]) -> Iterator[str]:
    (each, *best), (their_each, *their_best) = (list(runs[side].values()) for side in SIDES)
    our_best, their_best = (best or [each])[-1], (their_best or [their_each])[-1]
    yield f"Ours over theirs: a step for each post {ratio(each, their_each):.2f}"
    yield f"our best over their batch size 1 {ratio(our_best, their_each):.2f}"
    yield f"best over best {ratio(our_best, their_best):.2f}"


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f} M"
