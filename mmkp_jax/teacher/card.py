"""A data card: what a file of answers is, where it came from and what it cost, in Markdown."""

import json
from pathlib import Path

from mmkp_jax.teacher.chains import histogram
from mmkp_jax.teacher.cost import money
from mmkp_jax.teacher.teaching import Job, Outcome, rejects_file

BAR = 40
"""Signs that the most frequent length takes."""


def card_file(out: Path) -> Path:
    """Beside the answers."""
    return out.with_name(f"{out.stem}.card.md")


def write_card(out: Path, job: Job, source: str, outcome: Outcome) -> None:
    """Writes the card of the file `out`.

    Args:
        source: where the posts came from.
    """
    card_file(out).write_text(card_of(out, job, source, outcome), encoding="utf-8")


def card_of(out: Path, job: Job, source: str, outcome: Outcome) -> str:
    """The card's text."""
    models = ", ".join(f"{name} ({count:,})" for name, count in outcome.models.most_common()) or "none"
    cost = money(outcome.cost) if outcome.unpriced < sum(outcome.models.values()) or not outcome.models else "unknown"
    if outcome.unpriced and cost != "unknown":
        cost += f", and {outcome.unpriced:,} answers whose price is unknown"
    first, last = outcome.times
    rows = {
        "posts": f"{source}: {outcome.posts:,}",
        "model asked": f"{job.endpoint.model} at {job.endpoint.base_url}",
        "model as returned": models,
        "parameters": f"`{json.dumps(dict(job.endpoint.parameters), ensure_ascii=False)}`",
        "images": f"at most {job.image_edge:,} pixels a side, JPEG",
        "prompt": f"{job.template.version}, below",
        "answers": f"{outcome.answers:,} whole ones" + f", between {first} and {last}" * bool(first),
        "kept": f"{outcome.kept:,}, {outcome.acceptance:.2%} of the whole answers",
        "left out": f"{outcome.posts - outcome.kept:,}, listed in `{rejects_file(out).name}`",
        "tokens": f"{outcome.prompt_tokens:,} of prompts, {outcome.completion_tokens:,} of answers",
        "cost": cost,
    }
    if job.task == "chains":
        gates = {name: value for name, value in vars(job.gates).items() if value is not None}
        rows["gates"] = ", ".join(f"{name} {value}" for name, value in gates.items())
    lines = [
        f"# {out.name}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {told} |" for name, told in rows.items()),
        "",
    ]
    if outcome.left_out:
        lines += ["## Left out", "", "| because of | posts |", "| --- | --- |"]
        lines += [f"| {gate} | {count:,} |" for gate, count in outcome.left_out.most_common()] + [""]
    if outcome.words:
        lines += ["## Words of a chain", "", "```", *_bars(outcome.words), "```", ""]
    lines += ["## Prompt", "", "```", *filter(None, [job.template.system]), "---", job.template.user, "```", ""]
    return "\n".join(lines)


def _bars(words: list[int]) -> list[str]:
    rows = histogram(words)
    most = max(count for _, _, count in rows)
    return [f"{low:>6,}–{high:<6,} {'█' * round(BAR * count / most):<{BAR}} {count:,}" for low, high, count in rows]
