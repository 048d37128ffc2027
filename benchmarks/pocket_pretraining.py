"""Pretrains the pocket model, and puts its weights into the package.

    python -m benchmarks.pocket_pretraining [--out=runs/pretraining] [--seed=0]

Makes the corpus (`mmkp_jax/pocket/corpus.py`) and a model of random weights, trains it on both targets of each post
with `mmkp_jax.main`, and measures how many facts it answers. If those are enough, tokenizer and weights (bfloat16) go
into `mmkp_jax/pocket/pretrained`. On one machine the same seed gives the same bytes; a stopped run resumes.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.gates import RECALL, RecallJob, recall_of
from benchmarks.jobs import ROOT, run_all
from mmkp_jax.data.posts import read_jsonl
from mmkp_jax.data.prompts import user_text
from mmkp_jax.data.records import write_dataset
from mmkp_jax.errors import InputError
from mmkp_jax.export import main as export
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.save import save_params
from mmkp_jax.hf.tensors import WEIGHTS
from mmkp_jax.main import main
from mmkp_jax.pocket.corpus import CorpusPost, draw_corpus_image, make_corpus, questions
from mmkp_jax.pocket.make import PRETRAINED
from mmkp_jax.pocket.model import write_model
from mmkp_jax.pocket.posts import SEEN, write_lines
from mmkp_jax.pocket.tokenizer import QWEN2_5_VL, train_tokenizer
from mmkp_jax.pocket.world import make_facts
from mmkp_jax.runtime.atomic import making_folder, replacing_folder
from mmkp_jax.runtime.cli import status_of

FLAGS = (
    "--config.make=",
    "--config.data.kinds=",
    "--config.learning_rate=1e-3",
    "--config.warmup_steps=100",
    "--config.num_epochs=1",
    "--config.row.tokens=512",
    "--config.row.labels=448",
    "--config.row.examples=16",
    "--config.row.images.patches=192",
    "--config.row.images.windows=8",
    "--config.data.max_text_tokens=128",
    "--config.ablations=False",
    "--config.checkpoint_every=500",
)


SHIPPED = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("preprocessor_config.json", "generation_config.json"),
)
"""Files of the random model's folder that ship next to the weights and their config."""


def prepare(out: Path, seed: int) -> None:
    """Writes the corpus and the model of random weights, unless they exist.

    Raises:
        InputError: there is another corpus, and so perhaps a run on it.
    """
    posts = make_corpus(make_facts(seed, 1.0).chains, seed)
    if (out / "corpus").exists():
        written = (out / "corpus" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        if list(map(json.loads, written)) != [post.record() for post in posts]:
            raise InputError("this is the pretraining of another corpus", str(out), "give another --out, or remove it")
    else:
        with making_folder(out / "corpus", (out / "corpus").exists) as unfinished:
            write_corpus(posts, seed, unfinished)
    if not (out / "model").exists():
        with making_folder(out / "model", (out / "model").exists) as unfinished:
            write_model(train_tokenizer(tokenizer_texts(posts)), seed, unfinished / "model")


def write_corpus(posts: Sequence[CorpusPost], seed: int, out: Path) -> None:
    """Writes the corpus as a dataset into `out/dataset`, with a question for each fact as its test split."""
    (out / "images").mkdir(parents=True)
    asked = questions(make_facts(seed, SEEN).chains)
    splits = {"train": posts, "valid": asked[:1], "test": asked}
    for split, own in splits.items():
        write_lines(out / f"{split}.jsonl", [post.record() for post in own])
    for post in posts:
        if post.has_image:
            draw_corpus_image(post, seed).save(out / "images" / f"{post.id}.png")
    write_dataset(out / "dataset", {split: read_jsonl(out / f"{split}.jsonl") for split in splits}, out / "images")


def tokenizer_texts(posts: Sequence[CorpusPost]) -> Iterator[str]:
    """The texts that the tokenizer is trained on: the corpus, and the prompt's.

    As often as this, the words of the prompt are tokens each, and a prompt is half as long.
    """
    for post in posts:
        yield from (post.text, post.answer)
        if post.cot:
            yield f"<think>{post.cot}</think><answer>{post.answer}</answer>"
    yield from (QWEN2_5_VL.system, "user", "assistant", user_text("", zero_shot=True)) * len(posts)


def write_pretrained(out: Path, folder: Path) -> None:
    """Exports the trained run, and writes what the package takes of it, with bfloat16 weights."""
    if (out / "exported").exists():  # of fewer steps, if the run was extended
        shutil.rmtree(out / "exported")
    if status := export([f"--workdir={out / 'run'}", f"--out={out / 'exported'}"]):
        raise SystemExit(status)
    opened = open_folder(str(out / "exported"))
    params = load_params(opened, define(opened.config).shapes())
    with making_folder(folder, folder.exists) as unfinished:
        for name in SHIPPED:
            shutil.copy(out / "model" / "model" / name, unfinished / name)
        save_params(params, opened.config, unfinished, np.dtype(ml_dtypes.bfloat16))


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where the model does not know enough of its facts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "pretraining")
    parser.add_argument("--seed", type=int, default=0)
    args, flags = parser.parse_known_args(arguments)
    start = time.perf_counter()
    prepare(args.out, args.seed)
    print(f"corpus and model: {time.perf_counter() - start:.0f} s", flush=True)
    paths = (
        f"--config.model.path={args.out / 'model' / 'model'}",
        f"--config.data.path={args.out / 'corpus' / 'dataset'}",
        f"--workdir={args.out / 'run'}",
        f"--config.seed={args.seed}",
    )
    if status := main([f"--config={ROOT / 'configs/multitask.py'}", *FLAGS, *paths, *flags]):
        return status
    print(f"pretrained after {time.perf_counter() - start:.0f} s", flush=True)
    folder = args.out / "pretrained"
    if folder.exists():
        shutil.rmtree(folder)
    write_pretrained(args.out, folder)
    asked = RecallJob(str(folder), args.out / "facts.json", args.out / "corpus" / "test.jsonl")
    asked.file.unlink(missing_ok=True)  # of an earlier model
    run_all([asked], 1)
    recall = recall_of(asked)
    if recall < RECALL:
        print(f"{100 * recall:.1f}% of the facts are recalled, less than {100 * RECALL:.0f}%: {folder} is not taken")
        return 1
    with replacing_folder(PRETRAINED) as unfinished:
        shutil.copytree(folder, unfinished, dirs_exist_ok=True)
    print(f"{100 * recall:.1f}% of the facts are recalled; {PRETRAINED / WEIGHTS}")
    return 0


if __name__ == "__main__":
    sys.exit(status_of(run))
