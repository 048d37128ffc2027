"""The traditional baselines on CMKP's real posts: trained on the valid posts, scored on all 5,372 test posts.

    JAX_PLATFORMS=cpu python -m benchmarks.baselines --raw=…/tw_mm_s1 --out=runs/floor text words

`text` reads texts alone, `words` also the image's attribute and OCR words. The last 500 valid posts choose the epoch.
The table of what is complete comes at the end; a run that was stopped resumes with the same command.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import describe_machine
from mmkp_jax.data.posts import Post, read_cmkp
from mmkp_jax.evaluation.baselines import most_frequent, nearest_neighbour
from mmkp_jax.evaluation.files import read_posts, read_predictions, read_train_keyphrases
from mmkp_jax.evaluation.metric import Phrases, Scores, per_post, scores_of
from mmkp_jax.evaluation.significance import Differences, Intervals, compare, intervals
from tests.support.paths import ROOT

HELD_OUT = 500
"""Posts at the end of valid that are not trained on."""

RUNS = {
    "text": (),
    "words": (
        *("data.ocr={raw}/{split}_ocr_final.txt", "data.attributes={raw}/{split}_attribute_cleaned.txt"),
        "text_words=60",  # of the text, and of OCR: 1% of texts are longer
    ),
}
"""Fields of each run."""

NEIGHBOUR, AGAINST = "nearest neighbour", "F1@1 minus nearest neighbour"

GROUP_METRIC, GROUPS, SHOWN = "f1@1", ("present", "absent", "unseen"), ("f1@1", "f1@3", "f1@5", "map@5", "ndcg@5")

COLUMNS = (*(("all", metric) for metric in SHOWN), *((group, GROUP_METRIC) for group in GROUPS))
"""The table's groups and metrics."""

SIZES = (
    *("embedding_width=100", "hidden_width=100", "vocabulary=6000", "batch_size=32"),
    *("num_epochs=8", "joint_epochs=1", "valid_posts=250", "beam_size=5", "patience=3"),
)
"""What differs from CMKP's sizes, so that two cores train it in minutes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=" or ".join(RUNS))
    args = parser.parse_args()
    if unknown := sorted(set(args.runs) - set(RUNS)):
        parser.error(f"no such run: {', '.join(unknown)}; choose from {', '.join(RUNS)}")
    raw, out = args.raw.absolute(), args.out.absolute()
    prepare(raw, out)
    print(describe_machine())
    for name in args.runs:
        fields = [each.replace("{raw}", str(raw)) for each in RUNS[name]]
        flags = [f"--config.{each}" for each in (*SIZES, *fields)]
        start = time.perf_counter()
        run(
            *("main", "--config=cmkp:data=mmkp", f"--config.data.path={out / 'dataset'}", f"--workdir={out / name}"),
            f"--config.data.train_keyphrases={raw / 'train_keyphrases.txt'}",
            *flags,
        )
        print(f"{name}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
    print("\n".join(figures(raw, out)))


def prepare(raw: Path, out: Path) -> None:
    """The dataset of valid's posts, without images, next to all test posts."""
    if (out / "dataset").exists():
        return
    valid = [each for each in read_cmkp(raw, "valid") if isinstance(each, Post)]
    test = [each for each in read_cmkp(raw, "test") if isinstance(each, Post)]
    splits = {"train": valid[:-HELD_OUT], "valid": valid[-HELD_OUT:], "test": test}
    (out / "posts").mkdir(parents=True, exist_ok=True)
    (out / "images").mkdir(exist_ok=True)
    for name, posts in splits.items():
        rows = [{"id": p.id, "text": p.text, "image": None, "keyphrases": p.keyphrases, "cot": None} for p in posts]
        (out / "posts" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = f"--raw={out / 'posts'}", f"--images={out / 'images'}", f"--out={out / 'dataset'}"
    run("prepare", "--dataset=keyphrase_posts", *flags)


def figures(raw: Path, out: Path) -> list[str]:
    """The complete runs as a Markdown table, next to the baselines without a model; a line each."""
    posts, train = read_posts(out / "dataset"), read_posts(out / "dataset", "train")
    seen = read_train_keyphrases(raw / "train_keyphrases.txt")
    systems: dict[str, Sequence[Phrases]] = {
        "most frequent": [most_frequent([post.keyphrases for post in train], 5)] * len(posts),
        NEIGHBOUR: nearest_neighbour(train, [post.text for post in posts]),
    }
    for name in RUNS:
        if found := list((out / name / "predictions").glob("test-*.jsonl")):
            latest = max(found, key=lambda file: int(file.stem.removeprefix("test-")))
            systems[name] = read_predictions(latest, posts).predictions
    counts = {name: per_post(posts, [each or [""] for each in found], seen) for name, found in systems.items()}
    others = [name for name in systems if name != NEIGHBOUR]
    differences = {name: compare([counts[name]], [[counts[NEIGHBOUR]]])[0] for name in others}
    header = ["%", *map(str.upper, SHOWN), *(f"{GROUP_METRIC.upper()} {group}" for group in GROUPS), AGAINST]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for name in systems:
        ranges, scores = intervals([counts[name]]), scores_of(counts[name])
        cells = [_cell(scores, ranges, group, metric) for group, metric in COLUMNS]
        lines.append(f"| {' | '.join([name, *cells, _against(differences.get(name))])} |")
    if counts.keys() >= RUNS.keys():
        gained = compare([counts["words"]], [[counts["text"]]])[0]
        lines += [f"words minus text, {group}: {_against(gained, group)}" for group in ("all", *GROUPS)]
    return [*lines, f"{len(posts):,} test posts, {len(train):,} training posts; 95% intervals"]


def _cell(scores: Scores, ranges: Intervals, group: str, metric: str) -> str:
    low, high = ranges[group][metric]
    return f"{100 * scores[group][metric]:.2f} [{100 * low:.1f}, {100 * high:.1f}]"


def _against(differences: Differences | None, group: str = "all") -> str:
    if differences is None:
        return "–"
    found = differences[group][GROUP_METRIC]
    return f"{100 * found.delta:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}], p = {found.p:.4f}"


def run(*arguments: str) -> None:
    """Runs a command of the package."""
    subprocess.run([sys.executable, "-m", "mmkp_jax", *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
