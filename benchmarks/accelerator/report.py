"""The figures of a visit as a Markdown table; what was not measured is not in it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Any]]


def table(whole: Mapping[str, Any]) -> str:
    """A table for benchmarks/README.md, a sentence on the machine before it."""
    parts = whole["parts"]
    machines = [part["found"]["machine"] for part in parts.values() if "machine" in part["found"]]
    of = [whole["began"][:10], f"size {whole['size']}", *dict.fromkeys(machines)]
    of += [f"revision {whole['revision']}"] if whole["revision"] else []
    head = f"`benchmarks/accelerator.sh`, {', '.join(of)}:"
    lines = [f"| {' | '.join(cells)} |" for cells in rows(parts)]
    return "\n".join([head, "", "| what | figure |", "| --- | --- |", *lines])


def rows(parts: Results) -> Iterator[tuple[str, str]]:
    """The cells of each row."""
    for name, part in parts.items():
        found, status = part["found"], part["status"]
        kind = name.partition("-")[0]
        if found:
            yield from FIGURES[kind](name.partition("-")[2], found, parts)
        if status != "done":
            yield f"{name}: {status}", f"after {part['seconds']:.0f} s; {last_line(part['output'])}"


def last_line(output: str) -> str:
    """The last line of a program's output, in a cell."""
    lines = output.strip().splitlines() or ["no output"]
    return lines[-1].replace("|", "\\|")[:200]


def _parity(_: str, found: Mapping[str, Any], parts: Results) -> Iterator[tuple[str, str]]:
    for backend, cases in found.get("backends", {}).items():
        others = [name for name, case in cases.items() if not case.get("agrees", False)]
        agree = f"{len(cases) - len(others)} of {len(cases)} cases agree"
        yield f"`{backend}` against the dense rule", agree + (f"; not: {'; '.join(others)}" if others else "")
    for backend, reason in found.get("missing", {}).items():
        yield f"`{backend}` against the dense rule", reason


def _steps(backend: str, found: Mapping[str, Any], parts: Results) -> Iterator[tuple[str, str]]:
    what = f"train step, `{backend}`"
    if "step_seconds" not in found:
        return
    rates = f"{found['step_seconds']:.3f} s, {found['posts_a_second']:.2f} posts/s, "
    rates += f"{found['tokens_a_second']:,.0f} tokens/s"
    mfu = f", MFU {found['mfu']:.1%}" if "mfu" in found else ""
    yield f"{what}, median of {found['steps']}", f"{rates}{mfu}; compiled in {found['compile_seconds']:.0f} s"
    plan = parts.get("plan", {}).get("found", {}).get(backend, {})
    for word, unit, scale, planned, measured in (
        ("memory", "GB", 1e-9, plan.get("bytes"), found.get("peak_bytes")),
        ("seconds at best", "s", 1.0, plan.get("seconds_at_best"), found["step_seconds"]),
    ):
        if planned and measured:
            figure = f"{scale * planned:.3g} {unit} planned, {scale * measured:.3g} measured ({measured / planned:.2f})"
            yield f"{what}, {word}", figure


def _train(_: str, found: Mapping[str, Any], parts: Results) -> Iterator[tuple[str, str]]:
    for strategy, of in found.get("strategies", {}).items():
        best = {side: min(map(_median, ways.values())) for side, ways in of["runs"].items() if ways}
        if len(best) == 2:
            ours, theirs = (of["posts"] / best[side] for side in ("ours", "theirs"))
            figure = f"{ours:.2f} posts/s, a plain PyTorch trainer {theirs:.2f} ({ours / theirs:.2f}×)"
            yield f"`benchmarks/train.py`, {strategy}, each side's best", figure


def _decode(_: str, found: Mapping[str, Any], parts: Results) -> Iterator[tuple[str, str]]:
    for mix, of in found.get("mixes", {}).items():
        rates = of["posts_a_second"]
        figure = f"{rates['refilled']:.1f} posts/s"
        if "transformers" in rates:
            ratio = rates["refilled"] / rates["transformers"]
            figure += f", transformers' `generate` {rates['transformers']:.1f} ({ratio:.2f}×)"
        yield f"decoding, {mix}, {found['dtype']}", figure


def _plan(_: str, found: Mapping[str, Any], parts: Results) -> Iterator[tuple[str, str]]:
    for backend, of in found.items():
        if "refused" in of:
            yield f"`plan`, `{backend}`", str(of["refused"])[:200]
        elif of["mfu_at_best"] is not None:
            yield f"`plan`, `{backend}`", f"{of['bytes'] / 1e9:.1f} GB, MFU at best {of['mfu_at_best']:.1%}"


def _median(runs: list[Mapping[str, float]]) -> float:
    seconds = sorted(run["seconds"] for run in runs)
    return seconds[len(seconds) // 2] if seconds else float("inf")


FIGURES: dict[str, Callable[[str, Mapping[str, Any], Results], Iterator[tuple[str, str]]]] = {
    "parity": _parity,
    "steps": _steps,
    "train": _train,
    "decode": _decode,
    "plan": _plan,
}
