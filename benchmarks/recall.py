"""How many of pocket's facts a model knows, whatever form of answer it was trained on.

    python -m benchmarks.recall --model=FOLDER|RUN|RUN@STEP --questions=FILE.jsonl --out=FILE.json

The model reads the question for each fact and the beginning of its sentence ("velmok plays in"), and knows it if each
token of the answer ("tasun") is then its first choice. A fine-tuned model answers questions with keyphrases, and would
never come to the sentence by itself.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmkp_jax.data.examples import tree_of
from mmkp_jax.data.posts import Record
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import read_posts
from mmkp_jax.hf.tensors import WEIGHTS
from mmkp_jax.hf.verify import our_logits
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.pocket.corpus import all_facts
from mmkp_jax.pocket.world import make_facts
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.cli import status_of

TAIL = " ."
"""What follows the answer in the sentences of `corpus.questions`."""


def known_facts(model: str, questions: Path) -> list[bool]:
    """Whether the model knows each fact of the world, in the order of `corpus.all_facts`.

    Raises:
        InputError: the questions are not `corpus.questions` of this world.
    """
    loaded = load_model(model)
    plain = loaded.recipe.template.plain
    tail, answers = len(plain.encode(TAIL).ids), []
    posts = read_posts(questions)
    facts = all_facts(make_facts(0, 1.0).chains)
    ends = [f" {fact.answer}{TAIL}" for fact in facts]
    if len(posts) != len(ends) or not all(p.keyphrases[0].endswith(end) for p, end in zip(posts, ends, strict=True)):
        raise InputError("these are questions about another world", str(questions), "give a new pocket's facts.jsonl")
    for fact in facts:
        answers.append(len(plain.encode(f" {fact.answer}").ids))
    records = [Record(post.id, post.text, b"", 0, 0, post.keyphrases, None) for post in posts]
    trees = [tree_of(record, loaded.recipe, ("sft",)) for record in records]
    known = []
    for tree, answer, logits_MV in zip(
        trees, answers, our_logits(loaded.definition, loaded.params, trees), strict=True
    ):
        end = len(tree.sft) - 1 - tail  # its last token ends the turn
        said = slice(end - answer, end)
        known.append(bool(np.array_equal(logits_MV[said].argmax(-1), tree.sft[said])))
    return known


def weights_of(model: str) -> str | None:
    """The digest of a folder's weights; None for a run, whose steps never change."""
    file = Path(model) / WEIGHTS
    return digest_of(file) if file.is_file() else None


def digest_of(file: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(arguments: Sequence[str] | None = None) -> int:
    """Writes `known`, a list of true and false, and `recall`, the share of true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    known = known_facts(args.model, args.questions)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    asked = {"model": args.model, "weights": weights_of(args.model), "questions": digest_of(args.questions)}
    write_json(args.out, {**asked, "recall": float(np.mean(known)), "known": known}, indent=None)
    print(f"{args.model}: {sum(known)} of {len(known)} facts are known")
    return 0


if __name__ == "__main__":
    sys.exit(status_of(run))
