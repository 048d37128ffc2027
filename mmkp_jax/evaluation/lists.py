"""Lists of keyphrases in the forms that models write besides `kp; kp`: numbers, bullets, lines, commas, JSON."""

import re
from collections.abc import Sequence

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.json_files import is_texts, parse

WORDS = 8
"""Most words of a keyphrase: a longer part is a sentence, and text divided into such parts is not a list."""

_LEAD = re.compile(
    r"[\s*_#]*(?:key[\s-]?phrases?|key[\s-]?words?|hash[\s-]?tags?|answers?)[\s*_]*[:：][\s*_]*", re.IGNORECASE
)
"""A leading `Keyphrases:` or `**Keywords:**`."""
_FENCE = re.compile(r"^[ \t]*```\w*|```[ \t]*$", re.MULTILINE)
_NUMBER = re.compile(r"\(?(\d{1,3})[.):](?!\d)\s*")
_BULLET = re.compile(r"[-*+•‣▪◦·–—]\s+")
_COMMA = re.compile(r"(?<!\d)[,，、]|[,，、](?!\d)")
"""A comma, but not that of `10,000`."""
_QUOTES = ('""', "''", "``", "“”", "‘’", "«»")


def list_items(text: str) -> list[str]:
    """The items of the list in an answer, stripped and lower-cased; one item if the answer is not a list.

    In this order:

    1. A code fence, and `Keyphrases:` (or keywords, hashtags, answer) at the beginning, are removed.
    2. A JSON list of strings, also as the only field of an object, is that list.
    3. Text with a `;` is split there and at line feeds; else text of several lines at line feeds; else text with a
       comma (not between digits) at commas; else text of which every word begins with `#` at blanks.
       Commas and lines split nothing if a part has more than `WORDS` words: that is prose.
    4. If two or more parts are numbered from 1 on, or begin with bullets, these are the items, without their marks,
       and other parts (`Here are some:`) are not. Neither is a first line that ends in a colon.
    5. Without a `;`, each of several items loses the quotes around it, `**`, and a leading `#`, and the last of a comma
       list its full stop; in a `;` list, and in a single phrase, these may belong to the keyphrase.
    """
    text = _FENCE.sub("", text).strip()
    without = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    if (found := _json_list(without)) is not None:
        return _lowered(found)
    parts, at_commas = _divided(without)
    marked = _unmarked(parts)
    if ";" in without or len(marked) < 2:
        return _lowered(marked)
    if at_commas:
        marked[-1] = marked[-1].removesuffix(".")
    return _lowered([_bare(each) for each in marked])


def _divided(text: str) -> tuple[list[str], bool]:
    """The parts of the text, none of them empty, and whether it was split at commas."""
    if ";" in text:
        return _parts(re.split(r"[;\n]", text)), False
    lines = _parts(text.split("\n"))
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    if len(lines) > 1:
        is_list = _unmarked(lines) != lines or _are_phrases(lines)
        return lines if is_list else _parts([text]), False
    line = _inside_brackets(lines[0]) if lines else ""
    items = _parts(_COMMA.split(line))
    if len(items) > 1 and _are_phrases(items):
        return items, True
    words = line.split()
    if len(words) > 1 and all(re.match(r"#\w", word) for word in words):
        return words, False
    return lines, False


def _unmarked(parts: Sequence[str]) -> list[str]:
    """The numbered or bulleted parts without their marks; all parts if fewer than two are marked."""
    numbered = [(int(found[1]), part[found.end() :]) for part in parts if (found := _NUMBER.match(part))]
    if len(numbered) > 1 and numbered[0][0] == 1:
        return _parts([part for _, part in numbered])
    bulleted = [part[found.end() :] for part in parts if (found := _BULLET.match(part))]
    return _parts(bulleted) if len(bulleted) > 1 else list(parts)


def _bare(item: str) -> str:
    """`**"lake"**`, `#lake` → `lake`."""
    item = item.strip("*_ \t")
    if len(item) > 1 and item[0] + item[-1] in _QUOTES:
        item = item[1:-1].strip()
    return item[1:] if re.match(r"#[^\W\d]", item) else item


def _inside_brackets(line: str) -> str:
    return line[1:-1] if line.startswith("[") and line.endswith("]") else line


def _are_phrases(parts: Sequence[str]) -> bool:
    return all(len(part.split()) <= WORDS for part in parts)


def _json_list(text: str) -> list[str] | None:
    """The strings of a JSON list, or of an object whose only field is one; None for other text."""
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return None
    try:
        found = parse(text, "")
    except InputError:
        return None
    if isinstance(found, dict) and len(found) == 1:
        (found,) = found.values()
    return found if is_texts(found) else None


def _parts(parts: Sequence[str]) -> list[str]:
    return [part for each in parts if (part := each.strip())]


def _lowered(items: Sequence[str]) -> list[str]:
    return [item for each in items if (item := each.strip().lower())]
