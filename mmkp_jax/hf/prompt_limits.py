"""Limits of an exported model's prompts and completions, in a file of the folder that transformers and vLLM ignore.

A model's settings of images are not in it, but in the file that transformers reads; an adapter's are: it has no such
file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmkp_jax.data.prompts import PROMPT_VERSION
from mmkp_jax.hf.tensors import is_there
from mmkp_jax.runtime.json_files import read_object

PROMPT_LIMITS = "mmkp_jax.json"

_MOST = 1_000_000
_HINT = "export the run again, or remove the file to use the defaults of docs/config.md"


class PromptLimits(NamedTuple):
    """Limits of a post's prompt and completion in training."""

    max_text_tokens: int
    """Most tokens of a post's text; the end of a longer one is left out."""
    answer_tokens: int
    """Most tokens of a completion."""
    prompt_version: int = PROMPT_VERSION
    images: Mapping[str, int] | None = None
    """Of an adapter: the settings of images (`config.data.images`)."""

    def content(self) -> dict[str, Any]:
        """The content of the file."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def read_prompt_limits(folder: Path) -> PromptLimits | None:
    """The limits of the folder's model; None where the folder is no export.

    Raises:
        InputError: the file is damaged, or its prompt version is another.
    """
    file = folder / PROMPT_LIMITS
    if not is_there(file):
        return None
    fields = read_object(file, _HINT)
    version = fields.integer("prompt_version")
    if version != PROMPT_VERSION:
        newer = fields._replace(hint="predict with the release of mmkp_jax that exported it")
        newer.refuse("prompt_version", f"{PROMPT_VERSION}, the prompt that this release writes")
    found = PromptLimits(*(fields.integer(name, least=1) for name in PromptLimits._fields[:2]))
    for name, value in zip(found._fields[:2], found, strict=False):
        if value > _MOST:
            fields.refuse(name, f"a whole number from 1 to {_MOST:,}")
    if "images" not in fields.content:
        return found
    images = fields.object("images")
    return found._replace(images={name: images.integer(name, least=1) for name in images.content})


def text_limit_warning(folder: Path, max_text_tokens: int) -> str:
    """A warning for a run that starts from the folder and cuts texts at another length; empty without one.

    Raises:
        InputError: as `read_prompt_limits`.
    """
    limits = read_prompt_limits(folder)
    if limits is None or limits.max_text_tokens == max_text_tokens:
        return ""
    before = f"it was trained on texts of at most {limits.max_text_tokens:,} tokens"
    return f"{folder / PROMPT_LIMITS}: {before}; config.data.max_text_tokens is {max_text_tokens:,}"
