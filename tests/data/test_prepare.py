"""The command: a raw folder becomes a dataset, nothing is lost, and each mistake is reported in one line."""

import gzip
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmkp_jax import prepare
from mmkp_jax.data import shards
from mmkp_jax.data.records import dataset_folders
from mmkp_jax.data.resample import resample
from mmkp_jax.data.sources import mmkp
from mmkp_jax.errors import InputError
from tests.support.paths import ROOT
from tests.support.raw_posts import json_post, read_rows, records_of, write_cmkp, write_images, write_rows


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("raw") / "images")


@pytest.fixture
def run(tmp_path, images, capsys):
    """Runs the command on `tmp_path/raw`; returns its exit status, lines of output and of errors."""

    def run(*flags: str, dataset: str = "mmkp") -> tuple[int, list[str], list[str]]:
        known = {"dataset": dataset, "raw": tmp_path / "raw", "images": images, "out": tmp_path / "out"}
        given = {flag.partition("=")[0].lstrip("-") for flag in flags}
        status = prepare.main([*(f"--{name}={value}" for name, value in known.items() if name not in given), *flags])
        reported = capsys.readouterr()
        errors = [line for line in reported.err.splitlines() if "post/s" not in line and line.strip()]
        return status, reported.out.splitlines(), errors

    return run


def test_mmkp_takes_the_splits_that_are_there(run, tmp_path, images):
    write_cmkp(tmp_path / "raw", valid=["Snow day;news"] * 3, test=["a"] * 2)
    status, reported, _ = run()
    assert status == 0
    assert reported[:3] == [
        "missing, so not in the dataset: train_src.txt",
        "valid: 3 posts = 3 records + 0 rejects",
        "test: 2 posts = 2 records + 0 rejects",
    ]
    record = records_of(tmp_path / "out", "valid")[1]
    assert (record.id, record.text, record.keyphrases) == ("valid-2", "valid 1", ("Snow day", "news"))
    assert record.image == (images / "1.jpg").read_bytes()
    assert (record.width, record.height) == (41, 30)


def test_counts_add_up_and_rejects_are_listed(run, tmp_path):
    write_cmkp(tmp_path / "raw", train=["a", "b", "", "c"])
    with (tmp_path / "raw/train_src.txt").open("ab") as file:
        file.write(b"two fields<sep>k\n\xff<sep>k<sep>http://h/0.jpg\nt<sep>k<sep>http://h/none.jpg\n")
    status, reported, _ = run()
    assert (status, reported[1]) == (0, "train: 7 posts = 3 records + 4 rejects")
    rejects = read_rows(tmp_path / "out/rejects.jsonl")
    assert [(row["id"], row["line"], row["reason"]) for row in rejects] == [
        ("train-3", 3, "the post has no keyphrase"),
        ("train-5", 5, "the line has 2 fields, not 3"),
        ("train-6", 6, "the line is not UTF-8"),
        ("train-7", 7, "there is no image 'none.jpg'"),
    ]
    assert all(row["hint"] and row["file"].endswith("train_src.txt") and row["split"] == "train" for row in rejects)


@pytest.mark.parametrize("flags", [(), ("--on_bad_row=drop",), ("--on_bad_row=error",)])
def test_the_same_command_again_leaves_the_dataset(run, tmp_path, monkeypatch, flags):
    write_cmkp(tmp_path / "raw", train=["a", "b"])
    run()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    monkeypatch.chdir(tmp_path)
    status, reported, _ = run("--raw=raw", *flags)  # by another name
    assert status == 0
    assert "the dataset exists already, from the same posts and images, and is left unchanged" in reported
    assert reported[1] == "train: 2 posts = 2 records + 0 rejects"
    files = (tmp_path / "out").rglob("*")
    assert {file: file.stat().st_mtime_ns for file in files if file.is_file()} == {
        file: at for file, at in before.items() if file.is_file()
    }


def test_another_dataset_is_not_written_over(run, tmp_path):
    write_cmkp(tmp_path / "raw", train=["a", "b"])
    run()
    write_cmkp(tmp_path / "raw", train=["a", "c"])
    status, _, errors = run()
    assert (status, len(errors)) == (2, 1)
    assert "out: the folder already holds a dataset of other posts or images (by" in errors[0]
    assert [record.keyphrases for record in records_of(tmp_path / "out", "train")] == [("a",), ("b",)]


@pytest.mark.parametrize("damage", ["shard", "rejects gone", "rejects cut", "provenance gone"])
def test_a_damaged_dataset_is_not_left_as_it_is(run, tmp_path, damage):
    write_cmkp(tmp_path / "raw", train=["a;own", "b", ""], test=["a", "b"])
    assert run("--target_overlap=1", dataset="mmkp_v2")[0] == 0
    out = tmp_path / "out"
    if damage == "shard":
        file = next(out.rglob("*train*array_record*"))
        with file.open("r+b") as opened:
            opened.seek(file.stat().st_size // 2)
            opened.write(b"\xde\xad\xbe\xef")
    elif damage == "rejects cut":
        (out / "rejects.jsonl").write_text("")
    else:
        (out / f"{damage.split()[0]}.jsonl").unlink()
    status, _, errors = run("--target_overlap=1", dataset="mmkp_v2")
    assert (status, len(errors)) == (2, 1)
    assert "delete the dataset and prepare it again" in errors[0]


def test_the_rejects_of_a_dataset_that_is_there_are_errors_where_none_may_be(run, tmp_path):
    write_cmkp(tmp_path / "raw", train=["a"])
    with (tmp_path / "raw/train_src.txt").open("a") as file:
        file.write("t<sep>k<sep>http://h/none.jpg\n")
    assert run()[0] == run()[0] == 0
    status, _, errors = run("--on_bad_row=error")
    assert status == 2
    assert re.search(r"train_src.txt:2: there is no image 'none.jpg'", errors[0])


def test_a_stray_file_in_the_datasets_folder_is_one_line(run, tmp_path):
    write_cmkp(tmp_path / "raw", train=["a"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/dataset_info.json").write_text('{"mine": {"file_name": "train.json"}}')
    status, _, errors = run()
    assert (status, len(errors)) == (2, 1)
    assert re.search(r"out/dataset_info.json: this describes no dataset \(.*\); move it away", errors[0])


def test_of_two_at_once_one_is_refused(run, tmp_path, images):
    write_cmkp(tmp_path / "raw", train=["a"] * 50)
    first = child(tmp_path, images, delay=0.2)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/unfinished").exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    status, _, errors = run()
    assert (status, errors) == (
        2, [f"{tmp_path / 'out'}: another process is preparing a dataset there; wait for it, or give another folder"]
    )  # fmt: skip
    assert first.wait(timeout=60) == 0
    assert len(records_of(tmp_path / "out", "train")) == 50


def bad_lines() -> dict[str, tuple[dict[str, bytes], tuple[str, ...], str]]:
    """Raw files, flags, and what the one line must say."""
    good = b"t<sep>k<sep>http://h/0.jpg\n"
    train = {"train_src.txt": good * 2}
    return {
        "no posts": ({}, (), r"raw: the folder holds no posts; give the folder with train_src.txt"),
        "no posts of ours": ({}, ("--dataset=keyphrase_posts",), r"raw: the folder holds no posts; .*train.jsonl"),
        "no raw folder": ({}, ("--raw=/nowhere",), r"/nowhere: the folder holds no posts"),
        "unknown dataset": (train, ("--dataset=mkmp",), r"unknown dataset 'mkmp' \(did you mean 'mmkp'\?\)"),
        "unknown flag": (train, ("--on_bad_rows=drop",), r"--on_bad_rows.*did you mean '--on_bad_row'"),
        "no dataset": (train, ("--dataset=",), r"--dataset is not given"),
        "two fields": (
            {"train_src.txt": good + b"t<sep>k\n"},
            ("--on_bad_row=error",),
            r"train_src.txt:2: the line has 2 fields, not 3; write it as",
        ),
        "not UTF-8": (
            {"train_src.txt": good + b"\xe9<sep>k<sep>http://h/0.jpg\n"},
            ("--on_bad_row=error",),
            r"train_src.txt:2: the line is not UTF-8; save the file as UTF-8",
        ),
        "image missing": (
            {"train_src.txt": good + b"t<sep>k<sep>http://h/gone.jpg\n" * 2},
            ("--on_bad_row=error",),
            r"train_src.txt:2: there is no image 'gone.jpg'",
        ),
        "none usable": (
            {"train_src.txt": b"x\n"},
            (),
            r"train_src.txt:1: no line of the split 'train' can be used \(the line has 1 f",
        ),
        "a stray file": (
            {"train.jsonl": json.dumps(json_post("a")).encode(), "dataset_info.json": b'{"mine": {"file": "x"}}\n'},
            ("--dataset=keyphrase_posts",),
            r"dataset_info.json:1: no line of the split 'dataset_info' .* 'text'\); fix the file, or take it out",
        ),
        "out is raw": (train, ("--out=raw",), r"--out is the folder of --raw: give another"),
        "empty file": ({"train_src.txt": b""}, (), r"out: the split 'train' has no posts"),
        "no images folder": (train, ("--images=/nowhere",), r"/nowhere: there is no such folder of images"),
        "seed of nothing": (train, ("--seed=1",), r"--seed is for mmkp_v2 alone"),
        "overlap": ({**train, "test_src.txt": good}, ("--dataset=mmkp_v2", "--target_overlap=2"), r"2.0, not a share"),
        "nothing to resample": (train, ("--dataset=mmkp_v2",), r"there is no test_src.txt"),
        "no chains": (train, ("--cot=/nowhere.jsonl",), r"/nowhere.jsonl: there is no such file of chains"),
        "bad chain": (
            {**train, "cot": b'{"id": "train-1", "cot": "x"}\n{"id": "train-1"}\n'},
            ("--cot=raw/cot", "--on_bad_row=error"),
            r"cot:2: the post has no 'cot'",
        ),
        "out is a file": (train, ("--out=raw/train_src.txt",), r"train_src.txt: the dataset cannot be written"),
        "shard missing": (
            {"train-00000-of-00003.jsonl": b"{}\n", "train-00002-of-00003.jsonl": b"{}\n"},
            ("--dataset=keyphrase_posts",),
            r"raw: the split 'train' lacks 1 of 3 shards, the first number 00001; add",
        ),
        "split twice": (
            {"train-00000-of-00001.jsonl": b"{}\n", "train.jsonl": b"{}\n"},
            ("--dataset=keyphrase_posts",),
            r"the split 'train' is given twice: train-00000-of-00001.jsonl, train.jsonl",
        ),
        "no split's name": ({"a-b.jsonl": b"{}\n"}, ("--dataset=keyphrase_posts",), r"a-b.jsonl: its name gives no"),
        "all splits": ({"all.jsonl": b"{}\n"}, ("--dataset=keyphrase_posts",), r"all.jsonl: its name gives no split"),
        "no gzip": ({"train.jsonl.gz": b"{}\n"}, ("--dataset=keyphrase_posts",), r"train.jsonl.gz: .*not a gzip file"),
    }


@pytest.mark.parametrize("case", bad_lines())
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, case):
    files, flags, expected = bad_lines()[case]
    (tmp_path / "raw").mkdir()
    for name, content in files.items():
        (tmp_path / "raw" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    status, _, errors = run(*flags)
    assert status == 2
    assert len(errors) == 1
    assert re.search(expected, errors[0]), errors[0]
    assert not dataset_folders(tmp_path / "out")


def test_without_beam_its_flag_is_a_mistake(run, tmp_path, monkeypatch):
    write_cmkp(tmp_path / "raw", train=["a"])
    for name in ("apache_beam", "apache_beam.options", "apache_beam.options.pipeline_options"):
        monkeypatch.setitem(sys.modules, name, None)
    status, _, errors = run("--beam=--runner=DirectRunner")
    assert (status, errors) == (2, ["--beam: Apache Beam is not installed; pip install 'mmkp_jax[beam]'"])


def test_help_is_no_mistake(capsys):
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["--help"])
    assert stopped.value.code == 0
    assert "keyphrase_posts" in capsys.readouterr().out


def test_shards_are_one_split_in_their_order(run, tmp_path):
    raw = tmp_path / "raw"
    shards = [[json_post(f"{shard}{i}") for i in range(3)] for shard in "abc"]
    write_rows(raw / "train-00002-of-00003.jsonl", [*shards[2], json_post("a1")])
    write_rows(raw / "train-00000-of-00003.jsonl", shards[0])
    lines = "".join(json.dumps(row) + "\n" for row in shards[1]).encode()
    (raw / "train-00001-of-00003.jsonl.gz").write_bytes(gzip.compress(lines))
    question = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "3.jpg"}}]
    answer = "<think>since</think><answer>a; b</answer>"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    (raw / "test.json").write_text(json.dumps([{"messages": turns}]))
    status, reported, _ = run(dataset="keyphrase_posts")
    assert (status, reported[:3]) == (
        0,
        [
            f"{raw / 'test.json'}: taken as meant: 1 rows without an id, named after the file and line",
            "train: 10 posts = 9 records + 1 rejects",
            "test: 1 posts = 1 records + 0 rejects",
        ],
    )
    ids = [record.id for record in records_of(tmp_path / "out", "train")]
    assert ids == [f"{shard}{i}" for shard in "abc" for i in range(3)]
    (reject,) = read_rows(tmp_path / "out/rejects.jsonl")
    assert reject["reason"] == f"the id 'a1' is in {raw / 'train-00000-of-00003.jsonl'}:2 too"
    assert (Path(reject["file"]).name, reject["line"]) == ("train-00002-of-00003.jsonl", 4)
    (record,) = records_of(tmp_path / "out", "test")
    assert (record.id, record.text, record.keyphrases, record.cot) == ("test-1", "hi", ("a", "b"), "since")


def test_chains_are_joined_by_id_and_the_rest_reported(run, tmp_path):
    rows = [
        json_post("a"),
        json_post("b", cot="old"),
        json_post("c", cot="own"),
        json_post("d"),
        json_post("e", text=1),
    ]
    write_rows(tmp_path / "raw/train.jsonl", rows)
    lines = [{"id": "b", "cot": "new"}, {"id": "a", "cot": "why"}, {"id": "a", "cot": "again"}, {"id": "x", "cot": "y"}]
    chains = write_rows(
        tmp_path / "chains.jsonl", [*lines, {"id": "d", "cot": " "}, {"id": "e", "cot": "for a reject"}]
    )
    status, reported, _ = run(f"--cot={chains}", dataset="keyphrase_posts")
    assert status == 0
    assert [record.cot for record in records_of(tmp_path / "out", "train")] == ["why", "new", "own", None]
    assert reported[2] == (
        f"{chains}: 6 lines = 2 joined to posts as read (1 replaced another) + 2 without a post + 2 bad or "
        "duplicate; see cot_rejects.jsonl; posts read without a chain: train 1"
    )
    unused = read_rows(tmp_path / "out/cot_rejects.jsonl")
    assert [(row["id"], row["line"], row["reason"]) for row in unused] == [
        ("x", 4, "no post has this id"),
        ("e", 6, "its post is a reject"),
        ("a", 3, "the id 'a' is in line 2 too"),
        ("d", 5, "the chain of thought is empty"),
    ]


def test_chains_come_out_of_their_tags_or_are_rejected(run, tmp_path):
    bread = {"keyphrases": ["fresh bread", "Loaves"]}
    own = {
        "a": "<think>Loaves.</think><answer>loaves; Fresh  Bread</answer>",
        "b": "<think>hm</think>",
        "c": "<think>Loaves.</think><answer>lakeside market</answer>",
        "d": "<think>a<think>b</think></think>",
        "e": "so </think><answer>fresh bread</answer>",
        "f": "plain",
    }
    rows = [json_post(post_id, cot=cot, **bread) for post_id, cot in own.items()]
    write_rows(tmp_path / "raw/train.jsonl", rows)
    assert run(dataset="keyphrase_posts")[0] == 0
    assert {each.id: each.cot for each in records_of(tmp_path / "out", "train")} == {
        "a": "Loaves.", "b": "hm", "f": "plain"
    }  # fmt: skip
    rejects = {row["id"]: row for row in read_rows(tmp_path / "out/rejects.jsonl")}
    assert rejects.keys() == {"c", "d", "e"} and all(row["post"] for row in rejects.values())
    assert "'lakeside market', not in the post's keyphrases" in rejects["c"]["reason"]

    write_rows(tmp_path / "raw/train.jsonl", [json_post(post_id, **bread) for post_id in own])
    chains = write_rows(tmp_path / "chains.jsonl", [{"id": post_id, "cot": cot} for post_id, cot in own.items()])
    status, reported, warned = run(f"--cot={chains}", f"--out={tmp_path / 'joined'}", dataset="keyphrase_posts")
    assert status == 0
    found = {each.id: each.cot for each in records_of(tmp_path / "joined", "train")}
    assert found == {"a": "Loaves.", "b": "hm", "c": None, "d": None, "e": None, "f": "plain"}
    assert "6 lines = 3 joined to posts as read (0 replaced another) + 0 without a post + 3 bad" in reported[1]
    assert warned[-1].startswith("warning: 3 of 6 chains of thought (50%) are joined to no post: see ")
    unused = {row["id"]: row["reason"] for row in read_rows(tmp_path / "joined/cot_rejects.jsonl")}
    assert unused.keys() == {"c", "d", "e"} and "'lakeside market'" in unused["c"]
    strict = ("--on_bad_row=error", f"--out={tmp_path / 'strict'}", f"--cot={chains}")
    status, _, errors = run(*strict, dataset="keyphrase_posts")
    assert (status, len(errors)) == (2, 1) and "chains.jsonl:4: the chain of thought has a tag" in errors[0]


@pytest.mark.parametrize(
    "content", [gzip.compress(b"x", mtime=0), b"", b'{"id": "a"}\n'], ids=["gzip", "empty", "none"]
)
def test_a_file_without_a_chain_is_a_mistake_and_nothing_is_made(run, tmp_path, content):
    write_rows(tmp_path / "raw/train.jsonl", [json_post("a")])
    (tmp_path / "chains.jsonl").write_bytes(content)
    status, _, errors = run(f"--cot={tmp_path / 'chains.jsonl'}", dataset="keyphrase_posts")
    assert status == 2 and len(errors) == 1 and "lines holds a chain of thought" in errors[0]
    assert not (tmp_path / "out").exists()


def test_the_reasons_of_many_rejects_are_on_the_screen_with_a_warning(run, tmp_path):
    rows = [json_post(f"a{n}", image=None if n < 15 else f"none-{n}.jpg") for n in range(27)]
    write_rows(tmp_path / "raw/train.jsonl", [*rows, json_post("\x1b[2J", text=None)])
    status, reported, errors = run(dataset="keyphrase_posts")
    assert status == 0
    assert reported[:3] == [
        "train: 28 posts = 15 records + 13 rejects",
        "  train: 12 rejected: there is no image …; for example a15: there is no image 'none-15.jpg'",
        "  train: 1 rejected: 'text' is …; for example \\x1b[2J: 'text' is null",
    ]
    assert errors == [f"warning: 13 of 28 posts of train (46%) are rejects: see {tmp_path / 'out/rejects.jsonl'}"]


def test_a_damaged_result_of_a_killed_run_is_made_anew(run, tmp_path, images, monkeypatch):
    write_cmkp(tmp_path / "raw", train=["a"] * 4, test=["b"] * 4)
    (tmp_path / "blocks").mkdir()
    posts = [row for row in mmkp(tmp_path / "raw").splits["train"]]
    (block,) = shards.stage(posts, tmp_path / "blocks", "train")
    result = shards.write_block(block, images)
    assert shards.result_of(block, result.stamp) == result
    whole = json.loads(block.with_suffix(".result").read_text())
    for name in whole:
        for value in (None, [[]], {"a": 1}, -1, 1e999):
            block.with_suffix(".result").write_text(json.dumps(whole | {name: value}))
            assert shards.result_of(block, result.stamp) is None, (name, value)
    block.with_suffix(".result").write_text(json.dumps(whole)[:-9])
    assert shards.result_of(block, result.stamp) is None
    assert shards.write_block(block, images) == result


def test_mmkp_v2_is_resampled_with_its_provenance(run, tmp_path):
    keyphrases = {"train": [f"k{i % 12};extra" if i % 7 else f"own {i}" for i in range(60)]}
    keyphrases |= {"test": [f"k{i}" for i in range(12)] + ["extra", "k3"], "valid": ["k1", "k2"]}
    write_cmkp(tmp_path / "raw", **keyphrases)
    with (tmp_path / "raw/train_src.txt").open("a") as train, (tmp_path / "raw/valid_src.txt").open("a") as valid:
        train.write("bad\n")
        valid.write("train 1<sep>k9<sep>http://h/1.jpg\n")
    status, reported, _ = run("--seed=3", "--target_overlap=0.5", dataset="mmkp_v2")
    assert status == 0
    source = mmkp(tmp_path / "raw")
    posts = {split: [row for row in rows if isinstance(row, shards.Post)] for split, rows in source.splits.items()}
    train, test, provenance = resample(posts["train"], posts["test"], 0.5, 3)
    assert provenance.dropped and {"train", "test"} == set(provenance.test)
    out = tmp_path / "out"
    assert [record.id for record in records_of(out, "train")] == [post.id for post in train]
    assert [record.id for record in records_of(out, "test")] == [post.id for post in test]
    assert [record.id for record in records_of(out, "valid")] == ["valid-1", "valid-2", "valid-3"]
    rows = read_rows(out / "provenance.jsonl")
    assert [(row["id"], row["origin"]) for row in rows if row["split"]] == [
        (post.id, origin) for post, origin in zip(test, provenance.test, strict=True)
    ]
    assert [row["id"] for row in rows if not row["split"]] == [each.post.id for each in provenance.dropped]
    assert read_rows(out / "repeats.jsonl") == [{"id": "valid-3", "train": ["train-2"]}]
    assert f"train: {len(train) + 1} posts = {len(train)} records + 1 rejects" in reported
    assert dataset_folders(out)[0].parts[-3:] == ("mmkp_v2", "overlap_0.5-seed_3", "1.0.0")


def child(tmp_path: Path, images: Path, **options) -> subprocess.Popen:
    """The command in a process of its own, with blocks of 8 posts and slow images."""
    script = (
        "import sys, time; from mmkp_jax import prepare; from mmkp_jax.data import shards\n"
        "shards.POSTS_A_BLOCK, decode = 8, shards.upright_size\n"
        "def slow(data): time.sleep(float(sys.argv[1])); return decode(data)\n"
        "shards.upright_size = slow\n"
        "sys.exit(prepare.main(sys.argv[2:]))"
    )
    flags = ["--dataset=mmkp", f"--raw={tmp_path / 'raw'}", f"--images={images}", f"--out={tmp_path / 'out'}"]
    command = [sys.executable, "-c", script, str(options.pop("delay", 0)), *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_killed_run_resumes_and_never_counts_as_complete(run, tmp_path, images, monkeypatch):
    write_cmkp(tmp_path / "raw", train=[f"k{i}" for i in range(100)], test=["a"] * 10)
    killed = child(tmp_path, images, delay=0.02)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("unfinished/*.result"))) < 4:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not dataset_folders(tmp_path / "out")
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out/unfinished").glob("*.result")}
    assert 4 <= len(done) < 13
    monkeypatch.setattr(shards, "POSTS_A_BLOCK", 8)
    decoded = []
    monkeypatch.setattr(
        shards, "upright_size", lambda data, decode=shards.upright_size: decoded.append(1) or decode(data)
    )
    assert run()[0] == 0
    assert len(decoded) == 110 - 8 * len(done)
    assert [record.id for record in records_of(tmp_path / "out", "train")] == [f"train-{i}" for i in range(1, 101)]
    assert not (tmp_path / "out/unfinished").exists()


def test_what_was_done_from_another_image_is_done_again(run, tmp_path):
    write_cmkp(tmp_path / "raw", train=["a"] * 4)
    images = write_images(tmp_path / "images", count=3)  # the fourth comes later
    flags = ("--on_bad_row=error", f"--images={images}")
    assert run(*flags)[0] == 2
    write_images(tmp_path / "more")
    os.replace(tmp_path / "more/3.jpg", images / "3.jpg")
    assert run(*flags)[0] == 0
    assert len(records_of(tmp_path / "out", "train")) == 4


def test_an_image_of_the_same_size_written_anew_is_another(run, tmp_path):
    write_cmkp(tmp_path / "raw", train=["a"])
    images = write_images(tmp_path / "images")
    content = (images / "0.jpg").read_bytes()
    assert run(f"--images={images}")[0] == 0
    (images / "0.jpg").write_bytes(content[:-1] + b"\0")
    status, _, errors = run(f"--images={images}")
    assert status == 2 and "of other posts or images" in errors[0]


def test_a_full_disk_is_one_line_and_the_next_run_resumes(tmp_path, images):
    write_cmkp(tmp_path / "raw", train=["word " * 4000 + str(i) for i in range(16)])
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (170_000, 170_000))  # noqa: E731
    full = child(tmp_path, images, preexec_fn=limit)
    _, errors = full.communicate(timeout=120)
    reported = [line for line in errors.splitlines() if line.strip() and "post/s" not in line]
    assert (full.returncode, len(reported)) == (2, 1), errors
    assert "out: the dataset cannot be written (" in reported[0] and "check free space and permissions" in reported[0]
    assert not dataset_folders(tmp_path / "out")
    assert child(tmp_path, images).wait(timeout=120) == 0
    assert len(records_of(tmp_path / "out", "train")) == 16


def test_ctrl_c_says_how_to_go_on(run, tmp_path, monkeypatch):
    write_cmkp(tmp_path / "raw", train=["a"])

    def interrupted(data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "upright_size", interrupted)
    status, _, errors = run()
    assert (status, errors) == (130, ["stopped; the same command resumes"])
    with pytest.raises(InputError, match="no dataset"):
        records_of(tmp_path / "out", "train")
