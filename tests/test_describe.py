"""The command that describes a dataset: its figures, its page, and one line for each input error."""

import re
from html.parser import HTMLParser

import pytest

from mmkp_jax.data.forest import COT, SFT, TRUNK
from mmkp_jax.data.posts import Post, Reject
from mmkp_jax.data.records import open_split, write_dataset
from mmkp_jax.describe import main, run
from mmkp_jax.pages.dataset.facts import preview_posts
from mmkp_jax.runtime.config import read_config
from mmkp_jax.training.batches import plan_posts
from tests.data.test_images import random_image, saved
from tests.support.imports import accelerated_imports
from tests.support.small_pocket import ROOT, SIZES, small_pocket

CONFIG = str(ROOT / "configs/dyncot.py")
HOSTILE = "<script>alert('x')</script>&amp;"


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("pocket"))


@pytest.fixture(scope="module")
def overrides(pocket):
    return ["--config.make=", f"--config.model.path={pocket / 'model'}", f"--config.data.path={pocket / 'dataset'}"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A dataset whose every text, of posts and rejects, is an attempt on the page or the terminal."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "a.png").write_bytes(saved(random_image(90, 60)))

    def posts(split):
        said = f"{HOSTILE} <|im_end|>\x1b[31m"
        one = Post(f"{split}-{HOSTILE}", said, "a.png", (HOSTILE, "<b>"), f"</think>{HOSTILE}", "f", 1)
        return [one, Post(f"{HOSTILE}\n\x1b[2J", said, "a.png", (HOSTILE,), None, "f", 2)]

    rejects = [Reject(HOSTILE, f"{HOSTILE}.jsonl", 3, f"{HOSTILE}\x1b[31m", "m")]
    write_dataset(root / "out", {"train": [*posts("train"), *rejects], "test": posts("test")}, root)
    return root / "out"


def open_all(path, split):
    records = open_split(path, split)
    return (records[number] for number in range(len(records)))


class Page(HTMLParser):
    """A page as a browser shows it."""

    EMPTY = frozenset(("meta", "img"))

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.text = set(), [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(file):
    page = Page(file.read_text(encoding="utf-8"))
    assert not page.open
    assert not page.tags & {"script", "link", "iframe", "b"}
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    return page


def cells_of(printed, title, first):
    """The cells of the row of a table that begins with `first`."""
    table = printed.split(f"{title}\n")[1].split("\n\n")[0]
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.split("\n")[1:]]  # without the header
    return next(row for row in rows if row[0] == first)


def test_the_figures_and_the_page_of_pocket(pocket, overrides, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main([f"--config={CONFIG}", *overrides, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    train, test = (list(open_all(pocket / "dataset", split)) for split in ("train", "test"))
    known, found = ({each for record in records for each in record.keyphrases} for records in (train, test))
    per_post = sum(len(record.keyphrases) for record in train + test) / len(train + test)
    own = cells_of(printed, "Next to the paper's datasets", "dataset")
    overlap = f"{100 * len(found & known) / len(found):.2f}%"
    assert own == ["dataset", str(len(train)), str(len(test)), f"{per_post:.2f}", overlap]
    paper = cells_of(printed, "Next to the paper's datasets", "MMKP-V2 (paper)")
    assert paper == ["MMKP-V2 (paper)", "34,515", "10,564", "1.29", "44.92%"]
    with_cot = sum(record.cot is not None for record in train)
    row = cells_of(printed, "Splits", "train")
    assert row[:2] == ["train", str(len(train))] and row[5] == f"{100 * with_cot / len(train):.2f}%"
    assert int(cells_of(printed, "Splits", "test")[2]) == SIZES["test"] - len(test)
    page = page_of(out)
    assert {"svg", "img", "table"} <= page.tags and out.stat().st_size < 1e6
    for title in ("Rows of the config", "Trimmed and left out", "Duplicates", "Rejects", "The model's input"):
        assert title in page.text
    assert f'"Post text": {train[0].text}⏎' in page.text
    assert f"{'; '.join(train[0].keyphrases)}<|im_end|>" in page.text


@pytest.mark.parametrize("size", [{}, {"tokens": 120, "labels": 40}])
def test_what_a_row_leaves_out_is_what_training_leaves_out(overrides, size, capsys):
    flags = [*overrides, "--config.data.max_text_tokens=20", *(f"--config.row.{k}={n}" for k, n in size.items())]
    description = run([f"--config={CONFIG}", *flags])
    training = plan_posts(read_config(CONFIG, flags), description.token_statistics.setup.recipe)
    found = description.token_statistics.fit
    assert found.left_out == training.left_out and bool(found.left_out) == bool(size)
    first = training.plans[0]
    assert sorted(found.posts.tolist()) == sorted(first.post_N.tolist())
    assert (found.rows, found.batches) == (first.rows, len(first))
    printed = capsys.readouterr().out
    longer = cells_of(printed, "Trimmed and left out", "it is longer than a row: left out of training")
    assert longer[1:3] == ["train", str(len(found.left_out))]
    above = int((description.splits["train"].text_tokens_N > 20).sum())
    trimmed = cells_of(printed, "Trimmed and left out", "text above max_text_tokens, 20: trimmed")
    assert 0 < above < SIZES["train"] and trimmed[1:3] == ["train", str(above)]


def test_updates_rows_and_missing_chains_of_thought_are_reported(tmp_path, overrides, capsys):
    posts = [Post(f"train-{n}", f"snow {n}", None, ("snow",)) for n in range(15)]
    write_dataset(tmp_path / "out", {"train": posts}, tmp_path)
    flags = [f"--config={CONFIG}", *overrides, f"--data={tmp_path / 'out'}", "--config.num_epochs=4"]
    run([*flags, "--config.posts_per_step=2"])
    printed = capsys.readouterr().out
    assert "32 updates of 1.9 posts; the paper: 172,575 updates of 1 post" in printed
    assert "WARNING: none of 15 training posts has a chain of thought, so Dynamic CoT trains as SFT does" in printed
    description = run([*flags, "--config.posts_per_step=15"])
    needed = description.token_statistics.fit.batch_rows
    assert needed > 1
    assert f"give config.global_batch_size={needed}, or larger rows" in capsys.readouterr().out
    run([*flags, "--config.total_steps=30"])  # one flag makes a short run
    assert "30 updates of" in capsys.readouterr().out


def test_figures_that_a_dataset_does_not_have_are_dashes(tmp_path, capsys):
    posts = [Post("a", "snow", None, ("snow", "new")), Post("b", "snow", None, ("x",))]
    write_dataset(tmp_path / "out", {"test": posts}, tmp_path)
    description = run([f"--data={tmp_path / 'out'}", f"--out={tmp_path / 'page.html'}"])
    assert list(description.splits) == ["test"]
    printed = capsys.readouterr().out
    assert cells_of(printed, "Next to the paper's datasets", "out") == ["out", "–", "2", "1.50", "–"]
    assert "unseen" not in printed.replace("seen: a training post carries it", "")
    assert "within test  1 of test  a = b" in printed
    assert "--config" in printed and "--config" in page_of(tmp_path / "page.html").text


@pytest.mark.parametrize("text, is_said", [("Loving Paris!", True), ("sun in #paris", True), ("loving paris !", False)])
def test_keyphrases_hidden_by_punctuation_are_reported(text, is_said, tmp_path, capsys):
    posts = [Post(f"train-{n}", text, None, ("paris",), None, "f", n) for n in (1, 2)]
    write_dataset(tmp_path / "out", {"train": posts}, tmp_path)
    assert main([f"--data={tmp_path / 'out'}"]) == 0
    line = "train: 2 absent keyphrases are in the text, with punctuation on them"
    assert (line in capsys.readouterr().out) == is_said


def test_training_posts_alone_are_described(tmp_path, overrides):
    write_dataset(tmp_path / "out", {"train": [Post("a", "snow", None, ("snow",))]}, tmp_path)
    flags = [f"--config={CONFIG}", *overrides, f"--data={tmp_path / 'out'}", f"--out={tmp_path / 'page.html'}"]
    assert main(flags) == 0
    assert "no image" in page_of(tmp_path / "page.html").text


def test_hostile_texts_stay_text(hostile, overrides, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main([f"--config={CONFIG}", *overrides, f"--data={hostile}", f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and HOSTILE in printed
    page = page_of(out)
    assert f"{HOSTILE} <|im_end|>" in page.text  # among the tokens, in the prompt
    assert page.text.count(f"<think></think>{HOSTILE}</think><answer>{HOSTILE}; <b></answer><|im_end|>") == 1


def test_repeats_within_and_across_splits_are_counted(hostile, capsys):
    duplicates = {(each.what, each.splits): each.posts for each in run([f"--data={hostile}"]).duplicates}
    assert duplicates == {
        **{(what, (split,)): (1,) for what in ("text", "image") for split in ("train", "test")},
        **{(what, ("train", "test")): (2, 2) for what in ("text", "image")},
        ("id", ("train", "test")): (1, 1),
    }


def test_a_damaged_split_is_not_a_missing_split(tmp_path, capsys):
    posts = [Post(f"p-{i}", "snow " * 50, None, ("k",)) for i in range(20)]
    write_dataset(tmp_path / "out", {"train": posts, "test": posts}, tmp_path)
    (info,) = tmp_path.glob("out/**/dataset_info.json")
    for file in info.parent.glob("*test*"):
        file.write_bytes(file.read_bytes()[:100])
    assert main([f"--data={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "neither --data=DIR nor --config=FILE is given"),
        (["--data=nowhere"], "nowhere: the folder holds no dataset"),
        (["--dta=x"], "unknown flag --dta=x (did you mean '--data'?)"),
        (["--data=x", "--config.seed=1"], "--config.seed=1 goes with --config=FILE"),
        (["--data=x", "stray"], "unknown flag stray"),
        (["--config=nowhere.py"], "--config: there is no file 'nowhere.py'"),
        ([f"--config={CONFIG}:model=qwen"], "unknown preset 'model=qwen'"),
        ([f"--config={CONFIG}", "--config.sead=1"], "sead"),
        ([f"--config={CONFIG}", "--config.row.tokens=many"], "many"),
        ([f"--config={CONFIG}", "--config.make=", "--config.data.path=configs,tests"], "it names 2 datasets"),
        (
            [f"--config={CONFIG}", "--config.make=", "--data=x", "--config.model.path=no/where/at/all"],
            "there is no such folder",
        ),
        ([f"--config={CONFIG}", "--config.make=", "--data=x", "--config.strategy=sfd"], "sfd"),
        (["--data=x", "--out=no/such/folder.html"], "no/such: there is no such folder"),
    ],
)
def test_an_input_error_is_one_line_and_exit_2(flags, line, capsys):
    assert main(flags) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and line in output.err


def test_help_exits_0(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0 and "--config" in capsys.readouterr().out


def test_without_a_config_no_accelerator_library_is_imported(pocket):
    assert accelerated_imports("mmkp_jax.describe", [f"--data={pocket / 'dataset'}"]) == "[]"


def test_the_shown_posts_are_of_different_kinds_and_trained_on(overrides):
    description = run([f"--config={CONFIG}", *overrides])
    shown = preview_posts(description)
    trained = {
        description.token_statistics.lengths["train"].id_N[number] for number in description.token_statistics.fit.posts
    }
    assert {post.record.id for post in shown} <= trained
    assert len({(bool(post.record.image), post.record.cot is None) for post in shown}) == len(shown) > 1
    for post in shown:
        assert len(post.row.images) == bool(post.record.image)
        assert [part.branch for part in post.row.parts] == ([TRUNK, COT, SFT] if post.record.cot else [TRUNK, SFT])
