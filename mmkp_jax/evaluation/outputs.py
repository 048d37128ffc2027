"""What a model wrote → the keyphrases that it predicts, in which form and how many words."""

import re
from collections.abc import Sequence
from typing import Literal

Form = Literal["direct", "cot", "broken"]
FORMS: tuple[Form, ...] = ("direct", "cot", "broken")

ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
TAG = re.compile(r"</?(?:think|answer)>")


def parse_output(text: str) -> tuple[list[str], Form]:
    """The keyphrases of one output, in its order and lower-cased, and the form that it came in.

    `cot`: the text in the last complete `<answer>…</answer>`, whatever stands before or after it.
    `broken`: a tag was written but no complete answer (cut off while reasoning, say); nothing is predicted.
    `direct`: no tags; the whole text is the answer.
    """
    if answers := ANSWER.findall(text):
        return split_keyphrases(answers[-1]), "cot"
    if TAG.search(text):
        return [], "broken"
    return split_keyphrases(text), "direct"


def split_keyphrases(text: str) -> list[str]:
    """`KP; kp;` → its phrases, stripped and lower-cased, without empty ones."""
    return [phrase for each in text.split(";") if (phrase := each.strip().lower())]


def form_shares(forms: Sequence[str]) -> dict[Form, float]:
    """The share of outputs in each of `FORMS`, as fractions."""
    return {form: forms.count(form) / len(forms) for form in FORMS}


def mean_words(outputs: Sequence[str]) -> float:
    """Words generated for a post: whatever spaces part, tags and all (the paper's Table 7)."""
    return sum(len(output.split()) for output in outputs) / len(outputs)


def outputs_line(forms: Sequence[str] | None, outputs: Sequence[str] | None) -> str:
    """Forms and words of at least one output in a line for people; what is None is left out."""
    told = []
    if forms is not None:
        told.append(", ".join(f"{100 * share:.2f}% {form}" for form, share in form_shares(forms).items()))
    if outputs is not None:
        told.append(f"{mean_words(outputs):.2f} words each")
    return f"outputs: {'; '.join(told)}" if told else ""
