"""Rows written for other trainers: one question with one image, and its answer, become a post.

- LLaVA: `{"id", "image", "conversations": [{"from": "human", "value": "<image>\\n…"}, {"from": "gpt", "value": …}]}`
- LLaMA-Factory's sharegpt: `conversations` or `messages`, and `"images": [path]`
- OpenAI: `{"messages": [{"role": "user", "content": [{"type": "text", …}, {"type": "image_url", …}]}, …]}`
- TRL: `{"messages" (or "prompt" and "completion"): [… [{"type": "image"}, {"type": "text", …}] …], "images": [path]}`

The whole question, including any instruction in it, is the post's text: rows do not separate the two.
"""

import re
from collections.abc import Iterator
from typing import Any

from mmkp_jax.data.chains import parse_answer
from mmkp_jax.data.fields import BadLine
from mmkp_jax.data.posts import Post, own_post, post_id_of, tidied, with_chain
from mmkp_jax.data.tidying import Notes
from mmkp_jax.runtime.json_files import shown

PLACEHOLDER = "<image>"
"""Placeholder of the image in the question, in LLaVA and sharegpt rows that name one."""

ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""The speaker of a turn, by each trainer's name for it."""

_PLACEHOLDERS = re.compile(rf"{PLACEHOLDER}\n?|\n{PLACEHOLDER}\Z")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


def post_of(row: dict[str, Any], file: str, number: int, notes: Notes | None = None) -> Post:
    """The post of a row in any known format: this project's own or, where it holds turns of a conversation, another's.

    A row without an id is named after its file and line. System turns are ignored.

    Args:
        notes: counts what was accepted with a correction; see `own_post`.

    Raises:
        BadLine: the row cannot be mapped to one post.
    """
    if not {"conversations", "messages"} & row.keys() and not {"prompt", "completion"} <= row.keys():
        return own_post(row, file, number, notes)
    notes = notes or Notes()
    post_id = post_id_of(row, file, number, notes)
    question, answer = _turns(row, post_id)
    text, shown, placeholders = _content(question, post_id)
    named = [*_listed(row, "image", post_id), *_listed(row, "images", post_id)]
    if row.get("videos") or row.get("audios"):
        raise BadLine("the row has a video or sound", "leave it out", post_id)
    if len(named + shown) > 1:
        raise BadLine(f"the row has {len(named + shown)} images", "give each post one image, or none", post_id)
    if placeholders > len(named):
        raise BadLine(
            f"the question shows {placeholders} images that the row does not name", "name it in 'images'", post_id
        )
    if named and not placeholders:
        text = _PLACEHOLDERS.sub("", text, count=1)  # one only: another one is the user's own text
    target, shown_back, placeholders = _content(answer, post_id)
    if shown_back or placeholders:
        raise BadLine("the answer has an image", "answer with keyphrases", post_id)
    keyphrases, cot = parse_answer(target, post_id)
    post = Post(post_id, text, next(iter(named + shown), None), keyphrases, None, file, number)
    return with_chain(tidied(post, notes), cot)


def _turns(row: dict[str, Any], post_id: str) -> tuple[Any, Any]:
    """The contents of the question and of the answer."""
    turns = row.get("conversations", row.get("messages"))
    if turns is None and isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        turns = row["prompt"] + row["completion"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadLine(
            "the conversation is no list of turns", 'write [{"from": "human", …}, {"from": "gpt", …}]', post_id
        )
    said = []
    for turn in turns:
        role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(role, str) or role not in ROLES:
            raise BadLine(f"a turn is by {shown(role)}", "leave the row out", post_id)
        if ROLES[role] != "system":
            said.append((ROLES[role], content))
    if [role for role, _ in said] != ["user", "assistant"]:
        what = f"{len(said)} turn{'s' * (len(said) != 1)} ({', '.join(role for role, _ in said)})"
        raise BadLine(f"the conversation has {what}", "give one question and one answer", post_id)
    return said[0][1], said[1][1]


def _content(content: Any, post_id: str) -> tuple[str, list[str], int]:
    """The text of a turn, the images that it names, and its number of placeholders for images that the row names."""
    if isinstance(content, str):
        return content, [], 0
    texts, images, placeholders = [], [], 0
    for part in content if isinstance(content, list) else [content]:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(path)} | str(path)}:
                images.append(_local(path, post_id))
            case {"type": "image", "image": str(path)} | {"type": "image", "path": str(path)}:
                images.append(_local(path, post_id))
            case {"type": "image", **rest} if not any(rest.values()):
                placeholders += 1
            case _:
                raise BadLine("a turn holds neither text nor a named image", "leave the row out", post_id)
    return "\n".join(texts), images, placeholders


def _listed(row: dict[str, Any], name: str, post_id: str) -> Iterator[str]:
    """The image or images that a field of the row names; null, "" and [] name none."""
    value = row.get(name)
    if value is None or value == "":
        return
    for path in value if isinstance(value, list) else [value]:
        if not isinstance(path, str):
            raise BadLine(f"{name!r} holds something that is no path", "name the image's file", post_id)
        yield _local(path, post_id)


def _local(path: str, post_id: str) -> str:
    if (scheme := _URL.match(path)) and scheme[0].lower() != "file://":
        kept = "inside the row" if scheme[0].lower() == "data:" else f"at a URL ({scheme[0]})"
        hint = "save it in the folder of images, and name it relative to that"
        raise BadLine(f"the image is {kept}, not in a file", hint, post_id)
    return path
