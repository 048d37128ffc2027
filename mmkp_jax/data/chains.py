"""Chains of thought as files and models write them: one check of what may become a CoT target.

A target puts `<think>` and `<answer>` around a chain, so neither the chain nor a keyphrase may hold a tag of its own:
text that comes with the tags is parsed, and what cannot be parsed is refused. Nothing nested is trained on.
"""

import re
from collections.abc import Sequence

from mmkp_jax.data.fields import BadLine, keyphrases_of, quoted

TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
"""Tags of a target, in any case: with a capitalised one next to it, a model would learn two forms."""

_FLAGS = re.DOTALL | re.IGNORECASE
_INSIDE = r"((?:(?!</?(?:think|answer)>).)*)"
ANSWER = re.compile(rf"<answer>{_INSIDE}</answer>", _FLAGS)
_THOUGHT = re.compile(rf"<think>{_INSIDE}</think>", _FLAGS)
_WHOLE = re.compile(rf"\s*<think>{_INSIDE}</think>\s*(?:<answer>{_INSIDE}</answer>\s*)?", _FLAGS)

_FORM = "write the reasoning alone, or <think>…</think><answer>…</answer> with the post's own keyphrases"


def chain_of(text: str, keyphrases: Sequence[str] | None, post_id: str | None = None) -> str:
    """The reasoning in a chain of thought: the text itself, or what is in `<think>…</think>`; without blanks around it.

    Args:
        keyphrases: the post's own, which an `<answer>` after the reasoning must repeat, in any order and case; None
            to skip the comparison.

    Returns:
        The chain; may be empty.

    Raises:
        BadLine: it has a stray, incomplete or nested tag, or an answer other than the post's keyphrases.
    """
    if not TAG.search(text):
        return text.strip()
    whole = _WHOLE.fullmatch(text)
    if not whole:
        tag = quoted(TAG.search(text)[0])
        raise BadLine(f"the chain of thought has a tag {tag} that is nested, stray or not complete", _FORM, post_id)
    answer = whole[2]
    if answer is not None and keyphrases is not None and _folded(answer.split(";")) != _folded(keyphrases):
        reason = f"the chain of thought ends in the answer {quoted(answer.strip())}, not in the post's keyphrases"
        raise BadLine(reason, _FORM, post_id)
    return whole[1].strip()


def parse_answer(text: str, post_id: str | None = None) -> tuple[tuple[str, ...], str | None]:
    """The keyphrases of an answer, and its chain of thought if it has one.

    `kp; kp`, or `<think>…</think><answer>kp; kp</answer>`, of which the last complete answer counts.

    Raises:
        BadLine: there is a tag but no complete answer, a nested thought, or no keyphrase.
    """
    answers = ANSWER.findall(text)
    if not answers and TAG.search(text):
        raise BadLine("the answer has a tag, but no complete <answer>…</answer>", "complete it", post_id)
    thought = _THOUGHT.search(text)
    lower = text.lower()
    if lower.count("<think>") > (thought is not None) or lower.count("</think>") > (thought is not None):
        raise BadLine("the answer has <think> nested, twice or not complete", "write one <think>…</think>", post_id)
    cot = thought[1].strip() if thought else ""
    return keyphrases_of((answers[-1] if answers else text).split(";"), post_id), cot or None


def check_keyphrases(keyphrases: Sequence[str], post_id: str | None = None) -> None:
    """Refuses, with `BadLine`, a keyphrase that holds a tag of the targets."""
    if tagged := next((each for each in keyphrases if TAG.search(each)), None):
        raise BadLine(f"the keyphrase {quoted(tagged)} holds a tag of the targets", "take the tag out", post_id)


def _folded(keyphrases: Sequence[str]) -> set[str]:
    return {folded for each in keyphrases if (folded := " ".join(each.lower().split()))}
