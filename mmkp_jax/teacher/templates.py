"""Prompts for an endpoint: a system message and a user message, with fields for a post's values and its image."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkp_jax.data.prompts import user_text
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.runtime.escape import for_utf8

SEPARATOR = "---"
"""The line of a template file between the system message and the user message."""

IMAGE = "image"
"""Name of the field that the image replaces."""

_FIELD = re.compile(r"\{(\w+)\}")
_SPECIAL = re.compile(
    r"<(?=\|[^<>|\s]+\|>|/?(?:s|think|answer|image|video|audio|tool_call|start_of_turn|end_of_turn)>)"
)


@dataclass(frozen=True)
class Template:
    """A prompt with `{fields}`; other braces are plain text."""

    system: str
    user: str

    @property
    def version(self) -> str:
        """Hash of the prompt; it changes with the wording."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:16]

    @property
    def fields(self) -> set[str]:
        """Names of the fields."""
        return set(_FIELD.findall(self.system + self.user))

    def check(self, needed: Sequence[str], known: Sequence[str], where: str) -> None:
        """Checks the fields of the template.

        Raises:
            InputError: it has an unknown field, lacks a needed one, or has its image in the wrong place.
        """
        for name in sorted(self.fields):
            if name not in known:
                raise InputError(f"there is no field {{{name}}} here{nearest(name, known)}", where, "name a known one")
        for name in needed:
            if name not in self.fields:
                raise InputError(f"the template has no {{{name}}}", where, "add it")
        if self.user.count(f"{{{IMAGE}}}") > 1 or f"{{{IMAGE}}}" in self.system:
            raise InputError("the image may occur once, in the user message", where, f"keep one {{{IMAGE}}} there")

    def messages(self, values: Mapping[str, str], image_url: str | None) -> list[dict[str, Any]]:
        """Builds the chat that asks about one post.

        Args:
            values: values of the fields. They are data: a space breaks up anything that looks like a special token.
            image_url: the image as a `data:` URL; None for a post without one.
        """
        quoted = {name: escape_special(value) for name, value in values.items()}

        def filled(part: str) -> str:
            return _FIELD.sub(lambda found: quoted[found[1]], part)

        before, placed, after = self.user.partition(f"{{{IMAGE}}}")
        if image_url is None:
            labelled = before.rstrip().endswith(":")
            content: Any = filled(before) + "none" * labelled + filled(after)
        else:
            image = {"type": "image_url", "image_url": {"url": image_url}}
            texts = [[{"type": "text", "text": text}] if text else [] for text in (filled(before), filled(after))]
            content = [*texts[0], *[image] * bool(placed), *texts[1]]
        system = [{"role": "system", "content": filled(self.system)}] if self.system else []
        return [*system, {"role": "user", "content": content}]


def field_list(fields: Sequence[str]) -> str:
    """The fields, as a flag's help lists them."""
    return ", ".join(f"{{{name}}}" for name in fields)


def escape_special(text: str) -> str:
    """The text as valid UTF-8, with a space inside anything that looks like a special token."""
    return _SPECIAL.sub("< ", for_utf8(text))


def read_template(file: Path) -> Template:
    """Reads a template file: system message, a line `---`, user message; without that line, all is the user message.

    Raises:
        InputError: it cannot be read, or has no user message.
    """
    try:
        lines = file.read_text(encoding="utf-8").strip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the template cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'})"
        raise InputError(what, str(file), "give a text file") from None
    cut = next((n for n, line in enumerate(lines) if line.strip() == SEPARATOR), -1)
    template = Template("\n".join(lines[: max(cut, 0)]).strip(), "\n".join(lines[cut + 1 :]).strip())
    if not template.user:
        raise InputError("the template has no user message", str(file), f"write it below a line {SEPARATOR}")
    return template


EXPLAIN = Template(
    "You study why people tag posts as they do. You are given the keyphrases (hashtags) that users put on a post, the "
    "text of the post and its image. Explain step by step why they would put these hashtags on a post with this text "
    "and this image: what the text says, what the image shows, and how each keyphrase follows from them. Answer with "
    "the explanation alone, in one paragraph of at most 150 words, without lists, headings or tags.",
    "Keyphrases: {keyphrases}\nPost text: {text}\nImage: {image}",
)
"""The prompt of the paper's Table 1 in our words: it asks the same about the same three fields."""

DEDUCE = Template(
    "You study why people tag posts as they do. You are given the text of a post and its image. Think step by step "
    "which keyphrases (hashtags) users would put on it: what the text says, what the image shows, and what follows. "
    "Write your reasoning as one paragraph of at most 150 words, and after it the keyphrases, like this: "
    "<answer>first keyphrase; second keyphrase</answer>",
    "Post text: {text}\nImage: {image}",
)
"""For a teacher that is not shown the keyphrases."""

CLEAN = Template(
    "You turn the hashtags of a social-media post into keyphrases. Split words that are run together, mend obvious "
    "misspellings, write everything in lower case without '#', keep names as they are known. Leave out hashtags that "
    "say nothing about the post's content, such as those that ask for likes or followers, and repeats. Add nothing "
    "that no hashtag says. Answer with the keyphrases alone, separated by ';', or with the one word none.",
    "Hashtags: {keyphrases}\nPost text: {text}\nImage: {image}",
)
"""Cleans raw hashtags to keyphrases, as for MMKP-360k; the wording is ours."""

ZERO_SHOT = Template("", f"{{{IMAGE}}}{user_text('{text}', zero_shot=True)}")
"""The zero-shot prompt of a local model, so that both answer the same question."""

TRAINING = Template("", f"{{{IMAGE}}}{user_text('{text}')}")
"""The prompt that models are trained with, for a trained model behind an endpoint."""

PROMPTS = {"zero_shot": ZERO_SHOT, "training": TRAINING}
"""The prompts of `predict --base_url`, by name."""
