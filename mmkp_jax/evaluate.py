"""A model's answers to a split, and what they are worth: predictions, scores, baselines, and what the input is for."""

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from mmkp_jax.assembly import DTYPES
from mmkp_jax.data.examples import Recipe
from mmkp_jax.data.posts import Post, Record
from mmkp_jax.data.records import open_split, rejected_posts
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.baselines import most_frequent, nearest_neighbour
from mmkp_jax.evaluation.files import read_train_keyphrases
from mmkp_jax.evaluation.metric import Scores, score, score_by_kind
from mmkp_jax.evaluation.outputs import outputs_line
from mmkp_jax.evaluation.table import headline, table
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.predicting import Prediction, predict, write_predictions

SPLIT = "test"

SHOWN = 5
"""Sample posts on the terminal, and ids of posts that could not be fed."""

BASELINE_K = 5
"""Keyphrases that the most-frequent baseline predicts for every post."""


class Words(NamedTuple):
    """A post without its picture: what it takes to score it."""

    id: str
    text: str
    keyphrases: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reading(Sequence[Record]):
    """Records that are read when they are asked for, so that no split's pictures are in memory together."""

    size: int
    read: Callable[[int], Record]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int | slice) -> "Record | Reading":
        if isinstance(number, slice):
            numbers = range(self.size)[number]
            return Reading(len(numbers), lambda index: self.read(numbers[index]))
        if not 0 <= number < self.size:
            raise IndexError(number)
        return self.read(number)


def evaluate(
    config: ConfigDict,
    definition: Definition,
    params: Params,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    workdir: Path,
    step: int,
) -> Scores:
    """Decodes the test split; leaves predictions and scores in the work directory, prints tables and samples.

    Writes `predictions/test-{step}.jsonl`, `results.json` (the model's scores) and `comparisons.json` (`scores` and
    `by_kind` of every system of the tables). A post that cannot be fed counts, with nothing predicted, and is listed.
    """
    split, train = open_split(config.data.path, SPLIT), open_split(config.data.path, "train")
    fed = Reading(min(config.eval_posts or len(split), len(split)), split.__getitem__)
    unfed = rejected_posts(config.data.path, SPLIT)
    unfed = unfed[: config.eval_posts - len(fed)] if config.eval_posts else unfed
    test, seen_posts = [*_words(fed), *_words(unfed)], _words(Reading(len(train), train.__getitem__))
    kinds = read_kinds(config.data.kinds) if config.data.kinds else {}
    if config.data.train_keyphrases:
        seen = set(read_train_keyphrases(Path(config.data.train_keyphrases)))
    else:
        seen = {phrase for post in seen_posts for phrase in post.keyphrases}

    def answers(name: str, records: Sequence[Record]) -> list[Prediction]:
        with tqdm(total=len(records), unit="post", desc=name, dynamic_ncols=True) as bar:
            return list(
                predict(
                    definition,
                    params,
                    records,
                    recipe,
                    tokenizer,
                    batch_size=config.eval_batch_size,
                    answer_tokens=config.answer_tokens,
                    dtype=DTYPES[config.compute_dtype],
                    progress=lambda done, _: bar.update(done - bar.n),
                )
            )

    predictions = answers(SPLIT, fed)
    changed = {"pictures permuted": permute_pictures(fed), "texts blanked": blank_texts(fed)}
    by_input = {name: answers(name, records) for name, records in changed.items()} if config.ablations else {}
    nothing = [Prediction(post.id, list(post.keyphrases), [], "", "broken", 0) for post in unfed]
    name = f"{config.strategy}, step {step:,}"
    predicted = {
        name: [each.predicted for each in [*predictions, *nothing]],
        "most frequent": [most_frequent([post.keyphrases for post in seen_posts], BASELINE_K)] * len(test),
        "nearest neighbour": nearest_neighbour(seen_posts, [post.text for post in test]),
        **{changed: [each.predicted for each in [*found, *nothing]] for changed, found in by_input.items()},
    }
    lines = {who: [list(each) or [""] for each in phrases] for who, phrases in predicted.items()}  # rule 3
    scores = {who: score(test, each, seen) for who, each in lines.items()}
    by_kind = {who: score_by_kind(test, each, kinds) for who, each in lines.items()} if kinds else {}
    if jax.process_index() == 0:
        write_predictions(workdir / "predictions" / f"{SPLIT}-{step}.jsonl", [*predictions, *nothing])
        _write_json(workdir / "results.json", scores[name])
        _write_json(workdir / "comparisons.json", {"scores": scores, "by_kind": by_kind})
        print(headline(scores))
        if by_kind:
            print(f"\nby what a keyphrase needs ({config.data.kinds}):\n{headline(by_kind)}")
        print(f"\n{table(scores[name])}")
        print(outputs_line([each.form for each in predictions], [each.output for each in predictions]))
        print(_told_of_unfed(unfed), end="")
        _print_samples(test, predictions)
    return scores[name]


def permute_pictures(records: Sequence[Record], seed: int = 0) -> Reading:
    """Each post with another one's picture."""
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    taken = dict(zip(order, order[1:] + order[:1], strict=True))  # a cycle: nobody keeps its own

    def read(number: int) -> Record:
        other = records[taken[number]]
        return dataclasses.replace(records[number], image=other.image, width=other.width, height=other.height)

    return Reading(len(records), read)


def blank_texts(records: Sequence[Record]) -> Reading:
    """Each post without its text."""
    return Reading(len(records), lambda number: dataclasses.replace(records[number], text=""))


def read_kinds(file: str) -> dict[str, str]:
    """The kind of each keyphrase in JSON Lines of `{"needs": {keyphrase: kind}}`; other fields are passed over.

    Raises:
        InputError: the file cannot be read, or is not of that form.
    """
    try:
        rows = [json.loads(line)["needs"] for line in Path(file).read_text(encoding="utf-8").split("\n") if line]
        return {phrase.strip().lower(): kind for row in rows for phrase, kind in row.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        form = 'give JSON Lines of {"needs": {keyphrase: kind}}, or none (config.data.kinds)'
        raise InputError(f"the kinds of keyphrases cannot be read ({error})", file, form) from None


def _words(posts: Iterable[Record | Post]) -> list[Words]:
    return [Words(post.id, post.text, post.keyphrases) for post in posts]


def _told_of_unfed(unfed: Sequence[Post]) -> str:
    if not unfed:
        return ""
    ids = ", ".join([post.id for post in unfed[:SHOWN]] + ["…"] * (len(unfed) > SHOWN))
    told = f"{len(unfed):,} posts could not be fed, and count with nothing predicted"
    return f"{told} (reasons: rejects.jsonl of the data): {ids}\n"


def _write_json(file: Path, content: Mapping) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _print_samples(posts: Sequence[Words], predictions: Sequence[Prediction]) -> None:
    for post, prediction in list(zip(posts, predictions, strict=False))[:SHOWN]:
        print(f"\n{post.id}: {post.text}")
        print(f"  gold       {'; '.join(post.keyphrases)}")
        print(f"  predicted  {'; '.join(prediction.predicted) or '–'}  ({prediction.form})")
        if prediction.form != "direct":
            print(f"  output     {prediction.output}")
