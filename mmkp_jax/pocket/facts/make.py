"""Makes the test bed's folder `runs/pocket_facts`, for `model=pocket_facts` of `configs/presets.py`."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmkp_jax.data.prompts import user_text
from mmkp_jax.errors import InputError
from mmkp_jax.hf.tensors import WEIGHTS
from mmkp_jax.pocket.facts.corpus import CorpusPost, all_facts, asking, draw_corpus_image
from mmkp_jax.pocket.facts.posts import SEEN, make_fact_posts
from mmkp_jax.pocket.facts.wording import word_lists
from mmkp_jax.pocket.facts.world import Chain, make_facts
from mmkp_jax.pocket.make import make_once, prepare_posts
from mmkp_jax.pocket.posts import SIZES, write_posts
from mmkp_jax.pocket.tokenizer import QWEN2_5_VL

VERSION = 3
"""Increased when the same seed gives other posts, or the pretrained weights are others."""

POCKET_FACTS = Path("runs/pocket_facts")

FACTS = "facts.jsonl"
"""The file with a question for each fact."""

PRETRAINED = Path(__file__).parent / "pretrained"
"""The Hugging Face folder that `benchmarks/pocket_pretraining.py` writes."""


def make_pocket_facts(out: Path, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> None:
    """Writes `posts/{train,valid,test}.jsonl`, `images/`, `needs.jsonl`, `facts.jsonl` and `model/` into `out`.

    `facts.jsonl` asks for each fact, `model/` is the pretrained one. What has the same seed and sizes is kept.

    Args:
        seed: the seed of posts and images, and of which tags are seen; facts and model are the same for any.
        sizes: posts of each split.

    Raises:
        InputError: `out` holds something else, or there are no pretrained weights.
    """
    if not (PRETRAINED / WEIGHTS).is_file():
        hint = "make them in a checkout: python -m benchmarks.pocket_pretraining"
        raise InputError("there are no pretrained weights", str(PRETRAINED), hint)

    def write(unfinished: Path) -> None:
        facts = make_facts(seed, SEEN)
        write_posts(make_fact_posts(facts, seed, sizes), seed, unfinished)
        _write_lines(unfinished / FACTS, questions(facts.chains))
        shutil.copytree(PRETRAINED, unfinished / "model")

    make_once(out, {"facts": VERSION, "seed": seed, "sizes": dict(sizes)}, write)


def make(root: Path = POCKET_FACTS) -> None:
    """Makes it and its prepared dataset unless they exist; a config's `make` calls this."""
    make_pocket_facts(root)
    prepare_posts(root)


def questions(chains: Sequence[Chain]) -> list[CorpusPost]:
    """A post for each fact that asks for it."""
    facts = all_facts(chains)
    return [asking([(fact, 0)])._replace(id=f"test-{n}") for n, fact in enumerate(facts, start=1)]


def write_corpus(posts: Sequence[CorpusPost], seed: int, out: Path) -> None:
    """Writes the corpus as a dataset into `out/dataset`, with a question for each fact as its test split."""
    from mmkp_jax.data.posts import read_jsonl
    from mmkp_jax.data.records import write_dataset

    (out / "images").mkdir(parents=True)
    asked = questions(make_facts(seed, SEEN).chains)
    splits = {"train": posts, "valid": asked[:1], "test": asked}
    for split, own in splits.items():
        _write_lines(out / f"{split}.jsonl", own)
    for post in posts:
        if post.has_image:
            draw_corpus_image(post, seed).save(out / "images" / f"{post.id}.png")
    write_dataset(out / "dataset", {split: read_jsonl(out / f"{split}.jsonl") for split in splits}, out / "images")


def tokenizer_texts(posts: Sequence[CorpusPost]) -> Iterator[str]:
    """The texts that the tokenizer is trained on: the corpus, the words of posts that it lacks, and the prompt's.

    As often as this, the words of the prompt are tokens each, and a prompt is half as long.
    """
    for post in posts:
        yield from (post.text, post.answer)
    yield from word_lists() * 5
    yield from (QWEN2_5_VL.system, "user", "assistant", user_text("", zero_shot=True)) * len(posts)


def _write_lines(file: Path, posts: Sequence[CorpusPost]) -> None:
    file.write_text("".join(json.dumps(post.record()) + "\n" for post in posts), encoding="utf-8")
