"""Parity of an exported run with transformers: logits, answers, and the model card's code as a user would run it.

    JAX_PLATFORMS=cpu python -m benchmarks.export_parity --workdir=RUN --posts=FILE.jsonl --images=DIR --limit=100

Logits and answers are those of `export --verify`, on the first posts of the run's test split. Keyphrases of the posts
in FILE come from our predict and from the card's code, on the export; they are compared post by post, and differences
listed.
"""

import argparse
import contextlib
import io
import re
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
import transformers

from benchmarks.machine import describe_machine
from mmkp_jax.data.posts import Post, read_jsonl
from mmkp_jax.export import difference, verification_text
from mmkp_jax.hf.card import CARD
from mmkp_jax.inference.export_run import export, facts_of, open_step
from mmkp_jax.inference.predictor import load_predictor
from mmkp_jax.inference.verify_export import verify


def main() -> int:
    """The exit status: 1 where logits, answers or keyphrases differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="work directory of a trained run")
    parser.add_argument("--posts", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    args = parser.parse_args()
    print(f"{describe_machine()}, transformers {transformers.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as made:
        out = Path(made, "out")
        step, opened = open_step(args.workdir, "latest")
        export(step, facts_of(step), out)
        verdict = verify(step, opened, out, args.limit)
        print(verification_text(verdict))
        if what := difference(verdict):
            print(what)
        same = compare_keyphrases(out, args.posts, args.images.absolute(), args.limit)
    return 0 if same and not what else 1


def compare_keyphrases(model: Path, file: Path, images: Path, limit: int) -> bool:
    """Prints the posts whose keyphrases differ; True where there are none."""
    posts = list(islice((post for post in read_jsonl(file) if isinstance(post, Post)), limit))
    texts = [post.text for post in posts]
    opened = [images / post.image if post.image else None for post in posts]
    card = (model / CARD).read_text(encoding="utf-8")
    answer_tokens = int(re.search(r"max_new_tokens=(\d+)", card)[1])
    start = time.perf_counter()
    ours = [each.predicted for each in load_predictor(model, answer_tokens=answer_tokens)(texts, opened)]
    print(f"our predict: {time.perf_counter() - start:.1f} s for {len(posts)} posts, loading and compiling included")

    start = time.perf_counter()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    names: dict = {}
    with contextlib.chdir(model), contextlib.redirect_stdout(io.StringIO()):
        exec(compile(snippet, CARD, "exec"), names)
        theirs = [names["keyphrases"](text, image) for text, image in zip(texts, opened, strict=True)]
    print(f"the card's code, post by post: {time.perf_counter() - start:.1f} s, loading included")

    others = [number for number in range(len(posts)) if ours[number] != theirs[number]]
    for number in others:
        print(f"  {posts[number].id}: ours {'; '.join(ours[number])}, theirs {'; '.join(theirs[number])}")
    print(
        f"{len(posts) - len(others)} of {len(posts)} posts have the same keyphrases, in the same order; "
        f"{sum(map(bool, ours))} have any, {len(set(map(tuple, ours)))} different answers"
    )
    return not others


if __name__ == "__main__":
    sys.exit(main())
