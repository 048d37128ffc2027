"""What an endpoint is asked: a system line and a user's turn, with places for a post's fields and its image."""

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
"""The line of a template file between the system line and the user's turn."""

IMAGE = "image"
"""The field in whose place the picture stands."""

_FIELD = re.compile(r"\{(\w+)\}")
_SPECIAL = re.compile(
    r"<(?=\|[^<>|\s]+\|>|/?(?:s|think|answer|image|video|audio|tool_call|start_of_turn|end_of_turn)>)"
)


@dataclass(frozen=True)
class Template:
    """A prompt with `{fields}`; other braces are text."""

    system: str
    user: str

    @property
    def version(self) -> str:
        """Names the prompt: another wording gives another."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:16]

    @property
    def fields(self) -> set[str]:
        """The names of the fields."""
        return set(_FIELD.findall(self.system + self.user))

    def check(self, needed: Sequence[str], known: Sequence[str], where: str) -> None:
        """Refuses a template with an unknown field, or without one that is needed.

        Raises:
            InputError: it is of that kind.
        """
        for name in sorted(self.fields):
            if name not in known:
                raise InputError(f"there is no field {{{name}}} here{nearest(name, known)}", where, "name a known one")
        for name in needed:
            if name not in self.fields:
                raise InputError(f"the template has no {{{name}}}", where, "write where it belongs")
        if self.user.count(f"{{{IMAGE}}}") > 1 or f"{{{IMAGE}}}" in self.system:
            raise InputError("the image belongs into the user's turn, once", where, f"write one {{{IMAGE}}} there")

    def messages(self, values: Mapping[str, str], image_url: str | None) -> list[dict[str, Any]]:
        """The chat that asks about one post.

        Args:
            values: of the fields. They are data: what a tokenizer might take for a special token is parted by a space.
            image_url: a `data:` address of the picture; None for a post without one.
        """
        quoted = {name: escape_special(value) for name, value in values.items()}

        def filled(part: str) -> str:
            return _FIELD.sub(lambda found: quoted[found[1]], part)

        before, placed, after = self.user.partition(f"{{{IMAGE}}}")
        if image_url is None:
            labelled = before.rstrip().endswith(":")
            said: Any = filled(before) + "none" * labelled + filled(after)
        else:
            picture = {"type": "image_url", "image_url": {"url": image_url}}
            texts = [[{"type": "text", "text": text}] if text else [] for text in (filled(before), filled(after))]
            said = [*texts[0], *[picture] * bool(placed), *texts[1]]
        system = [{"role": "system", "content": filled(self.system)}] if self.system else []
        return [*system, {"role": "user", "content": said}]


def field_list(fields: Sequence[str]) -> str:
    """The fields, as a flag's help lists them."""
    return ", ".join(f"{{{name}}}" for name in fields)


def escape_special(text: str) -> str:
    """The text as a request can hold it, with a space in whatever a tokenizer might take for a special token."""
    return _SPECIAL.sub("< ", for_utf8(text))


def read_template(file: Path) -> Template:
    """A template file: the system line, a line `---`, the user's turn; without that line all is the user's turn.

    Raises:
        InputError: it cannot be read, or holds nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8").strip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the template cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8'})"
        raise InputError(what, str(file), "give a text file") from None
    cut = next((n for n, line in enumerate(lines) if line.strip() == SEPARATOR), -1)
    template = Template("\n".join(lines[: max(cut, 0)]).strip(), "\n".join(lines[cut + 1 :]).strip())
    if not template.user:
        raise InputError("the template has no user's turn", str(file), f"write it below a line {SEPARATOR}")
    return template


EXPLAIN = Template(
    "You study why people tag posts as they do. You are given the keyphrases (hashtags) that users put on a post, the "
    "text of the post and its image. Explain step by step why they would put these hashtags on a post with this text "
    "and this image: what the text says, what the image shows, and how each keyphrase follows from them. Answer with "
    "the explanation alone, in one paragraph of at most 150 words, without lists, headings or tags.",
    "Keyphrases: {keyphrases}\nPost text: {text}\nImage: {image}",
)
"""After Table 1 of the paper, in our words: its system line asks the same of the same three fields."""

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
"""Raw hashtags → keyphrases, as MMKP-360k's were made; the wording is ours."""

ZERO_SHOT = Template("", f"{{{IMAGE}}}{user_text('{text}', zero_shot=True)}")
"""The prompt that a local model gets without training, so that both rows of a table answer the same question."""
