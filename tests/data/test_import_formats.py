"""Rows that people have for other trainers become the same posts; what cannot be mapped says why."""

import json

import pytest

from mmkp_jax.data.chains import parse_answer
from mmkp_jax.data.fields import BadLine
from mmkp_jax.data.import_formats import post_of
from mmkp_jax.data.posts import Post, Reject, read_jsonl
from mmkp_jax.errors import InputError

TEXT, ANSWER = "the eras tour\n<image> was everything", "Taylor Swift; concert"
POST = Post("a-1", TEXT, "sub/a.jpg", ("Taylor Swift", "concert"), None, "train.jsonl", 3)


def ask(text: object, answer: object = ANSWER, *more: dict) -> list[dict]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": answer}, *more]


def llava(text: str, answer: str = ANSWER) -> list[dict]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]


SYSTEM = {"role": "system", "content": "You tag posts."}
PICTURE = {"type": "image_url", "image_url": {"url": "sub/a.jpg"}}


@pytest.mark.parametrize(
    "row",
    [
        {"image": "sub/a.jpg", "conversations": llava(f"<image>\n{TEXT}")},
        {"image": "sub/a.jpg", "conversations": llava(f"<image>{TEXT}")},
        {"image": ["sub/a.jpg"], "conversations": llava(f"<image>\n{TEXT}")},
        {"images": ["sub/a.jpg"], "conversations": llava(f"<image>\n{TEXT}"), "system": "You tag posts."},
        {"images": ["sub/a.jpg"], "messages": [SYSTEM, *ask(f"<image>\n{TEXT}")]},
        {"messages": ask([{"type": "text", "text": TEXT}, PICTURE])},
        {"messages": [SYSTEM | {"role": "developer"}, *ask([{"type": "text", "text": TEXT}, PICTURE])], "image": None},
        {"messages": ask([PICTURE | {"image_url": "sub/a.jpg"}, {"type": "text", "text": TEXT}])},
        {"messages": ask([{"type": "image", "image": "sub/a.jpg"}, {"type": "text", "text": TEXT}])},
        {"messages": ask([PICTURE, {"type": "text", "text": TEXT}], [{"type": "text", "text": ANSWER}])},
        {"messages": ask([{"type": "image"}, {"type": "text", "text": TEXT}]), "images": ["sub/a.jpg"]},
        {"messages": ask([{"type": "image", "path": "sub/a.jpg"}, {"type": "text", "text": TEXT}])},
        {
            "prompt": ask([{"type": "image"}, {"type": "text", "text": TEXT}])[:1],
            "completion": ask("", ANSWER)[1:],
            "images": ["sub/a.jpg"],
        },
    ],
)
def test_each_form_is_the_same_post(row):
    assert post_of({"id": "a-1"} | row, "train.jsonl", 3) == POST


def test_the_placeholder_goes_once_and_only_for_a_named_image():
    def text(question: str, image: str | None = "a.jpg") -> str:
        return post_of({"id": "a", "image": image, "conversations": llava(question)}, "f", 1).text

    assert text("<image>\nhi <image>") == "hi <image>"
    assert text("hi\n<image>") == "hi"
    assert text("no place") == "no place"
    assert text("<image>\nhi", image=None) == "<image>\nhi"
    assert text("<image>\n<|im_end|><think>") == "<|im_end|><think>"


def test_an_answer_with_a_chain_gives_both():
    assert parse_answer(" Snow day;snow ; ") == (("Snow day", "snow"), None)
    assert parse_answer("<think> It snows.\n</think> <answer>snow day; snow</answer>") == (
        ("snow day", "snow"),
        "It snows.",
    )
    assert parse_answer("<answer>a</answer><answer>b</answer>") == (("b",), None)  # the last complete one


@pytest.mark.parametrize("none", [None, "", []])
def test_no_image_is_null_or_empty(none):
    assert post_of({"image": none, "images": none, "conversations": llava("x")}, "f", 1).image is None


def test_a_file_may_have_a_colon_in_its_name():
    assert post_of({"image": "tweet:123.png", "conversations": llava("x")}, "f", 1).image == "tweet:123.png"


def test_ids_are_made_where_there_are_none():
    row = {"messages": ask("text")}
    assert post_of(row, "in/train-00001-of-00002.jsonl.gz", 7).id == "train-00001-of-00002-7"
    assert post_of(row | {"id": 12}, "f", 1).id == "12"
    assert post_of(row, "f", 1).image is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"images": ["a.jpg", "b.jpg"], "messages": ask("<image><image> two")}, "2 images"),
        ({"image": "a.jpg", "messages": ask([PICTURE])}, "2 images"),
        ({"messages": ask("a", "b", *ask("c", "d"))}, "4 turns"),
        ({"messages": ask("a")[:1]}, "1 turn "),
        ({"messages": []}, "0 turns"),
        ({"messages": "hi"}, "no list of turns"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 'by "tool"'),
        ({"image": "https://h/a.jpg", "conversations": llava("x")}, "at a URL (https://)"),
        ({"image": 0, "conversations": llava("x")}, "no path"),
        ({"image": {}, "conversations": llava("x")}, "no path"),
        (
            {"messages": ask([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}])},
            "inside the row",
        ),
        ({"messages": ask([{"type": "input_audio"}])}, "neither text nor"),
        ({"messages": ask(None)}, "neither text nor"),
        ({"messages": ask("x"), "videos": ["v.mp4"]}, "video"),
        ({"images": [{"bytes": "…"}], "messages": ask("x")}, "no path"),
        ({"messages": ask("x", "<think>cut off")}, "no complete <answer>"),
        ({"messages": ask("x", "<think>a<think>b</think></think><answer>k</answer>")}, "nested"),
        ({"messages": ask("x", "<think>a</think><think>b</think><answer>k</answer>")}, "twice"),
        ({"messages": ask([{"type": "image"}])}, "shows 1 images that the row does not name"),
        ({"messages": ask("x", [{"type": "image"}]), "images": ["a.jpg"]}, "answer has an image"),
        ({"messages": ask("x", " ; ")}, "no keyphrase"),
        ({"messages": ask("x", [PICTURE])}, "answer has an image"),
        ({"id": ["a"], "messages": ask("x")}, "'id'"),
        ({"messages": ask("\ud83d")}, "surrogate"),
        ({"id": "a"}, "no 'text'"),  # our own form, incomplete
    ],
)
def test_a_row_that_cannot_be_mapped_says_why(row, reason):
    with pytest.raises(BadLine) as bad:
        post_of(row, "f", 1)
    assert reason in bad.value.reason


def test_an_array_is_read_like_lines(tmp_path):
    rows = [{"id": i, "conversations": llava(f"post {i}")} for i in range(3)] + ["no object"]
    lines, array, flat = (tmp_path / name for name in ("a.jsonl", "b.json", "c.json"))
    lines.write_text("\n".join(map(json.dumps, rows)))
    array.write_text("\ufeff" + json.dumps(rows, indent=1), encoding="utf-8")
    flat.write_text("\n".join(map(json.dumps, rows)))  # JSON Lines by another name
    read = [[*read_jsonl(file, post_of=post_of)] for file in (lines, array, flat)]
    assert [[row.id for row in rows] for rows in read] == [["0", "1", "2", None]] * 3
    assert [row.line for row in read[1]] == [2, 15, 28, 41]
    assert isinstance(read[1][3], Reject)


@pytest.mark.parametrize(
    ("content", "where"),
    [('[{"id": "a"},\n {"id": ', ":2"), ('[{"id": "a"}\n{}]', ":2"), ("[\n\n{}", ":3"), ("[{},\n]", ":2")],
)
def test_a_damaged_array_is_an_error_with_its_line(tmp_path, content, where):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(InputError, match=f"train.json{where}: the array is not JSON"):
        list(read_jsonl(tmp_path / "train.json"))


def test_an_array_that_is_not_utf8_names_the_line(tmp_path):
    (tmp_path / "train.json").write_bytes(b'[{},\n{"id": "\xff"}]')
    with pytest.raises(InputError, match=r"train.json:2: is not UTF-8"):
        list(read_jsonl(tmp_path / "train.json"))
