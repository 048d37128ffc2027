"""The same posts through our predict and through the code in an export's card, as a user of transformers would run it.

    JAX_PLATFORMS=cpu python -m benchmarks.export_parity --model=EXPORT --posts=FILE.jsonl --images=DIR --limit=100

Keyphrases are compared post by post, and differences listed.
"""

import argparse
import contextlib
import io
import re
import time
from itertools import islice
from pathlib import Path

import torch
import transformers

from benchmarks.machine import describe_machine
from mmkp_jax.data.posts import Post, read_jsonl
from mmkp_jax.hf.card import CARD
from mmkp_jax.predicting import load_predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported folder")
    parser.add_argument("--posts", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    args = parser.parse_args()
    posts = list(islice((post for post in read_jsonl(args.posts) if isinstance(post, Post)), args.limit))
    texts = [post.text for post in posts]
    images = [args.images.absolute() / post.image if post.image else None for post in posts]
    print(f"{describe_machine()}, transformers {transformers.__version__}, torch {torch.__version__}")

    card = (args.model / CARD).read_text(encoding="utf-8")
    answer_tokens = int(re.search(r"max_new_tokens=(\d+)", card)[1])
    start = time.perf_counter()
    ours = [each.predicted for each in load_predictor(args.model, answer_tokens=answer_tokens)(texts, images)]
    print(f"our predict: {time.perf_counter() - start:.1f} s for {len(posts)} posts, loading and compiling included")

    start = time.perf_counter()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    names: dict = {}
    with contextlib.chdir(args.model), contextlib.redirect_stdout(io.StringIO()):
        exec(compile(snippet, CARD, "exec"), names)
        theirs = [names["keyphrases"](text, image) for text, image in zip(texts, images, strict=True)]
    print(f"the card's code, post by post: {time.perf_counter() - start:.1f} s, loading included")

    others = [number for number in range(len(posts)) if ours[number] != theirs[number]]
    for number in others:
        print(f"  {posts[number].id}: ours {'; '.join(ours[number])}, theirs {'; '.join(theirs[number])}")
    print(f"{len(posts) - len(others)} of {len(posts)} posts have the same keyphrases, in the same order")


if __name__ == "__main__":
    main()
