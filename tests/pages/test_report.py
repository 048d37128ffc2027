"""The report of runs: its figures, what it leaves out and says so, hostile texts, its size, input errors."""

import base64
import hashlib
import html
import json
import math
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import write_dataset
from mmkp_jax.evaluation.metric import score
from mmkp_jax.pages.report import browser, figures, paper
from mmkp_jax.pages.report.browser import TEXT_BYTES, choose_evenly, common_size, shorten
from mmkp_jax.pages.report.figures import pca
from mmkp_jax.pages.report.page import write_report
from mmkp_jax.pages.svg import POINTS, line_chart, ticks
from mmkp_jax.report import main
from mmkp_jax.runtime.escape import for_script
from tests.data.test_images import random_image, saved
from tests.support.imports import accelerated_imports

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u2028\u202e{{ 7 * 7 }}"

TRAIN = [
    ("snow on the hill today", ("snow", "hill")),
    ("the eras tour was everything", ("eras tour",)),
    ("rain and more rain", ("rain",)),
]
TEST = [
    ("snow again", ("snow",)),
    ("the eras tour was loud", ("taylor swift",)),
    ("a quiet day", ("rain", "sunday walk")),
    ("nothing said", ("snow", "new place")),
]
ANSWERS = {
    "sft": [["snow"], ["eras tour"], ["rains"], []],
    "dyncot": [["snow"], ["taylor swift"], ["rain", "sunday walks"], ["hill"]],
}


def posts_of(split, rows, image=None):
    return [Post(f"{split}-{n}", text, image, phrases, None, "f", n) for n, (text, phrases) in enumerate(rows, 1)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "a.png").write_bytes(saved(random_image(300, 200)))
    write_dataset(
        root / "out", {"train": posts_of("train", TRAIN, "a.png"), "test": posts_of("test", TEST, "a.png")}, root
    )
    return root / "out"


def write_run(folder, data, strategy, predicted=None, posts=TEST, steps=40, **config):
    """Writes a work directory as training does."""
    (folder / "predictions").mkdir(parents=True)
    fields = {"strategy": strategy, "gamma": 0.4, "gamma_mode": "fixed", "seed": 0, **config}
    fields |= {"model": {"path": "pocket"}, "data": {"path": str(data)}}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "environment.json").write_text(
        json.dumps({"devices": ["cpu:0"], "device_kind": "cpu", "revision": "abc"})
    )
    line = {"loss": 1.5, "loss_sft": 1.0, "cot_share": 0.25, "gamma": 0.4, "posts": 4.0, "labels": 30.0, "seconds": 0.5}
    lines = [json.dumps({"step": step, **line}) + "\n" for step in range(1, steps + 1)]
    if steps:
        (folder / "metrics.jsonl").write_text("".join(lines))
    rows = []
    for post, phrases in zip(posts_of("test", posts), predicted or ANSWERS[strategy], strict=True):
        output = "; ".join(phrases)
        form = "cot" if strategy == "dyncot" else "direct"
        output = f"<think>why {output}</think><answer>{output}</answer>" if form == "cot" else output
        rows.append({"id": post.id, "keyphrases": list(post.keyphrases), "predicted": phrases, "output": output})
        rows[-1] |= {"form": form, "tokens": 3}
    write_predictions(folder, rows, steps)
    return folder


def write_predictions(run, rows, step=40):
    (run / "predictions" / f"test-{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def runs(tmp_path, data):
    return [write_run(tmp_path / "a", data, "sft"), write_run(tmp_path / "b", data, "dyncot", seed=7)]


class Page(HTMLParser):
    """A page as a browser shows it, without scripts."""

    EMPTY = frozenset(("meta", "img", "input"))

    def __init__(self, text):
        super().__init__()
        self.open, self.scripts, self.links, self.text, self.rows, self.policy = [], [], [], "", [], ""
        self.feed(text)
        self.close()
        assert not self.open
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attrs):
        assert not any(name.startswith("on") for name, _ in attrs)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "action")]
        self.policy += dict(attrs).get("content", "") if tag == "meta" and ("http-equiv" in dict(attrs)) else ""
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def row(self, *begins):
        """The cells of the first row that begins so."""
        return next(row for row in self.rows if tuple(row[: len(begins)]) == begins)


def page_of(runs, out, data=None):
    write_report(runs, out, data)
    page = Page(out.read_text(encoding="utf-8"))
    assert all(re.match(r"data:image/jpeg;base64,|#\w+$", link) for link in page.links)
    return page


def test_the_page_shows_the_scores_next_to_the_papers(runs, data, tmp_path):
    (tmp_path / "mmkp_v2").symlink_to(data)
    page = page_of(runs, tmp_path / "page.html", tmp_path / "mmkp_v2")
    seen = {phrase for _, phrases in TRAIN for phrase in phrases}
    for run, strategy, name in zip(runs, ("sft", "dyncot"), ("SFT", "Dynamic CoT"), strict=True):
        scores = score(posts_of("test", TEST), ANSWERS[strategy], seen)
        cells = next(row for row in page.rows if row and row[0] == run.name and "(" in row[1])
        assert [cell.split(" (")[0] for cell in cells[1:]] == [
            f"{100 * scores[group]['f1@1']:.2f}" for group in ("all", "present", "absent", "seen", "unseen")
        ]
        cells = page.row(name, run.name)
        assert cells[2:5] == [f"{100 * scores[group]['f1@1']:.2f}" for group in paper.STRATEGY_GROUPS]
        assert cells[5] == " / ".join(f"{each:.2f}" for each in paper.BY_STRATEGY[strategy][1])  # the 3B on MMKP-V2
    assert page.row("posts") == ["posts", "4", "1", "3", "3", "3"]
    cells = [f"{100 * scores[group]['f1@1']:.2f}" for group in paper.GAMMA_GROUPS]
    assert page.row("0.4") == ["0.4", "b", *cells, "25.00%", "33.14", "20.19", "12.48"]
    assert page.row("0.3")[1:6] == ["–"] * 5
    assert "next to the paper" in page.text and "as published" not in page.text


def test_of_mmkp_the_page_shows_traditional_models_as_published(runs, data, tmp_path):
    (tmp_path / "mmkp").symlink_to(data)
    page = page_of(runs, tmp_path / "page.html", tmp_path / "mmkp")
    assert page.row("ONE2SET") == ["ONE2SET", "text", "36.36", "not built"]
    assert "Traditional models, as published" in page.text


def test_of_other_data_the_page_shows_no_numbers_of_the_paper(runs, tmp_path):
    page = page_of(runs, tmp_path / "page.html")
    assert "next to the paper" not in page.text and page.row("0.4")[:2] == ["0.4", "b"]
    assert not any("paper" in cell for row in page.rows for cell in row)
    assert not any(row and row[0] in ("0.3", "multi-task") for row in page.rows)


@pytest.mark.parametrize(
    "path, dataset",
    [
        ("data/mmkp_v2", "MMKP-V2"),
        ("data/mmkp_v2:2,more", "MMKP-V2"),
        ("/x/tw_mm_s1/", "MMKP"),
        ("data/mmkp_360k", None),
        ("runs/pocket/dataset", None),
        ("mmkp/own", None),
        ("", None),
    ],
)
def test_a_dataset_of_the_paper_is_known_by_its_folder(path, dataset):
    assert paper.dataset_of(path) == dataset


def test_keyphrases_that_are_missed_most_are_counted(runs, tmp_path):
    """By hand: `snow` is gold twice, found once by each run; b predicts `hill` once where it is not gold."""
    page = page_of(runs, tmp_path / "page.html")
    header = ["keyphrase", "posts", "in training posts", "a: found", "a: wrongly given", "b: found", "b: wrongly given"]
    at = page.rows.index(header)
    assert page.rows[at + 1 : at + 5] == [
        ["snow", "2", "1", "1", "0", "1", "0"],
        ["new place", "1", "0", "0", "0", "0", "0"],
        ["sunday walk", "1", "0", "0", "0", "1", "0"],
        ["taylor swift", "1", "0", "0", "0", "1", "0"],
    ]
    assert "the 4 of 5 test keyphrases that a misses most" in page.text  # it found rain, as `rains`


def test_the_hours_of_a_run_are_split(runs, tmp_path):
    line = {"loss": 1.0, "posts": 4.0, "seconds": 3600.0, "data_wait_share": 0.25}
    lines = [{"step": 1, **line, "seconds": None, "data_wait_share": None, "compile_seconds": 1800.0}]
    lines += [{"step": 2, **line}, {"step": 3, **line, "evaluation_seconds": 7200.0, "checkpoint_seconds": 900.0}]
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    page = page_of(runs[:1], tmp_path / "page.html")
    at = page.rows.index(["", "in all", "steps", "wait for data", "first call", "validation", "checkpoints"])
    parts = ["1.50 (31.58%)", "0.50 (10.53%)", "0.50 (10.53%)", "2.00 (42.11%)", "0.25 (5.26%)"]
    assert page.rows[at + 1] == ["a", "4.75", *parts]


def test_the_page_shows_what_each_run_was_trained_on_and_what_differs(runs, tmp_path):
    page = page_of(runs, tmp_path / "page.html")
    assert page.row("trained on") == ["trained on", *["160 posts, repeats counted"] * 2]
    assert page.row("steps") == ["steps", "40", "40"] and page.row("label tokens")[1] == "1,200"
    assert page.row("device")[1] == "cpu × 1"
    start = page.rows.index(["config.", "a", "b"])
    assert page.rows[start + 1 : start + 3] == [["seed", "0", "7"], ["strategy", '"sft"', '"dyncot"']]
    assert not page.rows[start + 3][0].startswith(("gamma", "model", "data"))


def test_the_page_shows_further_measures_and_reliability(runs, tmp_path):
    """Run b: e^-0.05 is right three times and wrong once; run a has no log-probabilities for one of its posts."""
    for run, strategy in zip(runs, ("sft", "dyncot"), strict=True):
        file = run / "predictions/test-40.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for number, row in enumerate(rows):
            if strategy == "dyncot" or number:
                row["scores"] = dict.fromkeys(("logprob", "mean_logprob"), [-0.05] * len(row["predicted"]))
        write_predictions(run, rows)
    page = page_of(runs, tmp_path / "page.html")
    header = ["", "F1@O", "HIT@1", "HIT@3", "HIT@5", "words", "tokens"]
    header += ["repeats", "diversity", "novel", "novel P", "ECE"]
    at = page.rows.index(header)
    scores = [score(posts_of("test", TEST), ANSWERS[each])["all"] for each in ("sft", "dyncot")]
    for row, found in zip(page.rows[at + 1 : at + 3], scores, strict=True):
        assert row[1:5] == [f"{100 * found[name]:.2f}" for name in ("f1@O", "hit@1", "hit@3", "hit@5")]
    assert page.rows[at + 1][9:] == ["0.00", "–", "–"]  # snow, eras tour and rains are all known
    confidence, right = math.exp(-0.05), 4 / 5
    assert page.rows[at + 2][9:] == ["40.00", "100.00", f"{100 * (confidence - right):.2f}"]
    assert page.row("b", "0–10")[2:] == ["0", "–", "–"]
    assert page.row("", "90–100")[2:] == ["5", f"{100 * confidence:.2f}", "80.00"]
    write_report(runs, tmp_path / "page.html", embed=lambda texts: np.eye(len(texts)))
    assert "semantic f1" in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text


def test_the_papers_tables_agree_with_each_other():
    three_b = paper.BY_STRATEGY["dyncot"][1]
    assert (paper.BY_GAMMA["0.4"][0], paper.BY_GAMMA["0.4"][2]) == (three_b[0], three_b[2])
    assert f"{100 * (paper.WORDS['dyncot'] / paper.WORDS['cot'] - 1):.2f}" == "-38.48"  # as it prints


def test_the_browser_shows_every_post_with_each_runs_prediction(runs, tmp_path):
    page = page_of(runs, tmp_path / "page.html")
    posts = {post[0]: post for post in page.data["posts"]}
    assert [posts[f"test-{n}"][1] for n in range(1, 5)] == [text for text, _ in TEST]
    verdicts = [[page.data["verdicts"][said[0]] for said in post[6]] for post in page.data["posts"]]
    assert verdicts == [["right", "right"], ["wrong", "right"], ["partly", "right"], ["wrong", "wrong"]]
    assert [post[5] for post in page.data["posts"]] == [0, 1, 1, 1]
    assert posts["test-3"][6][1][2:4] == [["rain", "sunday walks"], [1, 1]]  # compared by their stems
    assert posts["test-2"][6][1][5] == "<think>why taylor swift</think><answer>taylor swift</answer>"
    assert [page.data["groups"][each] for each in posts["test-1"][3]] == ["all", "present", "seen"]
    assert all(post[4].startswith("data:image/jpeg;base64,") for post in page.data["posts"])


def test_wrong_predictions_are_shown_next_to_the_most_similar_training_post(runs, tmp_path):
    page = page_of(runs[:1], tmp_path / "page.html")
    assert "Posts without a hit: 2; for 1 of them (50.0%)" in page.text
    section = page.text.split("Errors next to")[1]
    assert "the eras tour was loud" in section and "the eras tour was everything" in section
    assert "nothing said" not in section  # no word of it is in any training post


def test_texts_of_posts_and_outputs_stay_texts(tmp_path, data):
    posts = [(f"{HOSTILE} snow", (HOSTILE, "snow")), ("x" * 300, ("<b>",))]
    root = tmp_path / "hostile"
    root.mkdir()
    write_dataset(root / "out", {"train": posts_of("train", posts), "test": posts_of("test", posts)}, root)
    run = write_run(root / "<img onerror=x>", root / "out", "dyncot", [[HOSTILE, "near"], ["]]>", "<!--"]], posts)
    comparisons = {"scores": {HOSTILE: score(posts_of("test", posts), [[HOSTILE], []], {"snow"})}, "by_kind": {}}
    (run / "comparisons.json").write_text(json.dumps(comparisons))
    rows = [json.loads(line) for line in (run / "predictions/test-40.jsonl").read_text().splitlines()]
    rows[1]["output"] = f"<!--<script>\ud800{HOSTILE}"  # half a character, too
    write_predictions(run, rows)
    page = page_of([run], root / "page.html")
    assert len(page.scripts) == 2 and page.data["posts"][0][1] == posts[0][0]
    assert page.data["posts"][1][6][0][5] == f"<!--<script>?{HOSTILE}" and page.data["runs"] == ["<img onerror=x>"]
    assert HOSTILE[:30] in page.text
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'; " in page.policy  # so no other script runs
    text = for_script([HOSTILE])
    assert json.loads(text) == [HOSTILE] and not set("<>&\u2028") & set(text)


def test_without_its_dataset_a_run_is_reported_with_its_own_scores(runs, data, tmp_path):
    scores = score(posts_of("test", TEST), ANSWERS["sft"], {"snow", "hill", "eras tour", "rain"})
    (runs[0] / "results.json").write_text(json.dumps(scores))
    shutil.copytree(runs[0], tmp_path / "moved")
    config = json.loads((tmp_path / "moved/config.json").read_text())
    config["data"]["path"] = str(tmp_path / "gone")
    (tmp_path / "moved/config.json").write_text(json.dumps(config))
    page = page_of([tmp_path / "moved"], tmp_path / "page.html")
    assert "gone: there is no such folder" in page.text and "the training posts are not available" in page.text
    assert page.row("SFT", "moved")[2:5] == [f"{100 * scores[each]['f1@1']:.2f}" for each in ("all", "seen", "unseen")]
    assert [post[1] for post in page.data["posts"]] == [""] * 4 and page.data["images"] == 0
    whole = page_of([tmp_path / "moved"], tmp_path / "page.html", data)
    assert "gone" not in whole.text.split("Scores by group")[1] and whole.data["images"] == 4
    assert "has other scores" not in whole.text


def test_scores_that_differ_from_those_of_the_predictions_are_reported(runs, tmp_path):
    other = score(posts_of("test", TEST), ANSWERS["dyncot"], {"snow"})
    (runs[0] / "results.json").write_text(json.dumps(other))
    assert "a: its results.json has other scores" in page_of(runs, tmp_path / "page.html").text


def test_a_model_that_was_not_trained_is_reported(tmp_path, data):
    page = page_of([write_run(tmp_path / "z", data, "zeroshot", ANSWERS["sft"], steps=0)], tmp_path / "page.html")
    assert "nothing was trained" in page.text and page.row("trained on")[1] == "nothing"
    assert "no run has a comparisons.json" in page.text


def test_training_posts_of_all_datasets_count(runs, data, tmp_path):
    more = [("nothing said before", ("hill", "new place"))]
    write_dataset(tmp_path / "more", {"train": posts_of("more", more)}, tmp_path)
    config = json.loads((runs[1] / "config.json").read_text())
    config["data"]["path"] = f"{data}:2, {tmp_path / 'more'}"
    (runs[1] / "config.json").write_text(json.dumps(config))
    page = page_of(runs[1:], tmp_path / "page.html")
    assert page.row("posts") == ["posts", "4", "1", "3", "3", "2"]  # new place is seen now
    section = page.text.split("Errors next to")[1]
    assert "Posts without a hit: 1; for 1 of them" in section and "nothing said before" in section


def test_validation_scores_are_drawn_at_the_steps_that_logged_them(runs, tmp_path):
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    lines[19]["valid/all/f1@1"], lines[39]["valid/all/f1@1"] = 0.2, 0.4
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "lo')
    page = page_of(runs[:1], tmp_path / "page.html")
    assert "F1@1 on valid, all" in page.text and "F1@1 on valid, unseen" not in page.text
    assert page.row("steps")[1] == "40"  # the line that a kill cut off is no step


def test_losses_of_posts_show_what_each_gamma_would_choose(runs, tmp_path):
    assert "there is no losses.npz of a" in page_of(runs[:1], tmp_path / "page.html").text
    loss_N = np.array([0.1, 0.35, 0.4, 0.55, 2.0] + [0.05] * 5)
    epoch_N = np.repeat([0, 1], 5)
    np.savez(runs[0] / "losses.npz", epoch_N=epoch_N, post_N=np.tile(range(5), 2), nll_sft_N=loss_N)
    page = page_of(runs[:1], tmp_path / "page.html")
    start = next(number for number, row in enumerate(page.rows) if row[:2] == ["epoch", "posts"])
    first, second = page.rows[start + 1 : start + 3]
    assert first[:3] == ["1", "5", "–"] and first[5] == "0.400"
    assert first[9:] == ["20.00%", "40.00%", "60.00%", "80.00%", "80.00%"]  # a tie takes SFT; the mean is 0.68
    assert second[9] == "100.00%" and second[-1] == "0.00%"
    assert "did not record which posts have a chain of thought" in page.text


def test_shares_under_a_gamma_are_of_the_posts_that_have_a_chain_of_thought(runs, tmp_path):
    losses = {"epoch_N": np.repeat([0, 1], 5), "post_N": np.tile(range(5), 2)}
    losses["nll_sft_N"] = np.tile([0.1, 0.35, 0.4, 0.55, 2.0], 2)
    np.savez(runs[1] / "losses.npz", **losses, has_cot_N=np.tile([True, False, False, True, False], 2))
    page = page_of(runs[1:], tmp_path / "page.html")
    start = next(number for number, row in enumerate(page.rows) if row[:2] == ["epoch", "posts"])
    assert page.rows[start + 1][:3] == ["1", "5", "2"]
    assert page.rows[start + 1][9:] == ["50.00%", "50.00%", "50.00%", "100.00%", "100.00%"]
    assert page.row("with a chain of thought")[1] == "2 of 5 posts"
    assert page.row("trained on")[1] == "5 posts, 160 with repeats (32.0 epochs)"


def test_a_run_on_posts_without_a_chain_of_thought_says_so_and_has_no_cot_loss(runs, tmp_path):
    line = {"loss": 1.0, "loss_sft": 1.0, "loss_cot": None, "cot_share": 0.0, "gamma": 0.4, "posts": 5.0, "seconds": 1}
    (runs[1] / "metrics.jsonl").write_text("".join(json.dumps({"step": step, **line}) + "\n" for step in (1, 2)))
    losses = {"epoch_N": np.zeros(5, int), "post_N": np.arange(5), "nll_sft_N": np.full(5, 0.1)}
    np.savez(runs[1] / "losses.npz", **losses, has_cot_N=np.zeros(5, bool))
    page = page_of(runs[1:], tmp_path / "page.html")
    assert page.text.count("no training post has a chain of thought") == 2  # with the curves, and with γ
    assert "SFT loss, nats a label" in page.text and "CoT loss, nats a label" not in page.text
    start = next(number for number, row in enumerate(page.rows) if row[:2] == ["epoch", "posts"])
    assert page.rows[start + 1][2] == "0" and page.rows[start + 1][9:] == ["–"] * 5
    assert page.row("with a chain of thought")[1] == "0 of 5 posts"


def test_a_step_whose_seconds_are_not_known_makes_no_peak_in_the_rate():
    nan = float("nan")
    metrics = {"step": np.arange(1, 4), "posts": np.array([4.0, 4, 4]), "seconds": np.array([nan, 2.0, 2.0])}
    _, rate_S = figures._values(SimpleNamespace(metrics=metrics), "posts_per_second")
    np.testing.assert_array_equal(rate_S, [nan, 2.0, 2.0])


def test_where_the_published_rule_is_in_balance_is_drawn_beside_where_it_is():
    metrics = {"step": np.arange(1, 4), "p_think": np.array([0, 0.5, 1]), "p_think_balance": np.array([0, 0.6, 0.7])}
    without = {name: metrics[name] for name in ("step", "p_think")}  # of an earlier version
    runs = [
        SimpleNamespace(name=name, system=system, metric="f1@1", metrics=own, config={"decision": "paper"})
        for name, system, own in (
            ("a", "Dynamic CoT (mode_free)", metrics),
            ("b", "Dynamic CoT", without),
            ("c", "Dynamic CoT", metrics),
        )
    ]
    shown = {
        chart.title: [(line.name, line.colour, line.is_dashed) for line in chart.lines]
        for chart in figures.curves(runs)
    }
    assert shown == {
        "P(think), the CoT target's first label; dashed: in balance with γ": [
            ("a", 0, False),
            ("b", 1, False),
            ("c", 2, False),
            ("c, in balance with γ", 2, True),
        ]
    }
    runs[0].metrics = {"step": np.arange(1, 7), "p_think": np.arange(6) / 6}  # a longer run, on the same axis
    (chart,) = figures.curves(runs)
    ends = [float(re.findall(r"[\d.]+", line.line)[-2]) for line in chart.lines]
    assert ends[3] == ends[2] < ends[0]
    (chart,) = figures.curves(runs[:2])
    assert chart.title == "P(think), the CoT target's first label" and len(chart.lines) == 2


def test_a_run_that_diverged_is_reported(runs, tmp_path):
    nan = {"loss": None, "loss_sft": None, "grad_norm": None, "cot_share": 0.0, "posts": 4, "seconds": 1}
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps({"step": step, **nan}) + "\n" for step in (1, 2)))
    np.savez(runs[0] / "losses.npz", epoch_N=np.zeros(4, int), post_N=np.arange(4), nll_sft_N=np.full(4, np.nan))
    ids = np.array([f"test-{n}" for n in range(1, 5)])
    np.savez(runs[0] / "hidden.npz", id_N=ids, hidden_ND=np.full((4, 3), np.nan))
    page = page_of(runs[:1], tmp_path / "page.html")
    assert "fewer than three posts" in page.text and "Loss of the step" not in page.text


def test_hidden_states_are_drawn_by_their_keyphrase(runs, tmp_path):
    posts = [("", ("snow",)), ("", ("Snow",)), ("", ("rain",)), ("", ("snow", "rain"))]
    run = write_run(tmp_path / "h", tmp_path / "gone", "sft", [["snow"]] * 4, posts)
    hidden_ND = np.array([[9, 9, 9], [1, 0, 2], [0, 3, 0], [0, 3, 0]])  # of another order than the predictions
    np.savez(run / "hidden.npz", id_N=np.array([f"test-{n}" for n in (4, 3, 2, 1)]), hidden_ND=hidden_ND)
    write_report([run], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    dots = re.findall(r'<circle class="(..)" cx="(.*?)" cy="(.*?)".*?<title>(.*?)</title>', text)
    assert [dot[3] for dot in dots] == ["test-1: snow", "test-2: snow", "test-3: rain"]  # test-4 is in no one cluster
    assert dots[0][:3] == dots[1][:3] != dots[2][:3]
    assert "there is no hidden.npz of a" in page_of(runs[:1], tmp_path / "page.html").text


def test_two_directions_have_all_variance_of_a_plane():
    rng = np.random.default_rng(1)
    plane_N2 = rng.normal(size=(30, 2)) * (5, 1)
    turned_ND = plane_N2 @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2] + 3
    found_N2, caption = pca(turned_ND)
    assert "100.00% of the variance" in caption
    centred_N2 = plane_N2 - plane_N2.mean(axis=0)
    np.testing.assert_allclose(found_N2 @ found_N2.T, centred_N2 @ centred_N2.T, atol=1e-9)  # the same distances


def test_tsne_keeps_clusters_apart_and_a_missing_extra_is_named(runs, tmp_path, capsys, monkeypatch):
    posts = [("", (f"cluster {n % 5}",)) for n in range(60)]
    run = write_run(tmp_path / "t", tmp_path / "gone", "sft", [["x"]] * 60, posts)
    hidden_ND = np.random.default_rng(0).normal(size=(60, 8)) + 20 * np.eye(5, 8)[np.arange(60) % 5]
    np.savez(run / "hidden.npz", id_N=np.array([f"test-{n}" for n in range(1, 61)]), hidden_ND=hidden_ND)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "sklearn.manifold", None)
        assert main([str(run), "--tsne", f"--out={tmp_path / 'page.html'}"]) == 2
    assert re.fullmatch(r".*mmkp_jax\[tsne\].*\n", capsys.readouterr().err) and not (tmp_path / "page.html").exists()
    pytest.importorskip("sklearn")
    assert main([str(run), "--tsne", f"--out={tmp_path / 'page.html'}"]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "t-SNE, perplexity 20" in text
    dots = re.findall(r'<circle class="(..)" cx="(.*?)" cy="(.*?)"', text)
    at_N2, colour_N = np.array([dot[1:] for dot in dots], float), np.array([dot[0] for dot in dots])
    distance_NN = np.linalg.norm(at_N2[:, None] - at_N2, axis=-1) + np.where(np.eye(60), np.inf, 0)
    assert (colour_N[distance_NN.argmin(axis=1)] == colour_N).mean() > 0.95


def test_a_long_curve_is_thinned_and_skips_what_is_not_finite():
    step = np.arange(1, 5001, dtype=float)
    value = np.where(step < 2500, 1.0, 3.0)
    value[1000:1100] = np.nan
    chart = line_chart("t", [("r", step, value)], x_name="step")
    (line,) = chart.lines
    assert POINTS * 0.9 < len(re.findall("[ML]", line.raw)) <= POINTS
    assert line.raw.count("M") == 2 and line.line.count("M") == 1  # the mean goes over the gap
    levels = {y for y in re.findall(r" ([\d.]+)", line.raw)}
    assert len(levels) == 3  # 1, 3, and the bin between
    assert [label for _, label in chart.x_ticks] == ["1000", "2000", "3000", "4000"]
    assert line_chart("t", [("r", step, np.full(5000, np.nan))], x_name="step") is None


def test_small_and_large_numbers_are_abbreviated_along_an_axis():
    def labels(high):
        return [label for _, label in ticks(0, high, lambda x: x)]

    assert labels(0.0021) == ["0", "5e-4", "1e-3", "1.5e-3", "2e-3"]
    assert labels(30_000) == ["0", "5000", "10k", "15k", "20k", "25k", "30k"]
    assert labels(1) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_texts_are_shortened_to_one_length_that_fits():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 500, 200)
    for budget in (1_000, 10_000, 20_000):
        most = common_size(sizes, budget)
        assert np.minimum(sizes, most).sum() <= budget < np.minimum(sizes, most + 1).sum()
    assert common_size(sizes, int(sizes.sum())) == sizes.max()
    assert shorten("short", 7) == "short"
    for text in ("<" * 50 + "a" * 200, "é\n" * 90):
        shown = shorten(text, 100)
        assert shown.endswith("…") and text.startswith(shown[:-1]) and 60 < len(for_script(shown[:-1]).encode()) <= 100


def test_images_are_shared_among_kinds_of_posts():
    rare, common = np.zeros(100, bool), np.ones(100, bool)
    rare[90:] = True
    assert set(choose_evenly([rare, common], 20)) == {*range(10), *range(90, 100)}
    assert len(choose_evenly([rare, common], 500)) == 100


def test_baselines_that_runs_share_are_shown_once(runs, tmp_path):
    mine, base = (score(posts_of("test", TEST), ANSWERS[each], {"snow"}) for each in ("dyncot", "sft"))
    for run in runs:
        systems = {"scores": {"step 40": mine, "most frequent": base}, "by_kind": {"step 40": {"image": mine["all"]}}}
        systems["scores"]["step 40"] = mine if run.name == "a" else base
        (run / "comparisons.json").write_text(json.dumps(systems))
    page = page_of(runs, tmp_path / "page.html")
    names = [row[0] for row in page.rows]
    assert names.count("most frequent") == 1 and {"a: step 40", "b: step 40"} <= set(names)
    assert ["F1@1, %", "image"] in page.rows


def test_a_run_that_selects_by_f1_at_m_is_headed_with_it(tmp_path, data):
    run = write_run(tmp_path / "a", data, "dyncot", best_metric="valid/all/f1@M")
    mine = score(posts_of("test", TEST), ANSWERS["dyncot"], {"snow"})
    (run / "comparisons.json").write_text(json.dumps({"scores": {"step 40": mine}, "by_kind": {}}))
    line = {"step": 41, "valid/all/f1@1": 0.25, "valid/all/f1@M": 0.5}
    lines = (run / "metrics.jsonl").read_text() + json.dumps(line) + "\n"
    (run / "metrics.jsonl").write_text(lines + json.dumps(line | {"step": 42}) + "\n")
    page = page_of([run], tmp_path / "page.html")
    assert page.text.index("F1@M by group, %") < page.text.index("F1@1 by group, %")
    assert page.row("F1@M, %") and page.row("step 40")[1] == f"{100 * mine['all']['f1@M']:.2f}"
    assert "F1@M on valid, all" in page.text and "F1@1 on valid, all" not in page.text
    assert re.search(r"at step 40: F1@M [\d.]+ \(", page.text)


def test_an_input_error_is_one_line_and_exit_2(runs, data, tmp_path, capsys):
    def message(*flags, out="page.html"):
        assert main([*map(str, flags), f"--out={tmp_path / out}"]) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1 and not (tmp_path / "page.html").exists()
        return output.err

    a, b = runs
    assert "there is no such run (did you mean 'a'?)" in message(tmp_path / "A")
    assert "no config.json" in message(data)
    assert "named twice" in message(a, tmp_path / "b/../a")
    assert "there is no such folder" in message(a, "--data=nowhere")
    assert "unknown flag --dta=x (did you mean '--data'?)" in message(a, "--dta=x")
    assert "no RUN is given" in message()
    assert "no/such: there is no such folder" in message(a, out="no/such/page.html")
    rows = [json.loads(line) for line in (b / "predictions/test-40.jsonl").read_text().splitlines()]
    for changed, expected in (
        (rows[1:], "lacks 1 post ('test-1')"),
        ([rows[0] | {"id": "new"}, *rows[1:]], "has 1 post ('new') that a lacks"),
        ([rows[0] | {"keyphrases": ["x"]}, *rows[1:]], "the keyphrases of 1 post ('test-1')"),
        (
            [rows[0] | {"form": "x"}, *rows[1:]],
            "test-40.jsonl:1: 'form' is \"x\", not one of direct, cot, other",
        ),
        ([*rows, rows[0]], "test-40.jsonl:5: the post 'test-1' is in an earlier line too"),
    ):
        write_predictions(b, changed)
        assert expected in message(a, b)
    write_predictions(b, [row | {"id": f"x{n}"} for n, row in enumerate(rows)])
    assert "4 of 4 test posts are not those" in message(b, f"--data={data}")
    for file in (b / "predictions").iterdir():
        file.unlink()
    assert "no predictions of the test split yet" in message(a, b) and "mmkp_jax.predict --model=" in message(a, b)
    (a / "losses.npz").write_bytes(b"no zip")
    assert "losses.npz: cannot be read" in message(a)
    (a / "config.json").write_text("[")
    assert "config.json: is not JSON" in message(a)


def test_the_newest_evaluation_is_shown(runs, tmp_path):
    rows = [json.loads(line) for line in (runs[0] / "predictions/test-40.jsonl").read_text().splitlines()]
    write_predictions(runs[0], [row | {"predicted": ["other"]} for row in rows], step=100)
    page = page_of(runs[:1], tmp_path / "page.html")
    assert page.data["posts"][0][6][0][2] == ["other"] and "at step 100" in page.text


def test_the_script_shows_posts_and_nothing_else_runs(runs, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium on this machine")
    posts = [(HOSTILE, (HOSTILE,))] * 45
    run = write_run(tmp_path / "h", tmp_path / "gone", "dyncot", [[HOSTILE]] * 45, posts)
    write_report([run], tmp_path / "page.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    ran = subprocess.run([chromium, *flags, str(tmp_path / "page.html")], capture_output=True, text=True, timeout=120)
    shown = ran.stdout.split('id="list"')[1].split("</section>")[0]
    assert shown.count('class="card"') == 20 and "page 1 of 3" in shown
    assert "<script" not in shown and "<img" not in shown and html.escape("<script>alert(1)") in shown


def test_the_report_imports_no_accelerator_library(runs, tmp_path):
    assert accelerated_imports("mmkp_jax.report", [str(runs[0]), f"--out={tmp_path / 'page.html'}"]) == "[]"


@pytest.fixture(scope="module", params=[0.05, pytest.param(1, marks=pytest.mark.nightly)])
def many(tmp_path_factory, request):
    """10,000 posts, or a share of them, with images, and three runs that reason at length."""
    root, rng, share = tmp_path_factory.mktemp("many"), random.Random(0), request.param
    for n in range(20):
        pixels = np.random.default_rng(n).integers(0, 256, (160, 160, 3), np.uint8)  # noise: nothing to compress
        (root / f"{n}.png").write_bytes(saved(Image.fromarray(pixels)))
    words = [f"word{n}" for n in range(3000)]

    def rows(count):
        return [(" ".join(rng.choices(words, k=25)), tuple(rng.sample(words, 2))) for _ in range(count)]

    test = rows(int(share * 10_000))
    posts = [
        Post(post.id, post.text, f"{n % 20}.png", post.keyphrases, None, "f", n)
        for n, post in enumerate(posts_of("test", test))
    ]
    write_dataset(root / "out", {"train": posts_of("train", rows(int(share * 1000))), "test": posts}, root)
    runs = []
    for n in range(3):
        predicted = [[rng.choice([phrases[0], *rng.choices(words, k=2)])] for _, phrases in test]
        run = write_run(root / f"run{n}", root / "out", "dyncot", predicted, test, steps=3000)
        answers = [json.loads(line) for line in (run / "predictions/test-3000.jsonl").read_text().splitlines()]
        why = [" ".join(rng.choices(words, k=160)) for _ in answers]
        write_predictions(
            run, [row | {"output": each + row["output"]} for row, each in zip(answers, why, strict=True)], 3000
        )
        runs.append(run)
    return runs, share


@pytest.mark.timeout(120, func_only=True)
def test_ten_thousand_posts_of_three_runs_stay_below_20_mb(many, tmp_path, monkeypatch):
    """Or a twentieth of them below a twentieth of that, and the charts."""
    runs, share = many
    for limit in ("TEXT_BYTES", "MAX_IMAGES", "IMAGE_BYTES"):
        monkeypatch.setattr(browser, limit, int(share * getattr(browser, limit)))
    page = page_of(runs, tmp_path / "page.html")
    charts = 0 if share == 1 else 1e6  # charts and the script are as large for few posts
    assert (tmp_path / "page.html").stat().st_size < share * 20e6 + charts
    assert len(page.data["posts"]) == share * 10_000 and share * 100 < page.data["images"] <= share * 500
    texts = [post[1] for post in page.data["posts"]] + [said[5] for post in page.data["posts"] for said in post[6]]
    assert 0.9 < sum(len(for_script(text).encode()) for text in texts) / (share * TEXT_BYTES) < 1.1
    assert page.data["cut"] > 0
