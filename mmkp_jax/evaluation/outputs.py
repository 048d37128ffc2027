"""A model's outputs parsed into keyphrases, with their form and number of words."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from mmkp_jax.data.prompts import THINK
from mmkp_jax.evaluation.lists import list_items

Form = Literal["direct", "cot", "other", "broken"]
FORMS: tuple[Form, ...] = ("direct", "cot", "other", "broken")

Reading = Literal["strict", "lenient"]
READINGS: tuple[Reading, ...] = ("strict", "lenient")
"""How the list in an answer is read: `strict` splits at `;` alone; `lenient` splits other forms of lists too."""

ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
TAG = re.compile(r"</?(?:think|answer)>")
"""A tag as targets write it, in lower case only; anything else is part of the answer."""

_REASONING = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)


def parse_output(text: str, reading: Reading = "strict") -> tuple[list[str], Form]:
    """The keyphrases of one output, in order, lower-cased and without repeats, and the output's form.

    The answer is the text in the last complete `<answer>…</answer>`, whatever is before or after it; without tags, the
    whole output. The form does not depend on the reading:

    - `broken`: a tag was written but no complete answer (cut off while reasoning, say); nothing is predicted.
    - `other`: the answer, in tags or not, is a list in another form than `kp; kp`, which `lists.list_items` and the
      strict reading split differently.
    - `cot`: an answer in tags, as the prompt asks.
    - `direct`: the same without tags.
    """
    if (span := _answer_span(text)) is None:
        return [], "broken"
    answer = text[slice(*span)]
    strict, lenient = (list(dict.fromkeys(each)) for each in (split_keyphrases(answer), list_items(answer)))
    form: Form = "other" if lenient != strict else "direct" if span == (0, len(text)) else "cot"
    return (strict if reading == "strict" else lenient), form


def _answer_span(text: str) -> tuple[int, int] | None:
    """Where the answer begins and ends in an output; None if it is broken."""
    answers = [found.span(1) for found in ANSWER.finditer(text)]
    return answers[-1] if answers else None if TAG.search(text) else (0, len(text))


def written_keyphrases(text: str, reading: Reading = "strict") -> list[str]:
    """The keyphrases of one output as they were written: `parse_output`'s, with repeats."""
    if (span := _answer_span(text)) is None:
        return []
    return (split_keyphrases if reading == "strict" else list_items)(text[slice(*span)])


def keyphrase_spans(text: str) -> dict[str, tuple[int, int]]:
    """Where each keyphrase of an output, read strictly, is written first: the characters (first, end)."""
    if (answer := _answer_span(text)) is None:
        return {}
    spans: dict[str, tuple[int, int]] = {}
    at = answer[0]
    for part in text[slice(*answer)].split(";"):
        if phrase := part.strip():
            first = at + part.index(phrase)
            spans.setdefault(phrase.lower(), (first, first + len(phrase)))
        at += len(part) + 1
    return spans


def merge_outputs(outputs: Sequence[str], reading: Reading = "strict") -> tuple[list[str], Form]:
    """Keyphrases of one or more outputs for the same post, and the first output's form.

    Keyphrases that more outputs have come first; ties go to the one that was written first.
    """
    parsed = [parse_output(output, reading) for output in outputs]
    votes = Counter(phrase for phrases, _ in parsed for phrase in phrases)
    return [phrase for phrase, _ in votes.most_common()], parsed[0][1]


def split_keyphrases(text: str) -> list[str]:
    """The phrases of `KP; kp;`, stripped and lower-cased, without empty ones."""
    return [phrase for each in text.split(";") if (phrase := each.strip().lower())]


def reasoning_in(output: str) -> str | None:
    """The chain of thought in an output, as far as it was written; None without one."""
    found = _REASONING.search(output)
    return found[1] if found else None


def begins_with_thought(output: str) -> bool:
    """Whether an output begins with a chain of thought, complete or not."""
    return output.lstrip().startswith(THINK)


def form_shares(forms: Sequence[str]) -> dict[Form, float]:
    """The share of outputs of each of `FORMS`, as fractions."""
    return {form: forms.count(form) / len(forms) for form in FORMS}


def mean_words(outputs: Sequence[str]) -> float:
    """Mean number of words generated for a post: separated by spaces, tags included (the paper's Table 7)."""
    return sum(len(output.split()) for output in outputs) / len(outputs)


def mean_tokens(tokens: Sequence[int], outputs: Sequence[str]) -> float | None:
    """Mean number of tokens generated for a post; None if an output's tokens were not counted (0, as an endpoint may).

    Args:
        tokens: tokens of each output.
    """
    if any(output and not count for output, count in zip(outputs, tokens, strict=True)):
        return None
    return sum(tokens) / len(tokens)


def outputs_line(forms: Sequence[str] | None, outputs: Sequence[str] | None) -> str:
    """A line for people with the forms and words of one or more outputs; what is None is left out."""
    parts = []
    if forms is not None:
        parts.append(", ".join(f"{100 * share:.2f}% {form}" for form, share in form_shares(forms).items()))
    if outputs is not None:
        parts.append(f"{mean_words(outputs):.2f} words each")
    return f"outputs: {'; '.join(parts)}" if parts else ""
