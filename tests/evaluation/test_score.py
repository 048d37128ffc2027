"""The command: what it reads, prints and writes, and one line for each mistake."""

import json
import math
import subprocess
import sys

import pytest

from mmkp_jax.data.posts import read_jsonl
from mmkp_jax.data.records import write_dataset
from mmkp_jax.evaluation.metric import GROUPS, METRICS
from mmkp_jax.score import main
from tests.support.imports import accelerated_imports

CMKP_POSTS = "a dog in the park<sep>dogs;park<sep>https://x/a.jpg\nred bus<sep>city<sep>https://x/b.jpg\n"
JSON_POSTS = [
    {"id": "a", "text": "a dog in the park", "image": None, "keyphrases": ["dogs", "park"], "cot": None},
    {"id": "b", "text": "red bus", "image": None, "keyphrases": ["city"], "cot": None},
]
JSON_PREDICTIONS = [
    {"id": "b", "predicted": ["city"], "form": "cot"},
    {"id": "a", "predicted": ["dog", "x"], "form": "direct"},
]


@pytest.fixture
def files(tmp_path):
    """Writes text, or JSON Lines, and returns the path."""

    def write(name, content):
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.mark.parametrize("posts", [("test_src.txt", CMKP_POSTS), ("test.jsonl", JSON_POSTS)])
@pytest.mark.parametrize("form", ["lines", "ids"])
def test_every_form_of_posts_and_predictions_gives_the_same_scores(files, tmp_path, capsys, posts, form):
    ids = {"a": "test-1", "b": "test-2"} if posts[0].endswith(".txt") else {"a": "a", "b": "b"}
    rows = [row | {"id": ids[row["id"]]} for row in JSON_PREDICTIONS]
    predictions = files("p.txt", "dog;x\ncity\n") if form == "lines" else files("p.jsonl", rows)
    train = files("train.txt", "dogs\nCity\n")
    written = tmp_path / "scores.json"
    flags = [f"--predictions={predictions}", f"--posts={files(*posts)}", f"--train={train}", f"--json={written}"]
    assert main(flags) == 0
    scores = json.loads(written.read_text())
    assert list(scores) == [*GROUPS, *["forms"] * (form == "ids"), "answers"] and list(scores["all"]) == ["n", *METRICS]
    assert scores["all"]["p@1"] == 1 and scores["all"]["r@1"] == 0.75
    assert scores["present"]["n"] == 1 and scores["absent"]["f1@1"] == 1
    assert scores["seen"]["f1@1"] == 0.5  # `dog` is not seen, `dogs` is
    assert scores["unseen"]["n"] == 1
    printed = capsys.readouterr().out
    assert "85.71" in printed
    assert ("50.00% direct, 50.00% cot, 0.00% other, 0.00% broken" in printed) == (form == "ids")


@pytest.mark.parametrize(
    "train", [("train_src.txt", CMKP_POSTS), ("train.jsonl", JSON_POSTS), ("kps.txt", "dogs\npark;city\n")]
)
def test_every_form_of_training_posts_separates_seen_from_unseen(files, capsys, train):
    posts, predictions = files("test.jsonl", JSON_POSTS), files("p.txt", "dog;x\ncity\n")
    assert main([f"--predictions={predictions}", f"--posts={posts}", f"--train={files(*train)}"]) == 0
    assert "unseen: no post has such a keyphrase" in capsys.readouterr().out


def test_a_group_that_cannot_be_formed_is_null_with_its_reason(files, tmp_path, capsys):
    posts, predictions = files("test.jsonl", JSON_POSTS), files("p.txt", "\n\n")
    assert main([f"--predictions={predictions}", f"--posts={posts}", f"--json={tmp_path / 'o.json'}"]) == 0
    assert json.loads((tmp_path / "o.json").read_text())["seen"] is None
    assert "seen: no training keyphrases were given" in capsys.readouterr().out


LINES = ["dogs", "park", "city"]
MANY_POSTS = [
    {"id": f"p{n}", "text": LINES[n % 3], "image": None, "keyphrases": [LINES[n % 2]], "cot": None} for n in range(30)
]


def predictions(rate, order=1):
    """Right for the posts whose number is below `rate` of them; lines from the last post to the first at order -1."""
    rows = [{"id": f"p{n}", "predicted": [LINES[n % 2] if n < 30 * rate else "x"]} for n in range(30)]
    return rows[::order]


@pytest.fixture
def compared(files, tmp_path):
    """(flags) -> the JSON of a comparison; `a`, `b`, … among the flags' values are files of these names."""
    paths = {
        "a": files("a.jsonl", predictions(0.8)),
        "a_turned": files("a_turned.jsonl", predictions(0.8, order=-1)),
        "b": files("b.jsonl", predictions(0.4)),
        "c": files("c.txt", "\n".join(row["predicted"][0] for row in predictions(0.6))),
    }
    posts = files("test.jsonl", MANY_POSTS)

    def run(*flags):
        given = [f"--{flag}={','.join(paths[name] for name in names.split(','))}" for flag, names in flags]
        assert main([*given, f"--posts={posts}", f"--json={tmp_path / 'o.json'}", "--resamples=1000"]) == 0
        return json.loads((tmp_path / "o.json").read_text())

    return run


def test_a_comparison_is_printed_after_the_scores(compared, capsys):
    alone = compared(("predictions", "a"))
    assert list(alone) == [*GROUPS, "answers"] and alone.pop("answers") == {"diversity": 0.1}
    capsys.readouterr()
    found = compared(("predictions", "a"), ("compare", "b"), ("compare", "c"))
    assert {group: found[group] for group in GROUPS} == alone
    systems = found["comparison"]["systems"]
    assert list(systems) == ["A", "B1", "B2"] and systems["A"]["a_minus_this"] is None
    assert systems["A"]["mean"] == alone and systems["B2"]["answers"] == {"diversity": 0.1}
    cell = systems["B1"]["a_minus_this"]["all"]["f1@1"]
    assert cell["delta"] == pytest.approx(0.4) and cell["low"] < 0.4 < cell["high"]
    assert cell["p"] < cell["p_holm"] < 0.05 and cell["p_swaps"] < 0.01
    assert systems["B1"]["a_minus_this"]["seen"] is systems["B1"]["intervals"]["seen"] is None
    printed = capsys.readouterr().out
    assert "A: " in printed and "B2: " in printed and "c.txt" in printed
    row = next(line for line in printed.splitlines() if line.startswith("B1  ") and "F1@1" in line)
    assert row.split()[2:4] == ["all", "+40.00"]


def test_the_same_predictions_do_not_differ_in_any_order_of_lines(compared):
    cell = compared(("predictions", "a"), ("compare", "a_turned"))["comparison"]["systems"]["B"]["a_minus_this"]["all"]
    for found in cell.values():
        assert found == {"delta": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1, "p_swaps": 1}


def test_runs_of_one_system_have_a_mean_and_a_deviation(compared, capsys):
    found = compared(("predictions", "a,b"))
    assert found["all"]["f1@1"] == pytest.approx(0.6) and found["all"]["n"] == 30
    system = found["comparison"]["systems"]["A"]
    assert system["deviation"]["all"]["f1@1"] == pytest.approx(0.4 / 2**0.5)
    assert [run["all"]["f1@1"] for run in system["runs"].values()] == pytest.approx([0.8, 0.4])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[5] for line in printed if line.startswith("A, sd of 2 runs")] == ["28.28", "28.28"]
    against = compared(("predictions", "a,b"), ("compare", "c"))["comparison"]["systems"]["B"]
    assert against["a_minus_this"]["all"]["f1@1"]["delta"] == pytest.approx(0)


def test_intervals_are_in_the_table_unless_resamples_is_0(files, capsys):
    flags = [f"--predictions={files('a.jsonl', predictions(0.8))}", f"--posts={files('test.jsonl', MANY_POSTS)}"]
    assert main(flags) == 0
    first = capsys.readouterr().out
    assert "80.00 ± 13.33" in first  # 95% of binomial(30, 0.8) lie from 20 to 28
    assert main(flags) == 0
    assert capsys.readouterr().out == first
    assert main([*flags, "--resamples=0"]) == 0
    assert "±" not in capsys.readouterr().out


def test_ocr_words_make_a_keyphrase_present(files, tmp_path):
    posts, predictions = files("test.jsonl", JSON_POSTS), files("p.txt", "dog\ncity\n")
    ocr, out = files("ocr.txt", "\nthe city\n"), tmp_path / "o.json"
    assert main([f"--predictions={predictions}", f"--posts={posts}", f"--ocr={ocr}", f"--json={out}"]) == 0
    assert json.loads(out.read_text())["present"]["n"] == 2


GOOD = {"predictions": ("p.jsonl", JSON_PREDICTIONS), "posts": ("test.jsonl", JSON_POSTS)}


@pytest.mark.parametrize(
    "changed, line",
    [
        ({"predictions": ("p.jsonl", JSON_PREDICTIONS[:1])}, "lacks the id 'a' of the posts"),
        (
            {"predictions": ("p.jsonl", [each | {"keyphrases": ["of others"]} for each in JSON_PREDICTIONS])},
            "the keyphrases of 2 ids ('a', …) are not those of the posts",
        ),
        ({"predictions": ("p.jsonl", [*JSON_PREDICTIONS, {"id": "c", "predicted": []}])}, "has the id 'c' that no"),
        ({"predictions": ("p.jsonl", [{"id": "c", "predicted": []}])}, "lacks 2 ids ('a', …) of the posts and has"),
        ({"predictions": ("p.jsonl", [*JSON_PREDICTIONS, JSON_PREDICTIONS[0]])}, "repeats the id 'b'"),
        (
            {"predictions": ("p.jsonl", [{"id": "a", "predicted": "dog"}])},
            "p.jsonl:1: 'predicted' is \"dog\", not a list",
        ),
        ({"predictions": ("p.jsonl", [{"id": 3, "predicted": []}])}, "p.jsonl:1: 'id' is 3, not text"),
        ({"predictions": ("p.jsonl", "[]\n")}, "p.jsonl:1: is a list, not a JSON object"),
        ({"predictions": ("p.jsonl", "\n{'id'}\n")}, "p.jsonl:2: is not JSON"),
        ({"predictions": ("p.jsonl", "\n")}, "is empty"),
        ({"predictions": ("p.jsonl", "")}, "is empty"),
        ({"predictions": ("p.txt", "")}, "is empty"),
        ({"predictions": ("p.txt", "dog\n")}, "1 lines for 2 posts"),
        ({"predictions": ("p.txt", "a\nb\nc\n")}, "3 lines for 2 posts"),
        ({"predictions": ("p.txt", b"a\n\xff\n")}, "is not UTF-8"),
        ({"posts": ("test.jsonl", "")}, "is empty"),
        ({"posts": ("test.jsonl", [JSON_POSTS[0]] * 2)}, "test.jsonl:2: the id 'a' is in line 1 too"),
        ({"posts": ("test_src.txt", "a dog<sep>dogs\n")}, "test_src.txt:1: the line has 2 fields, not 3"),
        ({"posts": ("posts.csv", CMKP_POSTS)}, "posts.csv: its name does not say how posts are laid out"),
        ({"train": ("train.txt", "")}, "is empty"),
        ({"train": ("train.txt", " \n")}, "it has no keyphrases"),
        ({"ocr": ("ocr.txt", "x\n")}, "1 lines for 2 posts"),
        ({"compare": ("b.jsonl", JSON_PREDICTIONS[:1])}, "b.jsonl: it lacks the id 'a' of the posts"),
        ({"compare": ("b.jsonl", [{"id": "c", "predicted": []}])}, "b.jsonl: it lacks 2 ids ('a', …) of the posts and"),
        ({"compare": ("b.txt", "x\n")}, "b.txt: 1 lines for 2 posts"),
    ],
)
def test_an_input_error_is_one_line_and_exit_2(files, capsys, changed, line):
    assert main([f"--{flag}={files(*file)}" for flag, file in (GOOD | changed).items()]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and line in output.err


@pytest.mark.parametrize(
    "flags, line",
    [
        ([], "--predictions=FILE is not given"),
        (["--predictions=a"], "--posts=FILE is not given"),
        (["--prediction=a", "--posts=b"], "unknown flag --prediction=a (did you mean '--predictions'?)"),
        (["--predictions=absent.txt", "--posts=absent.jsonl"], "absent.jsonl: cannot be read (No such file"),
        (["--predictions"], "expected one argument"),
        (["--predictions=a,b,", "--posts=b"], "'a,b,' has an empty name"),
        (["--predictions=", "--posts=b"], "'' has an empty name"),
        (["--predictions=a", "--posts=b", "--compare=a,b,a"], "'a,b,a' names a file twice"),
        (["--predictions=a", "--posts=b", "--compared=b"], "unknown flag --compared=b (did you mean '--compare'?)"),
        (["--predictions=a", "--posts=b", "--resamples=x"], "--resamples: invalid int value: 'x'"),
        (["--predictions=a", "--posts=b", "--resamples=-1"], "--resamples=-1 is less than 100"),
        (["--predictions=a", "--posts=b", "--resamples=999999999999"], "is more than 1,000,000"),
        (["--predictions=a", "--posts=b", "--compare=c", "--resamples=0"], "--resamples=0 is less than 100"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(capsys, flags, line):
    assert main(flags) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and line in output


def test_scores_that_cannot_be_written_are_one_line(files, capsys, tmp_path):
    flags = [f"--{flag}={files(*file)}" for flag, file in GOOD.items()]
    assert main([*flags, f"--json={tmp_path / 'no' / 'folder.json'}"]) == 2
    assert "no: there is no such folder" in capsys.readouterr().err
    assert main([*flags, f"--json={tmp_path}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_help_exits_0(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0 and "--predictions" in capsys.readouterr().out


def test_no_accelerator_library_is_imported(files):
    """Nor by the baselines and the parser, in a process of their own."""
    flags = [f"--{flag}={files(*file)}" for flag, file in (GOOD | {"compare": GOOD["predictions"]}).items()]
    more = "mmkp_jax.evaluation.baselines, mmkp_jax.evaluation.outputs"
    assert accelerated_imports("mmkp_jax.score", flags, more) == "[]"


def test_the_command_exits_as_it_says():
    command = [sys.executable, "-m", "mmkp_jax.score", "--posts=nowhere.jsonl", "--predictions=nowhere.txt"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2 and len(ran.stderr.splitlines()) == 1


def test_rejected_posts_of_a_prepared_dataset_count_too(files, tmp_path, capsys):
    rows = [dict(row) for row in JSON_POSTS]
    rows[1]["image"] = "gone.jpg"
    posts = files("test.jsonl", rows)
    files("train.jsonl", [JSON_POSTS[0]])
    splits = {split: read_jsonl(tmp_path / f"{split}.jsonl") for split in ("test", "train")}
    counts = write_dataset(tmp_path / "data", splits, tmp_path)
    assert counts["test"].rejects == 1
    predictions = files("predictions.jsonl", JSON_PREDICTIONS)
    printed = []
    for where, train in ((posts, tmp_path / "train.jsonl"), (tmp_path / "data", tmp_path / "data")):
        assert main([f"--predictions={predictions}", f"--posts={where}", f"--train={train}"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert main([f"--predictions={predictions}", f"--posts={tmp_path / 'data'}:tset"]) == 2
    assert "did you mean 'test'?" in capsys.readouterr().err


LISTS = [
    {"id": "a", "predicted": ["1. dog\n2. park"], "output": "1. dog\n2. park", "form": "other"},
    {"id": "b", "predicted": ["city"], "output": "city", "form": "direct"},
]


def test_the_lenient_reading_splits_lists_and_reports_how_many_posts_change(files, tmp_path, capsys):
    out = tmp_path / "o.json"
    flags = [f"--predictions={files('p.jsonl', LISTS)}", f"--posts={files('test.jsonl', JSON_POSTS)}", f"--json={out}"]
    assert main(flags) == 0
    strict, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert strict["all"]["f1@M"] == 0.5 and "leniently" not in printed and "reading" not in strict
    assert strict["forms"] == {"direct": 0.5, "cot": 0, "other": 0.5, "broken": 0} and "50.00% other" in printed
    assert main([*flags, "--reading=lenient"]) == 0
    lenient, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert lenient["all"]["f1@M"] == 1 and lenient["reading"] == "lenient" and lenient["forms"] == strict["forms"]
    assert "read leniently: other keyphrases for 1 of 2 posts" in printed
    files("p.jsonl", LISTS[1:])
    flags[1] = f"--posts={files('one.jsonl', JSON_POSTS[1:])}"
    assert main([*flags, "--reading=lenient"]) == 0
    assert "no post has other keyphrases than read strictly" in capsys.readouterr().out


def scored(*logprobs):
    return {"logprob": list(logprobs), "mean_logprob": [each / 2 for each in logprobs]}


ANSWERED = [
    {
        "id": "a",
        "predicted": ["dog", "x"],
        "output": "dog; dog; x",
        "form": "direct",
        "tokens": 9,
        "scores": scored(0, -2),
    },
    {"id": "b", "predicted": [], "output": "", "form": "broken", "tokens": 0},
]


def test_measures_of_the_answers_are_printed_and_written(files, tmp_path, capsys):
    """`dog` (certain, right) and `x` (e^-2, wrong, new) of three that were written; the second output is empty."""
    out, train = tmp_path / "o.json", files("train.txt", "dog\n")
    flags = [f"--predictions={files('p.jsonl', ANSWERED)}", f"--posts={files('test.jsonl', JSON_POSTS)}"]
    assert main([*flags, f"--train={train}", f"--json={out}"]) == 0
    ece = math.exp(-2) / 2
    expected = {"words": 1.5, "tokens": 4.5, "repeats": 1 / 3, "diversity": 1, "novelty": 0.5, "novel_precision": 0}
    assert json.loads(out.read_text())["answers"] == pytest.approx(expected | {"ece": ece})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["answers", "words", "tokens", "repeats", "diversity", "novel", "novel", "P", "ECE"] in printed
    assert ["all", "1.50", "4.50", "33.33", "100.00", "50.00", "0.00", f"{100 * ece:.2f}"] in printed
    assert main([*flags, "--reading=lenient", f"--json={out}"]) == 0
    assert "ece" not in json.loads(out.read_text())["answers"]  # its keyphrases are not those that have scores
    files("p.jsonl", [{**ANSWERED[0], "scores": scored(0)}, ANSWERED[1]])
    assert main(flags) == 2
    assert "'scores.logprob' is a list, not a list of 2 numbers of at most 0" in capsys.readouterr().err


def test_an_embedding_gives_semantic_scores_of_every_system(files, embedding_folder, tmp_path, capsys):
    out, posts = tmp_path / "o.json", files("test.jsonl", JSON_POSTS)
    flags = [f"--predictions={files('a.txt', chr(10).join(['dogs;park', 'city']))}", f"--posts={posts}"]
    flags += [f"--compare={files('b.txt', chr(10) * 2)}", f"--json={out}", f"--embeddings={embedding_folder}"]
    assert main(flags) == 0
    found = json.loads(out.read_text())
    assert found["semantic"] == {"n": 2, "precision": 1, "recall": 1, "f1": 1}
    assert found["comparison"]["systems"]["B"]["semantic"] == {"n": 2, "precision": 0, "recall": 0, "f1": 0}
    printed = capsys.readouterr().out
    assert "A, semantic: precision 100.00, recall 100.00, f1 100.00 (n = 2)\nB, semantic: precision 0.00" in printed
    assert main([*flags[:2], f"--embeddings={tmp_path / 'none'}"]) == 2
    assert "none: there is no model here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "predictions, line",
    [
        (("p.txt", "dog\ncity\n"), "p.txt: it has no outputs"),
        (("p.jsonl", JSON_PREDICTIONS), "p.jsonl:2: has no 'output'"),
    ],
)
def test_a_lenient_reading_without_outputs_is_refused(files, capsys, predictions, line):
    flags = [f"--predictions={files(*predictions)}", f"--posts={files('test.jsonl', JSON_POSTS)}"]
    assert main([*flags, "--reading=lenient"]) == 2
    error = capsys.readouterr().err
    assert line in error and "leave out --reading" in error and error.count("\n") == 1


WORDS = [
    {"id": "a", "text": "Loving Paris!", "image": None, "keyphrases": ["paris"], "cot": None},
    {"id": "b", "text": "what a #sunrise, wow", "image": None, "keyphrases": ["#sunrise"], "cot": None},
]


def test_keyphrases_hidden_by_punctuation_are_reported_and_compared_by_words_with_tokenised(files, tmp_path, capsys):
    out = tmp_path / "o.json"
    predictions = files("p.txt", "Paris\nsunrise\n")
    flags = [f"--predictions={predictions}", f"--posts={files('test.jsonl', WORDS)}"]
    assert main([*flags, f"--json={out}"]) == 0
    assert "2 of 2 keyphrases are in their texts, but count as absent, as with 'paris' in" in capsys.readouterr().out
    scores = json.loads(out.read_text())
    assert scores["present"] is None and scores["all"]["f1@1"] == 0.5
    assert main([*flags, "--tokenised", f"--json={out}"]) == 0
    assert "tokenised: 2 of 2 keyphrases" in capsys.readouterr().out
    scores = json.loads(out.read_text())
    assert scores["present"]["n"] == 2 and scores["all"]["f1@1"] == 1 and scores["tokenised"] is True


def test_nothing_is_reported_for_tokenised_posts(files, capsys):
    predictions = files("p.txt", "dog;x\ncity\n")
    assert main([f"--predictions={predictions}", f"--posts={files('test.jsonl', JSON_POSTS)}"]) == 0
    assert "--tokenised" not in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["predictions", "posts"])
@pytest.mark.parametrize("by_link", [False, True])
def test_an_output_that_is_an_input_is_refused_and_the_input_stays(tmp_path, capsys, flag, by_link):
    files = {name: tmp_path / f"{name}.jsonl" for name in ("predictions", "posts")}
    for file in files.values():
        file.write_text("whole\n")
    out = files[flag]
    if by_link:
        out = tmp_path / "link.jsonl"
        out.symlink_to(files[flag])
    assert main([*(f"--{name}={file}" for name, file in files.items()), f"--json={out}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "another flag names this file too" in message
    assert all(file.read_text() == "whole\n" for file in files.values())
