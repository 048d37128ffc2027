"""Conversations as token numbers, through the chat template; what is said is data, as in prompts of posts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from mmkp_jax.data.prompts import DATE, Template
from mmkp_jax.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class Turn(NamedTuple):
    """One message."""

    role: Role
    parts: tuple[str | None, ...]
    """Its texts, and None where its image is."""


def conversation_tokens(
    turns: Sequence[Turn], image: np.ndarray | None, template: Template, tokenizer: "PreTrainedTokenizerBase"
) -> np.ndarray:
    """A conversation and the opening of the assistant's next turn, int32 [T].

    A single user's turn without an image, or with one before its text, is laid out as the prompts of posts are.

    Args:
        image: the tokens that replace the template's image token; None for a model that takes no images, whose images
            are left out as those of posts are, and without an image.

    Raises:
        InputError: the tokenizer's chat template cannot be rendered, or does not write every text once.
    """
    turns = [turn._replace(parts=_without_image(turn.parts)) for turn in turns] if image is None else turns
    before_image, inserted = _with_image(template, image)
    first = turns[0].parts
    if len(turns) == 1 and turns[0].role == "user" and None not in first[1:]:
        before = before_image if first[:1] == (None,) else template.before
        return np.concatenate([before, _plain("".join(filter(None, first)), template), template.after])

    texts, messages = [], []
    for turn in turns:
        marked = []
        for part in turn.parts:
            marked.append(f"[[part {len(texts)}]]")
            texts.append(part)
        in_parts = turn.role == "user" and template.image_token is not None  # as in `prompts.read_template`
        content = [{"type": "text", "text": text} for text in marked] if in_parts else "".join(marked)
        messages.append({"role": turn.role, "content": content})
    pieces = _around(messages, len(texts), tokenizer)
    tokens = [_special(pieces[0], tokenizer)]
    for text, after in zip(texts, pieces[1:], strict=True):
        tokens += [inserted if text is None else _plain(text, template), _special(after, tokenizer)]
    return np.concatenate(tokens).astype(np.int32)


def _without_image(parts: tuple[str | None, ...]) -> tuple[str | None, ...]:
    return tuple(part for part in parts if part is not None)


def _with_image(template: Template, image: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """What is before a text with an image, and what of it is the image's alone."""
    if image is None:
        return template.before, np.zeros(0, np.int32)
    more = len(template.before_image) - len(template.before)
    shared = zip(template.before, template.before_image[: len(template.before)], strict=True)
    start = next((at for at, (a, b) in enumerate(shared) if a != b), len(template.before))

    def expanded(tokens: np.ndarray) -> np.ndarray:
        at = int(np.flatnonzero(tokens == template.image_token)[0])
        return np.concatenate([tokens[:at], image, tokens[at + 1 :]])

    return expanded(template.before_image), expanded(template.before_image[start : start + more])


def _around(messages: list[dict], parts: int, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What the template writes before, between and after the marked parts."""
    where = f"the tokenizer of {tokenizer.name_or_path}"
    options = {"add_generation_prompt": True, "date_string": DATE}
    try:
        left = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # Jinja's errors, and any that an expression in the template raises
        what = f"its chat template cannot be rendered for these messages ({type(error).__name__}: {error})"
        raise InputError(what, where, "give other messages") from None
    pieces = []
    for number in range(parts):
        piece, marker, left = left.partition(f"[[part {number}]]")
        if not marker:
            raise InputError("its chat template leaves a message out, or moves it", where, "give other messages")
        pieces.append(piece)
    if any(f"[[part {number}]]" in piece for piece in [*pieces, left] for number in range(parts)) or "{'type'" in left:
        raise InputError("its chat template writes a message twice", where, "give other messages")
    return [*pieces, left]


def _plain(text: str, template: Template) -> np.ndarray:
    return np.asarray(template.plain.encode(text, add_special_tokens=False).ids, np.int32)


def _special(piece: str, tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    return np.asarray(tokenizer(piece, add_special_tokens=False).input_ids, np.int32)
