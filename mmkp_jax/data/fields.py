"""What the fields of a post may hold, in any format of its row; `BadLine` says why one is refused."""

from typing import TYPE_CHECKING, Any

from mmkp_jax.runtime.json_files import shown

if TYPE_CHECKING:
    from mmkp_jax.data.posts import Post

LONGEST_ID = 256
"""Characters of an id at most: the index of sizes stores every id at the length of the longest."""

LONGEST_PATH = 4096
"""Characters of an image's path at most: the limit of Linux."""

_KINDS = {str: "text", int: "a whole number", list: "a list", type(None): "null"}


class BadLine(Exception):
    """Carries a reject's reason, hint and, where they could be read, the post's id and the post itself."""

    def __init__(self, reason: str, hint: str, post_id: str | None = None):
        super().__init__(reason, hint, post_id)
        self.reason, self.hint, self.id = reason, hint, post_id
        self.post: Post | None = None


def field(row: dict[str, Any], name: str, post_id: str | None, *kinds: type) -> Any:
    """The object's field, of one of these kinds; `BadLine` where it is not."""
    what = " or ".join(_KINDS[kind] for kind in kinds)
    if name not in row:
        raise BadLine(f"the post has no {name!r}", f"add it: {what}", post_id)
    if not isinstance(row[name], kinds):
        raise BadLine(f"{name!r} is {shown(row[name])}", f"write it as {what}", post_id)
    return row[name]


def id_text(value: Any) -> str:
    """An id as text: a whole number becomes its decimal digits; `BadLine` where it is neither, or empty."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadLine(f"'id' is {shown(value)}", "write it as text or a whole number")
    if not value:
        raise BadLine("the id is empty", "give every post its own id")
    return value


def check_id(post_id: str) -> None:
    """Refuses, with `BadLine`, an id that an array of ids cannot hold, or only at great cost."""
    if len(post_id) > LONGEST_ID:
        reason = f"the id has {len(post_id):,} characters, more than {LONGEST_ID}"
        raise BadLine(reason, "give the post a shorter one")
    if "\0" in post_id:
        raise BadLine("the id holds a NUL character", "take it out", post_id)


def check_image(image: str | None, post_id: str) -> None:
    """Refuses, with `BadLine`, a path that no file system accepts."""
    if image and len(image) > LONGEST_PATH:
        reason = f"the image's path has {len(image):,} characters, more than {LONGEST_PATH:,}"
        raise BadLine(reason, "name the image's file", post_id)


def check_characters(*texts: str) -> None:
    """Refuses, with `BadLine`, half of a surrogate pair: JSON can hold it, but it is no character."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        raise BadLine("the line holds half a character (a lone surrogate)", "write the whole one") from None


def keyphrases_of(listed: list[str], post_id: str | None = None) -> tuple[str, ...]:
    """The keyphrases without blanks around them, and without empty ones; `BadLine` where none is left."""
    keyphrases = tuple(k for k in (keyphrase.strip() for keyphrase in listed) if k)
    if not keyphrases:
        raise BadLine("the post has no keyphrase", "give it at least one, or leave the post out", post_id)
    return keyphrases


def quoted(text: str, most: int = 80) -> str:
    """The text in quotes for a message, cut where it is long."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")
