"""Rows written for other trainers: one question with one image, and its answer, become a post.

- LLaVA: `{"id", "image", "conversations": [{"from": "human", "value": "<image>\\n…"}, {"from": "gpt", "value": …}]}`
- LLaMA-Factory's sharegpt: `conversations` or `messages`, and `"images": [path]`
- OpenAI: `{"messages": [{"role": "user", "content": [{"type": "text", …}, {"type": "image_url", …}]}, …]}`

The whole question is the post's text, an instruction in it included: rows do not tell which part is which.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmkp_jax.data.posts import BadLine, Post, check_characters, keyphrases_of, own_post

PLACEHOLDER = "<image>"
"""Where the question shows the image; of LLaVA and sharegpt, when the row names one."""

ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Who speaks, by each trainer's name for it."""

ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
TAG = re.compile(r"</?(?:think|answer)>")

_PLACE = re.compile(rf"{PLACEHOLDER}\n?|\n{PLACEHOLDER}\Z")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


def post_of(row: dict[str, Any], file: str, number: int) -> Post:
    """The post of a row in any known form: this project's own or, where it holds turns of a conversation, another's.

    A row without an id is named after its file and line. What the system says is passed over.

    Raises:
        BadLine: the row cannot be mapped to one post.
    """
    if "conversations" not in row and "messages" not in row:
        return own_post(row, file, number)
    post_id = _id(row, file, number)
    question, answer = _turns(row, post_id)
    text, shown = _content(question, post_id)
    named = [*_listed(row, "image", post_id), *_listed(row, "images", post_id)]
    if row.get("videos") or row.get("audios"):
        raise BadLine("the row has a video or sound", "leave it out", post_id)
    if len(named + shown) > 1:
        raise BadLine(f"the row has {len(named + shown)} images", "give each post one image, or none", post_id)
    if named:
        text = _PLACE.sub("", text, count=1)  # once: another one is the user's own text
    target, pictures = _content(answer, post_id)
    if pictures:
        raise BadLine("the answer has an image", "answer with keyphrases", post_id)
    keyphrases, cot = parse_answer(target, post_id)
    image = next(iter(named + shown), None)
    check_characters(post_id, text, image or "", cot or "", *keyphrases)
    return Post(post_id, text, image, keyphrases, cot, file, number)


def parse_answer(text: str, post_id: str | None = None) -> tuple[tuple[str, ...], str | None]:
    """The keyphrases of an answer, and its chain of thought if it has one.

    `kp; kp`, or `<think>…</think><answer>kp; kp</answer>`, of which the last complete answer counts.

    Raises:
        BadLine: there is a tag but no complete answer, or no keyphrase.
    """
    answers = ANSWER.findall(text)
    if not answers and TAG.search(text):
        raise BadLine("the answer has a tag, but no complete <answer>…</answer>", "complete it", post_id)
    thought = THINK.search(text)
    cot = thought[1].strip() if thought else ""
    return keyphrases_of((answers[-1] if answers else text).split(";"), post_id), cot or None


def _id(row: dict[str, Any], file: str, number: int) -> str:
    post_id = row.get("id", f"{Path(file).name.split('.')[0]}-{number}")
    if isinstance(post_id, bool) or not isinstance(post_id, str | int) or post_id == "":
        raise BadLine("'id' is neither text nor a number", "give every post its own id")
    return str(post_id)


def _turns(row: dict[str, Any], post_id: str) -> tuple[Any, Any]:
    """What is asked and what is answered."""
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadLine(
            "the conversation is no list of turns", 'write [{"from": "human", …}, {"from": "gpt", …}]', post_id
        )
    told = []
    for turn in turns:
        role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(role, str) or role not in ROLES:
            raise BadLine(f"a turn is by {role!r}", "leave the row out", post_id)
        if ROLES[role] != "system":
            told.append((ROLES[role], content))
    if [role for role, _ in told] != ["user", "assistant"]:
        what = f"{len(told)} turn{'s' * (len(told) != 1)} ({', '.join(role for role, _ in told)})"
        raise BadLine(f"the conversation has {what}", "give one question and one answer", post_id)
    return told[0][1], told[1][1]


def _content(content: Any, post_id: str) -> tuple[str, list[str]]:
    """The text of a turn and the images in it."""
    if isinstance(content, str):
        return content, []
    texts, images = [], []
    for part in content if isinstance(content, list) else [content]:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(path)} | str(path)}:
                images.append(_local(path, post_id))
            case {"type": "image", "image": str(path)}:
                images.append(_local(path, post_id))
            case _:
                raise BadLine("a turn holds neither text nor a named image", "leave the row out", post_id)
    return "\n".join(texts), images


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
    if scheme := _URL.match(path):
        kept = "inside the row" if scheme[0].lower() == "data:" else f"at a URL ({scheme[0]})"
        mend = "save it in the folder of images, and name it relative to that"
        raise BadLine(f"the image is {kept}, not in a file", mend, post_id)
    return path
