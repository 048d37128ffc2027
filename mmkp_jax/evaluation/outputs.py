"""What a model wrote → the keyphrases that it predicts."""

import re
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
