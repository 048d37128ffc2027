import dataclasses
import json
import re

import numpy as np
import pytest

from mmkp_jax import judge
from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import write_dataset
from mmkp_jax.judging.people import read_people
from mmkp_jax.judging.rank_summary import summarize_ranks
from mmkp_jax.judging.ranking import CRITERIA
from tests.data.test_images import random_image, saved
from tests.support.fake_endpoint import MODEL, FakeEndpoint, request_text

POSTS = 12
QUALITY = {"good": 0, "fair": 1, "poor": 2}
"""What each system's keyphrases begin with, and its place."""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-tests")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def files(tmp_path):
    """Posts, one of them with an image, and three systems' predictions in two layouts."""
    (tmp_path / "0.png").write_bytes(saved(random_image(40, 30, seed=0)))
    rows = [{"id": f"p{n}", "text": f"text {n}", "image": None, "keyphrases": ["snow"]} for n in range(POSTS)]
    rows[0]["image"] = "0.png"
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in QUALITY:
        predictions = [
            {"id": row["id"], "predicted": [f"{name} {row['id']}"], "output": "<think>long</think>"} for row in rows
        ]
        if name == "fair":
            (tmp_path / "fair.txt").write_text("".join(";".join(each["predicted"]) + "\n" for each in predictions))
        else:
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in predictions))
    return tmp_path


def flags(files, *more, server=None):
    systems = ",".join(str(files / name) for name in ("good.jsonl", "fair.txt", "poor.jsonl"))
    given = [
        f"--posts={files / 'posts.jsonl'}",
        f"--images={files}",
        f"--predictions={systems}",
        f"--out={files / 'out'}",
    ]
    return [*given, *([f"--base_url={server.base_url}", f"--model={MODEL}"] if server else []), *more]


def fair_judge(body):
    """Ranks by quality, wherever a list stands; of two, prefers the better."""
    shown = dict(re.findall(r"^([A-C]): (\w+)", request_text(body), re.MULTILINE))
    assert "think" not in request_text(body) and len(shown) in (2, 3)
    if len(shown) == 2:
        return json.dumps({"better": min(shown, key=lambda label: QUALITY[shown[label]])})
    return json.dumps({name: {label: QUALITY[each] + 1 for label, each in shown.items()} for name in CRITERIA})


def first_is_best(body):
    """Ranks by place alone."""
    labels = re.findall(r"^([A-C]): ", request_text(body), re.MULTILINE)
    if len(labels) == 2:
        return '{"better": "A"}'
    return json.dumps({name: {label: n + 1 for n, label in enumerate(labels)} for name in CRITERIA})


def results(files):
    return json.loads((files / "out" / "results.json").read_text())


def test_a_fair_judge_ranks_systems_by_their_quality(files, capsys):
    with FakeEndpoint(fair_judge) as server:
        assert judge.main(flags(files, server=server)) == 0
        assert len(server.calls) == POSTS * 2 + POSTS * 2  # two orders, and each pair in both
        calls = len(server.calls)
        assert judge.main(flags(files, server=server)) == 0 and len(server.calls) == calls
    found = results(files)
    assert {name: each["all"]["value"] for name, each in found["standing"]["means"].items()} == {
        "good": 1, "fair": 2, "poor": 3
    }  # fmt: skip
    assert found["standing"]["w"] == 1 and set(found["standing"]["alpha"].values()) == {1}
    assert (found["position_consistent"], found["failures"]) == (1, 0)
    rows = [json.loads(line) for line in (files / "out" / "rankings.jsonl").read_text().splitlines()]
    assert len(rows) == POSTS * 2 and rows[5]["ranks"]["fair"] == dict.fromkeys(CRITERIA, 2)
    printed = capsys.readouterr().out
    assert "Kendall's W 1.00" in printed and "100.00% of 12" in printed


def test_a_judge_with_position_bias_is_detected(files):
    with FakeEndpoint(first_is_best) as server:
        assert judge.main(flags(files, server=server)) == 0
    found = results(files)
    assert all(abs(each["all"]["value"] - 2) < 1e-9 for each in found["standing"]["means"].values())  # balanced orders
    assert found["position_consistent"] == 0 and found["standing"]["alpha"]["relevance"] < 0


def test_unreadable_answers_are_counted_and_their_posts_left_out(files, capsys):
    def answer(body):
        return "I like A" if "text 3\n" in request_text(body) and "C:" in request_text(body) else fair_judge(body)

    with FakeEndpoint(answer) as server:
        assert judge.main(flags(files, "--pairs=0", server=server)) == 0
    printed = results(files)
    assert (printed["failures"], printed["standing"]["posts"]) == (2, POSTS - 1)
    failures = [json.loads(line) for line in (files / "out" / "failures.jsonl").read_text().splitlines()]
    assert failures[0] == {"id": "p3", "reason": "the answer holds no JSON object", "answer": "I like A"}
    assert "answers without readable ranks: 2 of 24" in capsys.readouterr().out


def test_a_judge_without_readable_answers_has_its_own_exit_status(files, capsys):
    with FakeEndpoint(lambda body: '{"better": [[[10]]], "correctness": {"A": 1e999}}') as server:
        assert judge.main(flags(files, "--give_up_after=0", server=server)) == 4
    assert "none of 48 answers can be read, most often: no correctness for each of" in capsys.readouterr().err
    assert results(files)["standing"] is None


def test_dry_run_counts_the_calls(files, capsys):
    with FakeEndpoint() as server:
        assert judge.main(flags(files, "--dry_run", "--pairs=5", server=server)) == 0
        assert not server.calls
    assert f"calls: {POSTS * 2 + 10} for" in capsys.readouterr().out and not (files / "out").exists()


def fill_in(files, sheet, rank_of):
    """What a page saves, by a rater who ranks what a list shows."""
    page = (files / "out" / "people" / f"sheet-{sheet}.html").read_text()
    ranks = {}
    for post, criterion, label in re.findall(r'data-post="(.*?)" data-criterion="(.*?)" data-label="(.*?)"', page):
        shown = re.search(rf"<td>{label}</td><td>(\w+) {post}</td>", page)[1]
        ranks.setdefault(post, {}).setdefault(criterion, {})[label] = str(rank_of(shown))
    file = files / f"ranks-{sheet}.json"
    study = re.search(r'const study = "(\w+)", sheet = (\d+),', page)
    file.write_text(json.dumps({"study": study[1], "sheet": int(study[2]), "ranks": ranks}))
    return file


def test_people_get_pages_and_their_ranks_are_compared_with_the_models(files, capsys):
    assert judge.main(flags(files, f"--people={POSTS}", "--raters=2")) == 0
    page = (files / "out" / "people" / "sheet-1.html").read_text()
    assert page.count("<article>") == POSTS and page.count("data:image/jpeg;base64,") == 1
    assert (
        "fair.txt" not in page and "http:" not in page and "https:" not in page
    )  # neither names nor anything from outside
    saved_files = [fill_in(files, 1, lambda shown: QUALITY[shown] + 1), fill_in(files, 2, lambda shown: 1)]
    collect = [f"--out={files / 'out'}", "--collect=" + ",".join(map(str, saved_files))]
    assert judge.main(collect) == 0
    assert "no ranks of a model" in capsys.readouterr().out
    with FakeEndpoint(fair_judge) as server:
        assert judge.main(flags(files, server=server)) == 0
    assert judge.main(collect) == 0
    found = json.loads((files / "out" / "people" / "results.json").read_text())
    assert found["tau_b"] == dict.fromkeys([*CRITERIA, "systems"], 1) and found["posts_of_both"] == POSTS
    means = {name: each["all"]["value"] for name, each in found["people"]["means"].items()}
    assert means == {"good": 1.5, "fair": 2, "poor": 2.5}  # the second rater ties all
    assert found["people"]["written"] == {"good": 1, "fair": 1.5, "poor": 2}


def test_a_page_that_is_not_filled_in_is_refused(files, capsys):
    assert judge.main(flags(files, "--people=2", "--raters=2")) == 0
    file = fill_in(files, 1, lambda shown: "")
    collect = [f"--out={files / 'out'}", f"--collect={file}"]
    capsys.readouterr()
    assert judge.main(collect) == 2 and "let the rater fill in every box" in capsys.readouterr().err
    fill_in(files, 1, lambda shown: 2)
    copy = files / "again.json"
    copy.write_text(file.read_text())
    assert judge.main([collect[0], f"--collect={file},{copy}"]) == 2
    assert "the same sheet" in capsys.readouterr().err
    assert read_people(files / "out" / "people", [file])[2].shape == (2, 1, 3, 3)


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "list": lambda text: "[]",
    "nested": lambda text: "[" * 100_000,
    "latin": lambda text: text + "\xff",
    "number": lambda text: re.sub(r'"(ranks|sheets)": ', r'"\1": 5, "x": ', text),
    "null": lambda text: re.sub(r": (\"\w+\"|\[[^]]*\])", ": null", text),
    "huge": lambda text: re.sub(r'"(rank\w*|A|correctness)": ', '"\\1": 1e999, "y": ', text),
    "orders": lambda text: re.sub(r"\b[012]\b", "7", text),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", ["people/key.json", "ranks-1.json", "rankings.jsonl"])
def test_a_damaged_file_of_a_study_is_one_line(files, capsys, which, damage):
    assert judge.main(flags(files, "--people=2", "--raters=1")) == 0
    saved = fill_in(files, 1, lambda shown: QUALITY[shown] + 1)
    row = {"id": "p0", "order": 0, "ranks": {name: dict.fromkeys(CRITERIA, 1) for name in ("good", "fair", "poor")}}
    (files / "out" / "rankings.jsonl").write_text(json.dumps(row) + "\n")
    collect = [f"--out={files / 'out'}", f"--collect={saved}"]
    assert judge.main(collect) == 0
    file = saved if which == "ranks-1.json" else files / "out" / which
    text = file.read_text()
    damaged = DAMAGES[damage](text)
    file.write_text(damaged, encoding="latin-1")
    capsys.readouterr()
    status = judge.main(collect)
    printed = capsys.readouterr().err.splitlines()
    assert (status, len(printed)) == ((0, 0) if damaged == text else (2, 1)) or (status, printed) == (0, [])
    if damage in ("cut", "nested", "latin"):
        assert status == 2 and file.name in printed[0]


def test_ranks_are_not_credited_to_another_studys_systems(files, capsys):
    assert judge.main(flags(files, "--people=4", "--raters=1")) == 0
    file = fill_in(files, 1, lambda shown: QUALITY[shown] + 1)
    again = flags(files, "--people=4", "--raters=1")
    assert judge.main(again) == 0  # the same pages
    key = (files / "out" / "people" / "key.json").read_bytes()
    systems = ",".join(str(files / name) for name in ("poor.jsonl", "fair.txt", "good.jsonl"))
    capsys.readouterr()
    assert judge.main([*again, f"--predictions={systems}"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and "the key of another study" in printed[0]
    assert (files / "out" / "people" / "key.json").read_bytes() == key
    assert judge.main([*again, f"--predictions={systems}", f"--out={files / 'other'}"]) == 0
    assert judge.main([f"--out={files / 'other'}", f"--collect={file}"]) == 2
    assert "it is not from these sheets" in capsys.readouterr().err
    (files / "good.jsonl").write_text((files / "good.jsonl").read_text().replace("good p", "fine p"))
    assert judge.main(again) == 2  # other lists under the same names


def test_pairs_have_lists_that_differ(files, capsys):
    same = [{"id": f"p{n}", "predicted": [f"good p{n}"] if n < 9 else ["fair x"]} for n in range(POSTS)]
    (files / "copy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same))
    systems = f"--predictions={files / 'good.jsonl'},{files / 'copy.jsonl'}"
    with FakeEndpoint(fair_judge) as server:
        assert judge.main(flags(files, systems, "--give_up_after=0", server=server)) == 0
        assert len(server.calls) < POSTS * 2 + 2 * 3 + 1  # two of identical lists are one question
    printed = capsys.readouterr().out
    assert "pairs: 3 of 100, as there are no more" in printed and "100.00% of 3" in printed
    pairs = [json.loads(line) for line in (files / "out" / "pairs.jsonl").read_text().splitlines()]
    assert {pair["id"] for pair in pairs} == {"p9", "p10", "p11"}
    assert pairs[0]["systems"] == ["copy", "good"] and pairs[0]["better"] == ["good", "good"]
    won = {"systems": ["copy", "good"], "pairs": 3, "wins": {"copy": 0, "good": 3}, "ties": 0, "turned": 0}
    assert results(files)["wins"] == [won]


def test_max_cost_has_its_own_exit_status(files, capsys):
    with FakeEndpoint(fair_judge) as server:
        assert judge.main(flags(files, "--price_in=1", "--price_out=1", "--max_cost=0.005", server=server)) == 3
    assert "stopped: --max_cost is reached" in capsys.readouterr().out and results(files)["stopped"]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (["--people=3", "--image_edge=0"], "--image_edge=0 is not a number from 28"),
        (["--people=3", "--dry_run"], "--dry_run does not go with --people"),
        (["--people=3", "--model=x"], "--model does not go with --people"),
        (["--people=0"], "--people=0 is less than 1"),
        (["--collect=x"], "does not go with --collect"),
        (["--base_url=http://h/v1", "--model=x", "--raters=3"], "--raters goes with --people"),
        (["--base_url=http://h/v1", "--model=x", "--orders=7"], "more than the 6 balanced orders of 3 systems"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(files, capsys, wrong, what):
    assert judge.main(flags(files, *wrong)) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and what in printed[0]


def test_wrong_input_is_one_line(files, capsys):
    with FakeEndpoint() as server:
        for wrong, what in [
            (["--orders=0"], "--orders=0"),
            ([f"--predictions={files / 'good.jsonl'}"], "names 1 files"),
            ([f"--predictions={files / 'good.jsonl'},{files / 'no.jsonl'}"], "no.jsonl: cannot be read"),
            (["--judge=x"], "unknown flag --judge"),
            ([f"--images={files / 'elsewhere'}"], "there is no image '0.png'"),
            (["--model=other"], "no model 'other'"),
        ]:
            assert judge.main(flags(files, *wrong, server=server)) == 2
            printed = capsys.readouterr().err.splitlines()
            assert len(printed) == 1 and what in printed[0]
        assert not server.answered


def test_a_datasets_posts_are_judged_with_their_images(files, capsys):
    rows = [json.loads(line) for line in (files / "posts.jsonl").read_text().splitlines()]
    posts = [Post(row["id"], row["text"], row["image"], ("snow",), None, "f", n) for n, row in enumerate(rows)]
    posts[3] = dataclasses.replace(posts[3], image="gone.png")
    write_dataset(files / "set", {"test": posts}, files, on_bad_row="drop")
    systems = ",".join(str(files / f"{name}.jsonl") for name in ("good", "poor"))
    with FakeEndpoint(lambda body: json.dumps({name: {"A": 1, "B": 2} for name in CRITERIA})) as server:
        given = [f"--data={files / 'set'}", "--split=test", f"--predictions={systems}", f"--out={files / 'out'}"]
        assert judge.main([*given, f"--base_url={server.base_url}", f"--model={MODEL}", "--pairs=0"]) == 0
        assert sum("data:image/jpeg" in str(call.body) for call in server.calls) == 2
    assert results(files)["standing"]["posts"] == POSTS - 1
    assert "1 of 12 posts could not be used when the dataset was prepared" in capsys.readouterr().out


def test_a_summary_covers_posts_with_all_their_ranks():
    written = np.ones((2, 1, 3, 2))
    written[:, :, :, 1] = 2
    written[1, 0, 0, 0] = np.nan
    standing = summarize_ranks(["a", "b"], written)
    assert standing.posts == 1 and standing.means["a"]["all"].value == 1 and np.isnan(standing.w)
    assert summarize_ranks(["a", "b"], np.full((1, 1, 3, 2), np.nan)) is None
