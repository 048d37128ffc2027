"""The description of a dataset as tables, charts and a page."""

from collections.abc import Sequence

import numpy as np

from mmkp_jax.data.forest import COT, SFT, TRUNK
from mmkp_jax.data.run_lines import chains_line, updates_line
from mmkp_jax.data.statistics import LISTED, distribution, train_overlap
from mmkp_jax.evaluation.tokenised import HiddenKeyphrases
from mmkp_jax.pages.dataset.facts import Description, PostPreview, is_trimmed
from mmkp_jax.pages.histogram import HistogramChart, histogram_chart
from mmkp_jax.pages.render import render
from mmkp_jax.pages.tables import Table, count, plain, share
from mmkp_jax.runtime.terminal import without_repeats

PAPER = (
    ("MMKP (paper)", "42,959", "5,372", "–", "97.32%"),
    ("MMKP-V2 (paper)", "34,515", "10,564", "1.29", "44.92%"),
    ("MMKP-360k (paper)", "330,614", "36,736", "4.48", "45.28%"),
)
"""The paper's datasets (arXiv 2510.09358, Table 2)."""

TEXT, PIXELS, IN_ROW = "text, tokens", "image, pixels", "post in a row, tokens"

BRANCH_NAMES = {TRUNK: "prompt", SFT: "SFT target", COT: "CoT target"}


def tables_of(description: Description) -> list[Table]:
    """All tables of the description, in reading order."""
    return [
        _next_to_the_paper(description),
        _splits(description),
        _kinds(description),
        _lengths(description),
        *([_rows(description), _trimmed(description)] if description.token_statistics else []),
        _duplicates(description),
        _rejects(description),
    ]


def page_of(description: Description, shown: Sequence[PostPreview]) -> str:
    """The description as one HTML file."""
    return render(
        "dataset/dataset.html.jinja",
        name=str(description.path),
        summary=summary(description),
        tables={table.title: table for table in tables_of(description)},
        charts=charts_of(description),
        first=description.first,
        shown=shown,
        branch_names=BRANCH_NAMES,
        token_statistics=description.token_statistics is not None,
        plain=plain,
    )


def summary(description: Description) -> str:
    """The dataset in a sentence or two."""
    posts = ", ".join(f"{count(each.posts)} {name}" for name, each in description.splits.items())
    text = f"Posts: {posts}."
    if {"train", "test"} <= description.splits.keys():
        train, test = description.splits["train"], description.splits["test"]
        present, unseen, every = (test.groups[name].keyphrases for name in ("present", "unseen", "all"))
        text += (
            f" Of the test keyphrases, {share(present, every)} are in their post's text and {share(unseen, every)}"
            f" are on no training post; {share(train_overlap(test, train.unique), 1)} of the distinct ones are on some."
        )
    return text


def _next_to_the_paper(description: Description) -> Table:
    train, test = (description.splits.get(name) for name in ("train", "test"))
    both = [split for split in (train, test) if split]
    keyphrases, posts = sum(each.groups["all"].keyphrases for each in both), sum(each.posts for each in both)
    own = (
        plain(description.path.resolve().name, 40),
        count(train.posts) if train else "–",
        count(test.posts) if test else "–",
        f"{keyphrases / posts:.2f}" if posts else "–",
        share(train_overlap(test, train.unique), 1) if train and test else "–",
    )
    header = ("dataset", "train posts", "test posts", "keyphrases a post", "overlap")
    notes = ["overlap: share of the distinct test keyphrases that a training post has"]
    return Table("Next to the paper's datasets", header, [own, *PAPER], notes)


def _splits(description: Description) -> Table:
    rows = [
        (
            name,
            count(split.posts),
            count(sum(each.count for (of, _), each in description.rejected.items() if of == name)),
            count(split.without_text),
            count(split.without_image),
            share(split.with_cot, split.posts),
            count(split.groups["all"].keyphrases),
            f"{split.groups['all'].keyphrases / max(split.posts, 1):.2f}",
            count(len(split.unique)),
        )
        for name, split in description.splits.items()
    ]
    header = ("split", "posts", "rejected", "no text", "no image", "with CoT", "keyphrases", "a post", "distinct")
    return Table("Splits", header, rows)


def _kinds(description: Description) -> Table:
    rows, notes = [], ["present: the stemmed keyphrase is in the stemmed text; seen: a training post has it"]
    for name, split in description.splits.items():
        keyphrases, posts = split.groups["all"]
        for kind in ("present", "absent", "seen", "unseen"):
            if group := split.groups[kind]:
                shares = share(group.keyphrases, keyphrases), share(group.posts, posts)
                rows.append((name, kind, count(group.keyphrases), shares[0], count(group.posts), shares[1]))
        if split.groups["unseen"]:
            different = sum(keyphrase not in description.splits["train"].unique for keyphrase in split.unique)
            notes.append(f"{name}: {count(different)} of {count(len(split.unique))} distinct keyphrases are unseen")
        if (hidden := HiddenKeyphrases(split.hidden, keyphrases)).is_common:
            what = f"{name}: {count(hidden.keyphrases)} absent keyphrases are in the text, with punctuation on them"
            notes.append(f"{what} (`Paris!`, `#paris`): posts seem not to be tokenised; see score --tokenised")
    header = ("split", "kind", "keyphrases", "share", "posts with one", "share")
    return Table("Keyphrases by kind", header, without_repeats(rows), notes, left=2)


def _quantities(description: Description, split: str) -> dict[str, np.ndarray]:
    """Values of the posts that have them, by quantity."""
    found = description.splits[split]
    width_N, height_N = (each[each > 0].astype(np.int64) for each in (found.width_N, found.height_N))
    sizes = {PIXELS: width_N * height_N, "image's longer side, pixels": np.maximum(width_N, height_N)}
    if description.token_statistics is None:
        return sizes
    lengths = description.token_statistics.lengths[split]
    return {
        TEXT: found.text_tokens_N,
        "prompt, tokens": lengths.trunk_N + 1,
        "SFT target, tokens": lengths.sft_N,
        "CoT target, tokens": lengths.cot_N[lengths.cot_N > 0],
        "image, tokens": lengths.image_N[lengths.image_N > 0],
        **sizes,
    }


def _lengths(description: Description) -> Table:
    by_split = {name: _quantities(description, name) for name in description.splits}
    rows = []
    for what in by_split[description.first]:
        for name, quantities in by_split.items():
            if found := distribution(quantities[what]):
                figures = (count(round(each)) for each in (found.median, found.p95, found.p99, found.most))
                mean = f"{found.mean:,.1f}" if found.mean < 1000 else count(round(found.mean))
                rows.append((what, name, count(found.count), mean, *figures))
    header = ("length", "split", "posts", "mean", "median", "95%", "99%", "most")
    return Table("Lengths", header, without_repeats(rows), left=2)


def _rows(description: Description) -> Table:
    statistics = description.token_statistics
    rows = [
        (name, count(slots.row), count(slots.most), share(slots.fill, 1))
        for name, slots in statistics.fit.slots.items()
    ]
    trained, posts = len(statistics.fit.posts), description.splits[description.first].posts
    notes = [
        f"with the targets {' and '.join(statistics.setup.branches)}: {count(trained)} of {count(posts)}"
        f" {description.first} posts, in {count(statistics.fit.rows)} rows,"
        f" {count(statistics.fit.batches)} batches an epoch",
        *_steps(description),
    ]
    header = ("slots", "a row has", "the largest post takes", "filled in an epoch")
    return Table("Rows of the config", header, rows, notes)


def _steps(description: Description) -> list[str]:
    """The config's updates next to the paper's, whether its rows fit the posts, and who has a chain of thought."""
    setup, lengths, fit = description.token_statistics
    lines, posts = [], len(fit.posts)
    if fit.batches and setup.strategy != "zeroshot":
        steps = setup.total_steps or setup.num_epochs * fit.batches
        lines.append(updates_line(steps, posts / fit.batches))
    if fit.batch_rows > setup.batch_rows:
        lines.append(
            f"WARNING: {count(setup.posts_per_step)} posts of a step take up to {count(fit.batch_rows)} rows, and a"
            f" step has {count(setup.batch_rows)}: give config.global_batch_size={fit.batch_rows}, or larger rows"
        )
    with_cot = int((lengths[description.first].cot_N[fit.posts] > 0).sum())
    return [*lines, *filter(None, [chains_line(setup.strategy, posts, with_cot)])]


def _trimmed(description: Description) -> Table:
    statistics, rows = description.token_statistics, []
    recipe = statistics.setup.recipe

    def add(what: str, name: str, numbers: np.ndarray) -> None:
        ids, posts = statistics.lengths[name].id_N[numbers], description.splits[name].posts
        rows.append((what, name, count(len(numbers)), share(len(numbers), posts), _some(ids)))

    for name in description.splits:
        is_long_N = is_trimmed(description, name)
        add(f"text above max_text_tokens, {count(recipe.max_text_tokens)}: trimmed", name, np.flatnonzero(is_long_N))
    for name, split in description.splits.items() if recipe.processor.pixel_limit else ():
        setting, pixels = recipe.processor.pixel_limit
        is_large_N = split.width_N.astype(np.int64) * split.height_N > pixels
        add(f"image above {setting}, {count(pixels)}", name, np.flatnonzero(is_large_N))
    reasons: dict[str, list[int]] = {"it is longer than a row": []}
    for each in statistics.fit.left_out:
        reasons.setdefault(each.reason.split(":")[0], []).append(each.number)
    for reason, numbers in reasons.items():
        add(f"{reason}: left out of training", description.first, np.asarray(numbers, np.int64))
    header = ("what", "split", "posts", "share", "for example")
    notes = ["evaluation leaves no post out"]
    return Table("Trimmed and left out", header, without_repeats(rows), notes, left=2, words=(4,))


def _duplicates(description: Description) -> Table:
    rows = []
    for each in description.duplicates:
        where = f"within {each.splits[0]}" if len(each.splits) == 1 else " and ".join(each.splits)
        posts = " and ".join(f"{count(posts)} of {split}" for posts, split in zip(each.posts, each.splits, strict=True))
        rows.append((f"same {each.what}", where, posts, _some(" = ".join(pair) for pair in each.ids)))
    notes = [
        "a post is counted within its split where an earlier one has the same; missing texts or images do not count"
    ]
    return Table("Duplicates", ("what", "where", "posts", "for example"), rows, notes, left=4)


def _rejects(description: Description) -> Table:
    rows = [
        (plain(split, 20), plain(reason), count(each.count), plain(each.examples[0]))
        for (split, reason), each in description.rejected.items()
    ]
    notes = ["rows that are in no split; those of test that could be read count in evaluation, with nothing predicted"]
    return Table("Rejects", ("split", "reason", "rows", "for example"), rows, notes, left=2, words=(3,))


def _some(ids: Sequence[str]) -> str:
    return ", ".join(plain(each, 60) for each in list(ids)[:LISTED])


def charts_of(description: Description) -> list[HistogramChart]:
    """Histograms of the first split."""
    quantities = _quantities(description, description.first)
    limits = {}
    if description.token_statistics:
        recipe, row = description.token_statistics.setup.recipe, description.token_statistics.setup.size
        quantities[IN_ROW] = description.token_statistics.fit.tokens_N
        limits = {
            TEXT: ("max_text_tokens", recipe.max_text_tokens),
            PIXELS: recipe.processor.pixel_limit,
            IN_ROW: ("row.tokens", row.tokens),
        }
    return [histogram_chart(title, values, limits.get(title)) for title, values in quantities.items() if len(values)]
