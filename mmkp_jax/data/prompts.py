"""Prompts and targets as token numbers. A post's text is data: nothing in it ever becomes a special token.

One prompt for both forms of target, for training and inference (MMKP.md §2): the image, `"Post text": …`, and one
sentence that asks for the keyphrases, within the chat template of the model's own tokenizer.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from mmkp_jax.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

ASK = "Predict the keyphrases of this post, separated by ';'."
ZERO_SHOT = "Answer with the keyphrases only, like this: first keyphrase; second keyphrase"
"""The output format, for a model that has not been trained on the targets."""

PROMPT_VERSION = 1
"""Version of the wording of prompt and targets, stored in exported folders. Raise it with any change of either."""

DATE = "26 Jul 2024"
"""The date that chat templates get which write one, as Llama 3's do: the fallback of its own. Else the day of training
would be part of every prompt, and the day of a request another."""

Mode = Literal["auto", "direct", "think"]
MODES: tuple[Mode, ...] = ("auto", "direct", "think")
"""How an answer begins: as the model chooses, without a chain of thought, or with one."""

THINK = "<think>"
"""The opening of a chain of thought."""

_HERE = "[[post]]"

_NO_TEMPLATE = "it is not a fast tokenizer with a chat template and an eos_token"


@dataclasses.dataclass(frozen=True)
class Template:
    """A tokenizer's chat template, rendered and cut at the user's text; immutable, and picklable for workers."""

    plain: "Tokenizer"
    """The tokenizer without its added tokens: it reads everything as plain text."""
    before: np.ndarray
    """int32 [T]: system line and opening of the user's turn."""
    before_image: np.ndarray
    """int32 [T]: the same with an image, its one image token not yet repeated."""
    after: np.ndarray
    """int32 [T]: end of the user's turn and opening of the assistant's."""
    image_token: int | None
    """Number of the image token; None for a model that takes no images."""
    end_token: int
    """The token that ends the assistant's turn: `<|im_end|>`."""
    fingerprint: str
    """Hash of everything that the tokens of prompts and targets depend on, except the posts."""


class Pieces(NamedTuple):
    """A rendered chat template around the user's text."""

    before: str
    before_image: str
    """Before the text of a post with an image."""
    after: str


_NOTHING: Mapping[str, str] = MappingProxyType({})


def read_template(
    tokenizer: "PreTrainedTokenizerBase", *, image_token: int | None, replaced: Mapping[str, str] = _NOTHING
) -> Template:
    """Renders the tokenizer's chat template once, with and without an image.

    Args:
        tokenizer: a fast one, with a chat template and an end-of-turn token as `eos_token`.
        image_token: number of the image token; None for a model that takes no images, whose template gets the user's
            text as a string, not as a list of parts.
        replaced: texts that the template may write for an image, and what the family's processor makes of them.

    Raises:
        InputError: the tokenizer has no chat template or end token, or the template has another form.
    """
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise _unfit(tokenizer, _NO_TEMPLATE)
    if tokenizer.chat_template is None:
        what = "the tokenizer has no chat template, as those of base models"
        raise InputError(what, f"the tokenizer of {tokenizer.name_or_path}", "take the Instruct model of the same size")
    contents = [_HERE] * 2
    if image_token is not None:
        text = {"type": "text", "text": _HERE}
        contents = [[text], [{"type": "image"}, text]]
    pieces = [_rendered(tokenizer, content) for content in contents]
    (before, after), (before_image, after_image) = pieces
    if after != after_image:
        raise _unfit(tokenizer, "its chat template writes an image after the user's text")
    written = next((text for text in replaced if text in before_image), "")
    if written and replaced[written] not in before_image:
        before_image = before_image.replace(written, replaced[written])
    return template_of(tokenizer, Pieces(before, before_image, after), image_token=image_token)


def template_of(tokenizer: "PreTrainedTokenizerBase", pieces: Pieces, *, image_token: int | None) -> Template:
    """A rendered chat template as tokens.

    Raises:
        InputError: the tokenizer has no end token or another than ends the template's turns, or the template does not
            write the image token once.
    """
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise _unfit(tokenizer, _NO_TEMPLATE)
    if not pieces.after.lstrip().startswith(tokenizer.eos_token):
        what = f"its chat template ends no turn with its eos_token {tokenizer.eos_token!r}, as of a base model"
        hint = "take the Instruct model of the same size"
        raise InputError(what, f"the tokenizer of {tokenizer.name_or_path}", hint)
    before, before_image, after = (
        np.asarray(tokenizer(piece, add_special_tokens=False).input_ids, np.int32) for piece in pieces
    )
    if image_token is not None and ((before_image == image_token).sum() != 1 or image_token in before):
        raise _unfit(tokenizer, f"its chat template does not write the image token {image_token} once per image")
    everything = tokenizer.backend_tokenizer.to_str()
    rendered = [[pieces.before, pieces.after], [pieces.before_image, pieces.after]]
    parts = [everything, *map(str, rendered), ASK, ZERO_SHOT, image_token, tokenizer.eos_token_id]
    return Template(
        plain=_without_added_tokens(everything),
        before=before,
        before_image=before_image,
        after=after,
        image_token=image_token,
        end_token=tokenizer.eos_token_id,
        fingerprint=hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest(),
    )


def _rendered(tokenizer: "PreTrainedTokenizerBase", content: str | list[dict[str, str]]) -> list[str]:
    turn, options = [{"role": "user", "content": content}], {"add_generation_prompt": True, "date_string": DATE}
    try:
        rendered = tokenizer.apply_chat_template(turn, tokenize=False, **options)
    except Exception as error:  # Jinja's errors, and any that an expression in the template raises
        raise _unfit(tokenizer, f"its chat template cannot be rendered ({type(error).__name__}: {error})") from None
    parts = rendered.split(_HERE)
    if len(parts) != 2 or "{'type'" in rendered:  # a template for strings writes a list as Python does
        raise _unfit(tokenizer, "its chat template does not write the user's text once")
    return parts


def _unfit(tokenizer: "PreTrainedTokenizerBase", what: str) -> InputError:
    return InputError(what, f"the tokenizer of {tokenizer.name_or_path}", "copy the files of the base checkpoint's")


def _without_added_tokens(tokenizer_json: str) -> "Tokenizer":
    """The tokenizer of plain text. `split_special_tokens` would leave added tokens that are not marked special."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer_json)
    state |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(state))


def user_text(text: str, *, zero_shot: bool = False) -> str:
    """The user's text, next to the image."""
    return f'"Post text": {text}\n{ASK}' + f" {ZERO_SHOT}" * zero_shot


def trimmed(text: str, template: Template, *, max_text_tokens: int) -> str:
    """The text without surrounding space, and without its end if it has more than `max_text_tokens` tokens."""
    text = text.strip()
    if text.isascii() and len(text) < max_text_tokens:
        return text  # each of its tokens has at least one character
    while len(found := template.plain.encode(text, add_special_tokens=False).offsets) > max_text_tokens:
        text = text[: found[max_text_tokens][0]].rstrip()  # a character that is cut in two is dropped too
    return text


def prompt_tokens(
    text: str, image: np.ndarray | None, template: Template, *, max_text_tokens: int, zero_shot: bool = False
) -> np.ndarray:
    """The prompt's token numbers, int32 [T].

    Args:
        text: the post's text; its end is left out where it has more than `max_text_tokens` tokens.
        image: the tokens that replace the template's image token; None for a post without an image.
        zero_shot: whether to add the sentence on the output's format.
    """
    said = user_text(trimmed(text, template, max_text_tokens=max_text_tokens), zero_shot=zero_shot)
    before = template.before
    if image is not None:
        at = int(np.flatnonzero(template.before_image == template.image_token)[0])
        before = np.concatenate([template.before_image[:at], image, template.before_image[at + 1 :]])
    return np.concatenate([before, _plain(said, template), template.after])


def keyphrase_target(keyphrases: Sequence[str], template: Template) -> np.ndarray:
    """The SFT target `kp; kp` and the end token, int32 [T]."""
    return _target("; ".join(keyphrases), template)


def cot_target(cot: str, keyphrases: Sequence[str], template: Template) -> np.ndarray:
    """The CoT target `<think>why</think><answer>kp; kp</answer>` and the end token, int32 [T]."""
    return _target(f"{THINK}{cot}</think><answer>{'; '.join(keyphrases)}</answer>", template)


def chain_opening(template: Template) -> tuple[int, ...]:
    """The tokens that every CoT target begins with: those of `<think>` that do not depend on the text after it.

    The text after it is taken to begin with a letter or a digit. Where the tokenizer has a token for the end of
    `<think>` with the beginning of such a text (as `>The` would be), that part of the opening is left out.
    """
    ends = [THINK[at:] for at in range(len(THINK))]
    after = {token[len(end) :] for token in template.plain.get_vocab() for end in ends if token.startswith(end)}
    texts = ["The", "1", *(each for each in sorted(after) if each.isascii() and each[:1].isalnum())]
    splits = [_plain(THINK + text, template).tolist() for text in texts]
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*splits, strict=False))
    return tuple(first for first, *_ in alike)


def _target(text: str, template: Template) -> np.ndarray:
    return np.append(_plain(text, template), np.int32(template.end_token))


def _plain(text: str, template: Template) -> np.ndarray:
    return np.asarray(template.plain.encode(text, add_special_tokens=False).ids, np.int32)
