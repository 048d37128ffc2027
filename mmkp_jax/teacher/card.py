"""The data card of a file of answers, in Markdown: its contents, source and cost."""

import json
import re
from pathlib import Path

from mmkp_jax.runtime.atomic import write_text
from mmkp_jax.runtime.escape import for_markdown, for_utf8
from mmkp_jax.teacher.chains import histogram
from mmkp_jax.teacher.cost import money
from mmkp_jax.teacher.teaching import Job, TeachingOutcome, rejects_file

MAX_MODELS = 10
"""Most names of models that the card lists."""
BAR = 40
"""Width of the histogram's longest bar, in characters."""


def card_file(out: Path) -> Path:
    """Path of the card, next to the file `out`."""
    return out.with_name(f"{out.stem}.card.md")


def write_card(out: Path, job: Job, source: str, outcome: TeachingOutcome) -> None:
    """Writes the card of the file `out`.

    Args:
        source: the dataset or file that the posts came from.
    """
    write_text(card_file(out), for_utf8(card_of(out, job, source, outcome)))


def card_of(out: Path, job: Job, source: str, outcome: TeachingOutcome) -> str:
    """The card's text."""
    models = (
        ", ".join(f"{for_markdown(name)} ({count:,})" for name, count in outcome.models.most_common(MAX_MODELS))
        or "none"
    )
    if len(outcome.models) > MAX_MODELS:
        models += f", and {len(outcome.models) - MAX_MODELS:,} other names"
    cost = money(outcome.cost) if outcome.unpriced < sum(outcome.models.values()) or not outcome.models else "unknown"
    if outcome.unpriced and cost != "unknown":
        cost += f", and {outcome.unpriced:,} answers whose price is unknown"
    first, last = outcome.times
    rows = {
        "posts": f"{for_markdown(source)}: {outcome.posts:,}",
        "model asked": for_markdown(f"{job.endpoint.model} at {job.endpoint.base_url}"),
        "model as returned": models,
        "parameters": for_markdown(json.dumps(dict(job.endpoint.parameters), ensure_ascii=False)),
        "images": f"at most {job.image_edge:,} pixels a side, JPEG",
        "prompt": f"{job.template.version}, below",
        "answers": f"{outcome.answers:,} complete"
        + f", between {for_markdown(first)} and {for_markdown(last)}" * bool(first),
        "kept": f"{outcome.kept:,}, {outcome.acceptance:.2%} of the complete answers",
        "left out": f"{outcome.posts - outcome.kept:,}, listed in {for_markdown(rejects_file(out).name)}",
        "tokens": f"{outcome.prompt_tokens:,} of prompts, {outcome.completion_tokens:,} of answers",
        "cost": cost,
    }
    if job.task == "chains":
        gates = {name: value for name, value in vars(job.gates).items() if value is not None}
        rows["gates"] = ", ".join(f"{name} {value}" for name, value in gates.items())
    lines = [
        f"# {for_markdown(out.name)}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
    ]
    if outcome.left_out:
        lines += ["## Left out", "", "| because of | posts |", "| --- | --- |"]
        lines += [f"| {for_markdown(gate)} | {count:,} |" for gate, count in outcome.left_out.most_common()] + [""]
    if outcome.words:
        lines += ["## Words of a chain", "", "```", *_bars(outcome.words), "```", ""]
    prompt = "\n".join([*filter(None, [job.template.system]), "---", job.template.user])
    fence = "`" * (1 + max(map(len, re.findall("`{3,}", prompt)), default=2))
    lines += ["## Prompt", "", fence, prompt, fence, ""]
    return "\n".join(lines)


def _bars(words: list[int]) -> list[str]:
    rows = histogram(words)
    most = max(count for _, _, count in rows)
    return [f"{low:>6,}–{high:<6,} {'█' * round(BAR * count / most):<{BAR}} {count:,}" for low, high, count in rows]
