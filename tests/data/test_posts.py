"""Every line of a posts file becomes one post or one reject that says what is wrong with it."""

import gzip
import json
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmkp_jax.data.posts import Post, Reject, read_cmkp, read_jsonl
from mmkp_jax.data.sources import SPLITS
from mmkp_jax.data.tidying import Notes
from mmkp_jax.errors import InputError
from tests.support.shared_folder import CMKP, cmkp

GOOD = {"id": "a", "text": "hello", "image": "a.jpg", "keyphrases": ["good news"], "cot": None}


def read_lines(tmp_path: Path, content: str | bytes) -> list[Post | Reject]:
    file = tmp_path / "train_src.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_cmkp(tmp_path, "train"))


def jsonl(tmp_path: Path, *lines: object) -> list[Post | Reject]:
    file = tmp_path / "posts.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return list(read_jsonl(file))


@contextmanager
def at_most_mb(most: int):
    """Lets the process map no more than `most` MB beyond what it has."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + most * 10**6, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_cmkp_line_is_a_post(tmp_path):
    (post,) = read_lines(tmp_path, "a text<sep>good news; snow day ;<sep>https://pbs.twimg.com/media/X.jpg\n")
    assert (post.id, post.text, post.image) == ("train-1", "a text", "X.jpg")
    assert post.keyphrases == ("good news", "snow day")
    assert post.cot is None


def test_cmkp_ids_count_rejected_lines(tmp_path):
    first, second, third = read_lines(tmp_path, "t<sep>k<sep>http://h/a.jpg\nt<sep>k\nu<sep>k<sep>http://h/b.jpg")
    assert (first.id, second.id, third.id) == ("train-1", "train-2", "train-3")
    assert isinstance(second, Reject)
    assert (second.line, second.reason) == (2, "the line has 2 fields, not 3")
    assert second.file.endswith("train_src.txt")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\n", "1 field,"),
        (b"a<sep>b<sep>c<sep>http://h/d.jpg", "4 fields"),
        (b"a<sep> ; <sep>http://h/d.jpg", "no keyphrase"),
        (b"a<sep>k<sep>http://h/", "names no file"),
        (b"\xff<sep>k<sep>http://h/d.jpg", "UTF-8"),
    ],
)
def test_bad_cmkp_line_is_rejected(tmp_path, line, reason):
    (reject,) = read_lines(tmp_path, line)
    assert reason in reject.reason
    assert reject.as_error().where.endswith("train_src.txt:1")


def test_unicode_line_breaks_stay_inside_a_post(tmp_path):
    (post,) = read_lines(tmp_path, "one\u2028two\x0cthree<sep>k<sep>http://h/a.jpg\n")
    assert post.text == "one\u2028two\x0cthree"


def test_json_line_is_a_post(tmp_path):
    posts = jsonl(tmp_path, GOOD, GOOD | {"id": "b", "image": None, "cot": "since …"})
    assert [(p.id, p.image, p.cot, p.line) for p in posts] == [("a", "a.jpg", None, 1), ("b", None, "since …", 2)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "JSON is nested too deep"),
        ('{"id": "a", "x": ' + "[" * 100_000, "JSON is nested too deep"),
        ('{"id": ' + "9" * 10_000 + "}", "a number with too many digits"),
        ('{"id": 1e999}', "'id' is Infinity"),
        ('{"id": [[["a"]]]}', "'id' is a list"),
        ("[]", "not a JSON object"),
        ({k: v for k, v in GOOD.items() if k != "text"}, "no 'text'"),
        (GOOD | {"id": 7.5}, "'id' is 7.5"),
        (GOOD | {"id": True}, "'id' is true"),
        (GOOD | {"image": "a" * 5000}, "5,000 characters, more than 4,096"),
        (GOOD | {"image": None, "images": ["a.jpg", "b.jpg"]}, "2 images"),
        (GOOD | {"id": ""}, "id is empty"),
        (GOOD | {"id": "a" * 257}, "257 characters, more than 256"),
        (GOOD | {"id": "a\0"}, "NUL"),
        (GOOD | {"keyphrases": []}, "no keyphrase"),
        (GOOD | {"keyphrases": [" "]}, "no keyphrase"),
        (GOOD | {"keyphrases": 3}, "'keyphrases' is 3"),
        (GOOD | {"keyphrases": " ; "}, "no keyphrase"),
        (GOOD | {"keyphrases": ["</answer>"]}, "holds a tag"),
        (GOOD | {"keyphrases": [1]}, "not text"),
        (GOOD | {"keyphrases": ["a;b"]}, "';'"),
        (GOOD | {"text": "\ud83d"}, "surrogate"),
    ],
)
def test_bad_json_line_is_rejected(tmp_path, line, reason):
    (reject,) = jsonl(tmp_path, line)
    assert isinstance(reject, Reject)
    assert reason in reject.reason


def test_rows_are_taken_as_meant_with_one_note_a_file(tmp_path):
    rows = [
        {"id": 12, "text": "a", "image": None, "keyphrases": ["k"]},
        {"text": "b", "image": "b.jpg", "keyphrases": ["k"]},
        {"id": "c", "text": "c", "keyphrases": "coffee; brown coffee"},
        {"id": "d", "text": "d", "images": ["d.jpg"], "keyphrases": ["new\nyork", "los  angeles", "a\u00a0b"]},
        {"id": "e", "text": "e", "image": None, "keyphrases": ["paris", "Paris", "rome", "\u200b"]},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()
    posts = list(read_jsonl(tmp_path / "train.jsonl", notes=notes))
    assert [post.id for post in posts] == ["12", "train-2", "c", "d", "e"]
    assert [post.image for post in posts] == [None, "b.jpg", None, "d.jpg", None]
    assert [post.keyphrases for post in posts[2:]] == [
        ("coffee", "brown coffee"),
        ("new york", "los angeles", "a b"),
        ("paris", "rome"),
    ]
    assert notes.lines() == [
        f"{tmp_path / 'train.jsonl'}: taken as meant: 1 rows with a number as id, taken as text; "
        "1 rows without an id, named after the file and line; 1 rows without 'image', taken as posts without one; "
        "1 rows with keyphrases in one text, split at ';'; "
        "1 rows with line breaks or more than one blank in a keyphrase, made one blank; "
        "1 rows with a keyphrase of invisible characters, left out; "
        "1 rows with a keyphrase twice (in any case), kept once"
    ]


def test_a_post_whose_keyphrases_are_all_unseen_has_none(tmp_path):
    row = {"id": "a", "text": "a", "image": None, "keyphrases": ["", " ", "\u200b", "\u2060\ufeff"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (reject,) = read_jsonl(tmp_path / "train.jsonl")
    assert isinstance(reject, Reject) and reject.reason == "the post has no keyphrase"


def test_keyphrases_of_cmkp_files_are_read_as_they_are(tmp_path):
    (post,) = read_lines(tmp_path, "a<sep>los  angeles;paris;Paris<sep>http://h/a.jpg")
    assert post.keyphrases == ("los  angeles", "paris", "Paris")


def test_a_repeat_of_a_number_as_id_is_rejected(tmp_path):
    _, reject = jsonl(tmp_path, GOOD | {"id": 12}, GOOD | {"id": "12"})
    assert reject.reason == "the id '12' is in line 1 too"


def test_a_line_longer_than_the_limit_is_rejected_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MMKP_MAX_LINE_BYTES", "1000")
    reject, post = jsonl(tmp_path, GOOD | {"text": "a" * 2000}, GOOD)
    assert reject.reason == "a line has more than 1,000 bytes" and "MMKP_MAX_LINE_BYTES" in reject.hint
    assert post.id == "a"
    reject, post = read_lines(tmp_path, "a" * 2000 + "<sep>k<sep>http://h/a.jpg\nt<sep>k<sep>http://h/a.jpg\n")
    assert (reject.id, post.id) == ("train-1", "train-2") and "more than 1,000 bytes" in reject.reason


def test_a_line_of_600_mb_in_a_small_gzip_takes_little_memory(tmp_path):
    with gzip.open(tmp_path / "train.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(600):
            file.write(b" " * (1 << 20))
        file.write(b"\n" + json.dumps(GOOD).encode())
    with at_most_mb(100):
        reject, post = read_jsonl(tmp_path / "train.jsonl.gz")
    assert "bytes" in reject.reason and post.id == "a"


def test_a_bad_chain_keeps_its_post_for_evaluation(tmp_path):
    (reject,) = jsonl(tmp_path, GOOD | {"cot": "<think>a<think>b</think></think>"})
    assert "nested" in reject.reason
    assert (reject.id, reject.post.id, reject.post.keyphrases, reject.post.cot) == ("a", "a", ("good news",), None)


def test_repeated_id_is_rejected(tmp_path):
    _, reject = jsonl(tmp_path, GOOD, GOOD)
    assert (reject.id, reject.line, reject.reason) == ("a", 2, "the id 'a' is in line 1 too")


def test_blank_lines_are_passed_over_but_counted(tmp_path):
    rows = jsonl(tmp_path, GOOD, "", " \t\r", GOOD | {"id": "b"}, "")
    assert [(row.id, row.line) for row in rows] == [("a", 1), ("b", 4)]


@pytest.mark.parametrize("cot", [None, "", "  ", "\n"])
def test_a_blank_chain_is_none(tmp_path, cot):
    assert jsonl(tmp_path, GOOD | {"cot": cot})[0].cot is None


def test_missing_file_is_the_users_mistake(tmp_path):
    with pytest.raises(InputError, match=r"train_src\.txt"):
        list(read_cmkp(tmp_path, "train"))


def test_real_posts_are_all_read():
    cmkp("tw_mm_s1_tiny")
    counts = {split: [type(row) for row in read_cmkp(CMKP / "tw_mm_s1_tiny", split)] for split in SPLITS}
    assert {split: len(rows) for split, rows in counts.items()} == {"train": 200, "valid": 200, "test": 50}
    assert all(kind is Post for rows in counts.values() for kind in rows)


def test_real_posts_have_the_published_figures():
    train = set(cmkp("tw_mm_s1/train_keyphrases.txt").read_text(encoding="utf-8").split("\n")) - {""}
    found = {split: list(read_cmkp(CMKP / "tw_mm_s1", split)) for split in ("valid", "test")}
    assert {split: len(posts) for split, posts in found.items()} == {"valid": 5370, "test": 5372}
    assert all(isinstance(post, Post) for posts in found.values() for post in posts)
    different = {split: {each for post in posts for each in post.keyphrases} for split, posts in found.items()}
    assert {split: len(each) for split, each in different.items()} == {"valid": 2544, "test": 2534}
    assert {split: len(each & train) for split, each in different.items()} == {"valid": 2488, "test": 2466}
    assert f"{len(different['test'] & train) / len(different['test']):.2%}" == "97.32%"
