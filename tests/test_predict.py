"""The command: from a model folder or a run to a file of predictions, resumed; and input errors in one line."""

import json
import subprocess
import sys

import pytest

from configs.dyncot import get_config
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.inference.predict import _explained
from mmkp_jax.predict import main
from tests.support.small_pocket import ROOT, SIZES, environment, run, small_pocket

FIELDS = ["id", "keyphrases", "predicted", "output", "form", "tokens", "think"]


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("pocket"))


@pytest.fixture(scope="module")
def trained(pocket):
    """The work directory of a short run that was tested at its best step."""
    workdir = pocket.parent / "run"
    flags = ["total_steps=4", "answer_tokens=8", "eval_every=2", "valid_posts=4", "best_metric=valid/words"]
    done = run(pocket, f"--workdir={workdir}", *(f"--config.{flag}" for flag in flags))
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir


def flat_scores(scores: dict) -> dict:
    return {f"{name} {i}": value for name, values in scores.items() for i, value in enumerate(values)}


def lines(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def of_posts(pocket, out, *flags: str) -> list[str]:
    posts, images = pocket / "posts/test.jsonl", pocket / "images"
    named = [f"--posts={posts}", f"--images={images}", f"--out={out}"]
    return [f"--model={pocket / 'model'}", *named, "--max_tokens=4", *flags]


def test_a_checkpoint_predicts_what_its_run_predicted(pocket, trained, tmp_path, capsys):
    (tested,) = (trained / "predictions").glob("test-*.jsonl")
    best = tested.stem.removeprefix("test-")
    posts = [f"--posts={pocket / 'posts/test.jsonl'}", f"--images={pocket / 'images'}"]
    data = [f"--data={pocket / 'dataset'}", "--split=test"]
    latest = tmp_path / "latest.jsonl"
    assert main([f"--model={trained}", *posts, f"--out={latest}"]) == 0, capsys.readouterr().err
    for name, step, source, expected in (("a", "best", data, tested), ("b", "4", data, latest)):
        out = tmp_path / f"{name}.jsonl"
        assert main([f"--model={trained}@{step}", *source, f"--out={out}"]) == 0, capsys.readouterr().err
        assert lines(out) == lines(expected) and [*lines(out)[0]] in (FIELDS, [*FIELDS, "scores"])
    assert best in ("2", "4") and (best == "4") == (lines(latest) == lines(tested))
    for step, message in (("5", "'5'; give one of the steps 3, 4, latest or best"), ("x", "no checkpoint 'x'")):
        assert main([f"--model={trained}@{step}", *posts, f"--out={tmp_path / 'd.jsonl'}"]) == 2
        assert message in capsys.readouterr().err


def test_a_checkpoint_is_restored_onto_other_devices_and_compiled_programs_are_kept(pocket, trained, tmp_path):
    out = tmp_path / "p.jsonl"
    own = environment(devices=4) | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    own.pop("JAX_COMPILATION_CACHE_DIR", None)
    data = [f"--data={pocket / 'dataset'}", "--split=test", f"--out={out}"]
    command = [sys.executable, "-m", "mmkp_jax.predict", f"--model={trained}@best", *data]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (tested,) = (trained / "predictions").glob("test-*.jsonl")
    assert lines(out) == lines(tested)
    assert any((tmp_path / "mmkp_jax" / "compiled").iterdir())


def test_an_interrupted_file_resumes_and_ends_in_order(pocket, tmp_path, capsys):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "p.jsonl"
    assert main(of_posts(pocket, whole)) == 0
    expected = whole.read_text().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in expected] == [f"test-{i + 1}" for i in range(SIZES["test"])]
    out.write_text(expected[4] + expected[1].replace('"tokens"', '"outputs": ["kept"], "tokens"') + expected[3][:20])
    assert main(of_posts(pocket, out)) == 0
    assert "2 of 6 posts are already predicted" in capsys.readouterr().out
    found, wanted = lines(out), lines(whole)
    assert found[1].pop("outputs") == ["kept"]  # what was there is kept, not predicted again
    for resumed, once in zip(found, wanted, strict=True):  # other batches: sums of float32 differ in their last digits
        assert flat_scores(resumed.pop("scores", {})) == pytest.approx(flat_scores(once.pop("scores", {})), abs=2e-4)
        assert resumed.pop("think", 0) == pytest.approx(once.pop("think", 0), rel=1e-3)
        assert list(resumed) == list(once) and resumed == once
    assert main(of_posts(pocket, whole)) == 0 and whole.read_text() == "".join(expected)
    assert "6 of 6 posts are already predicted" in capsys.readouterr().out


def test_what_was_predicted_of_other_posts_is_not_taken_for_these(pocket, tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    old = {
        "id": "test-2",
        "keyphrases": ["another pocket"],
        "predicted": [],
        "output": "",
        "form": "broken",
        "tokens": 0,
    }
    out.write_text(json.dumps(old) + "\n")
    assert main(of_posts(pocket, out)) == 2
    assert "predictions of other posts: 'test-2' has other keyphrases" in capsys.readouterr().err
    assert json.loads(out.read_text()) == old


def test_a_mode_decides_how_outputs_begin_and_is_part_of_the_file(pocket, tmp_path, capsys):
    out = {mode: tmp_path / f"{mode}.jsonl" for mode in ("auto", "direct", "think")}
    for mode, file in out.items():
        assert main(of_posts(pocket, file, f"--mode={mode}")) == 0, capsys.readouterr().err
    found = {mode: lines(file) for mode, file in out.items()}
    whole = [line for line in found["think"] if line["tokens"]]  # the last post's image is damaged
    assert len(whole) == 5 and all(line["output"].startswith("<think>") for line in whole)
    assert not any(line["output"].startswith("<think") for line in found["direct"])
    assert [[line.get("mode") for line in found[mode]] for mode in out] == [[None] * 6, ["direct"] * 6, ["think"] * 6]
    assert [line.get("think") for line in found["auto"]] == [line.get("think") for line in found["think"]]
    capsys.readouterr()
    assert main(of_posts(pocket, out["think"], "--mode=direct")) == 2
    message = f"{out['think']}:1: it was predicted with --mode=think, not direct; name another --out, or remove it"
    assert message in capsys.readouterr().err
    (tmp_path / "both").mkdir()
    both = tmp_path / "both" / "{mode}.jsonl"
    flags = of_posts(pocket, both, "--mode=think,direct")
    assert main(flags) == 0
    shown = capsys.readouterr().out
    assert shown.count("written: ") == 2 and "1 of 6 posts could not be used" in shown
    theirs = {mode: both.with_name(f"{mode}.jsonl") for mode in ("direct", "think")}
    kept = ("id", "output", "predicted", "form", "mode", "tokens")
    for mode, file in theirs.items():
        assert [[line.get(key) for key in kept] for line in lines(file)] == [
            [line.get(key) for key in kept] for line in found[mode]
        ]
    written = {file: file.read_text() for file in theirs.values()}
    for file, left in zip(theirs.values(), (1, 4), strict=True):  # some posts lack one mode, some both
        file.write_text("".join(written[file].splitlines(keepends=True)[:left]))
    assert main(flags) == 0 and {file: len(lines(file)) for file in written} == dict.fromkeys(written, 6)
    assert "4 of 6 posts are already predicted" in capsys.readouterr().out
    assert [line["output"] for line in lines(theirs["direct"])] == [line["output"] for line in found["direct"]]
    as_cmkp = tmp_path / "p.txt"
    as_cmkp.with_name("p.txt.jsonl").write_text(out["direct"].read_text().splitlines(keepends=True)[0])
    assert main(of_posts(pocket, as_cmkp)) == 2
    assert "it was predicted with --mode=direct, not auto" in capsys.readouterr().err


def test_any_other_ending_is_cmkps_form(pocket, tmp_path):
    out, as_jsonl = tmp_path / "p.txt", tmp_path / "p.jsonl"
    assert main(of_posts(pocket, out)) == 0 and main(of_posts(pocket, as_jsonl)) == 0
    assert out.read_text().splitlines() == [
        " ".join(";".join(line["predicted"]).splitlines()) for line in lines(as_jsonl)
    ]
    assert not (tmp_path / "p.txt.jsonl").exists()
    assert main(of_posts(pocket, out)) == 2  # a complete file is not overwritten


def test_posts_that_cannot_be_used_count_and_are_listed(pocket, tmp_path, capsys):
    rows = [json.loads(line) for line in (pocket / "posts/test.jsonl").read_text().splitlines()[:4]]
    rows[1]["image"] = "none.png"
    rows[2]["text"] = 7
    del rows[3]["keyphrases"]  # which are not needed here
    posts, out = tmp_path / "posts.jsonl", tmp_path / "p.jsonl"
    posts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--model={pocket / 'model'}", f"--posts={posts}", f"--images={pocket / 'images'}"]
    assert main([*flags, f"--out={out}", "--max_tokens=3"]) == 0
    predictions = lines(out)
    assert [line["id"] for line in predictions] == [row["id"] for row in rows]
    assert [line["tokens"] > 0 for line in predictions] == [True, False, False, True]
    assert predictions[1]["keyphrases"] == rows[1]["keyphrases"] and predictions[3]["keyphrases"] == []
    message = capsys.readouterr().out
    assert "2 of 4 posts could not be used" in message
    assert "test-2: there is no image 'none.png'" in message and "test-3: 'text' is 7" in message


def test_one_text_prints_its_keyphrases(pocket, capsys):
    image = sorted((pocket / "images").iterdir())[0]
    flags = [f"--model={pocket / 'model'}", "--text=spring parade", f"--image={image}", "--max_tokens=4"]
    assert main(flags) == 0
    direct = capsys.readouterr().out
    assert direct.count("\n") == 1
    assert main([*flags, "--explain"]) == 0
    assert "answered without reasoning" in (message := capsys.readouterr().out) and direct.strip() in message


def test_outputs_are_printed_without_moving_the_cursor():
    output = "<think>a \x1b[2J\nb\u202e</think><answer>c\rd</answer>"
    shown = _explained(Prediction("p\n1", [], ["c\rd"], output, "cot", 3))
    assert shown == "p\\n1\n  reasoning  a \\x1b[2J b\\u202e\n  predicted  c\\rd"


@pytest.mark.parametrize(
    "flags, line",
    [
        ([], "--model=FOLDER or WORKDIR is not given"),
        (["--model=x"], "no posts given: give one of --data, --posts and --text"),
        (["--model=x", "--text=a", "--posts=b"], "--posts and --text given"),
        (["--model=x", "--text=a", "--images=b"], "--images goes with --posts"),
        (["--model=x", "--data=a", "--out=p.jsonl"], "--data=DIR needs --split=NAME"),
        (["--model=x", "--posts=a"], "--out=FILE is not given"),
        (["--model=x", "--text=a", "--n=3"], "--n above 1 needs --temperature above 0"),
        (["--model=x", "--text=a", "--top_p=0"], "--top_p=0.0 is not from"),
        (["--model=x", "--text=a", "--top_p=0.5"], "--top_p needs --temperature above 0"),
        (["--model=x", "--text=a", "--seed=3"], "--seed needs --temperature above 0"),
        (["--model=x", "--text=a", "--temprature=1"], "(did you mean '--temperature'?)"),
        (["--model=x", "--text=a", "--batch_size=0"], "--batch_size=0 is less than 1"),
        (["--model=x", "--text=a", "--mode=cot"], "invalid choice: 'cot'"),
        (["--model=x", "--text=a", "--mode=think,direct,think"], "names a mode twice"),
        (["--model=x", "--text=a", "--mode=think,direct"], "needs --out with {mode} in the file's name"),
        (["--model=x", "--text=a", "--mode=think,direct", "--out=b.jsonl"], "needs --out with {mode}"),
        (
            ["--model=x", "--posts=a", "--out=b.jsonl", "--base_url=u", "--mode=think"],
            "--mode does not go with --base_url",
        ),
        (["--model=x", "--posts=a", "--out={{mode}}.jsonl", "--base_url=u"], "leave it out with --base_url"),
        (["--model=x", "--text=a", "--out=."], "this is a folder; name a file"),
        (["--model=x", "--text=a", "--prompt=training"], "--prompt goes with --base_url"),
        (["--model=no such", "--text=a"], "no such: there is no such folder"),
        (["--model={pocket}/model@3", "--text=a"], "there is no run here with a step @3"),
        (["--model={pocket}/images", "--text=a"], "the folder has no config.json"),
        (["--model={empty}", "--text=a"], "the run has no checkpoint"),
        (["--model=x", "--text=a", "--image=none.jpg"], "there is no image 'none.jpg'"),
        (["--model=x", "--text=a", "--image={pocket}/pocket.json"], "no image of a known kind"),
        (["--model=x", "--data={pocket}/dataset", "--split=tst", "--out=p.jsonl"], "did you mean 'test'?"),
        (["--model=x", "--posts={pocket}/posts/test.jsonl", "--out=p.jsonl"], "give --images=DIR"),
        (["--model=x", "--posts={pocket}/images", "--out=p.jsonl"], "its name does not say how posts are laid out"),
        (["--model=x", "--posts={pocket}/posts/test.jsonl", "--images={pocket}/images", "--out=none/p.txt"], "no such"),
        (["--model=x", "--posts={pocket}/posts/test.jsonl", "--images={pocket}/images", "--out={others}"], "'other'"),
    ],
)
def test_an_input_error_is_one_line_and_exit_2(pocket, tmp_path, capsys, monkeypatch, flags, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text(get_config().to_json())
    prediction = dict(id="other", keyphrases=[], predicted=[], output="", form="direct", tokens=1)
    (tmp_path / "others.jsonl").write_text(json.dumps(prediction) + "\n")
    places = {"pocket": pocket, "empty": tmp_path / "empty", "others": tmp_path / "others.jsonl"}
    assert main([flag.format(**places) for flag in flags]) == 2
    output = capsys.readouterr()
    *progress, message = output.err.splitlines()
    assert output.out == "" and line in message and all("0/1 posts [00:0" in each for each in progress)


def test_help_exits_0(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0 and "--model" in capsys.readouterr().out
