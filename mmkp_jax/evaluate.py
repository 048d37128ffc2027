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

from mmkp_jax.data.posts import Post, Record
from mmkp_jax.data.records import open_split, rejected_posts
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.evaluation.baselines import most_frequent, nearest_neighbour
from mmkp_jax.evaluation.files import read_train_keyphrases
from mmkp_jax.evaluation.metric import GROUPS, Scores, score, score_by_kind
from mmkp_jax.evaluation.outputs import FORMS, form_shares, mean_words, outputs_line
from mmkp_jax.evaluation.table import headline, table
from mmkp_jax.feeding import datasets_of
from mmkp_jax.models.definition import Params
from mmkp_jax.predicting import Prediction, Predictor, write_predictions

TEST, VALID = "test", "valid"

LOGGED = ("f1@1", "f1@M")
"""What is logged of each group on the way."""

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


def evaluate(config: ConfigDict, predictor: Predictor, workdir: Path, step: int) -> Scores:
    """Decodes the test split; leaves predictions and scores in the work directory, prints tables and samples.

    Writes `predictions/test-{step}.jsonl`, `results.json` (the model's scores) and `comparisons.json` (`scores` and
    `by_kind` of every system of the tables). A post that cannot be fed counts, with nothing predicted, and is listed.
    """
    fed, unfed = _posts(config, TEST, config.eval_posts)
    test, train = [*_words(fed), *_words(unfed)], _training_posts(config)
    seen = seen_keyphrases(config, train)
    kinds = read_kinds(config.data.kinds) if config.data.kinds else {}
    predictions = _answers(predictor, fed, TEST)
    changed = {"pictures permuted": permute_pictures(fed), "texts blanked": blank_texts(fed)}
    by_input = {name: _answers(predictor, each, name) for name, each in changed.items()} if config.ablations else {}
    nothing = _nothing(unfed)
    name = f"{config.strategy}, step {step:,}"
    predicted = {
        name: [each.predicted for each in [*predictions, *nothing]],
        "most frequent": [most_frequent([post.keyphrases for post in train], BASELINE_K)] * len(test),
        "nearest neighbour": nearest_neighbour(train, [post.text for post in test]),
        **{changed: [each.predicted for each in [*found, *nothing]] for changed, found in by_input.items()},
    }
    lines = {who: _lines(each) for who, each in predicted.items()}
    scores = {who: score(test, each, seen) for who, each in lines.items()}
    by_kind = {who: score_by_kind(test, each, kinds) for who, each in lines.items()} if kinds else {}
    if jax.process_index() == 0:
        write_predictions(workdir / "predictions" / f"{TEST}-{step}.jsonl", [*predictions, *nothing])
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


def validation(config: ConfigDict, predictor_of: Callable[[Params], Predictor]) -> Callable[[Params], dict[str, float]]:
    """A function from parameters to their scores on the first posts of the valid split, by the names of the log.

    These are `valid/{group}/{metric}`, the shares of the outputs' forms `valid/{form}`, and `valid/words`, the mean of
    the words written for a post.

    Raises:
        InputError: the data cannot be read, or `config.best_metric` is none of these.
    """
    names = [f"{VALID}/{each}" for each in (*(f"{g}/{m}" for g in GROUPS for m in LOGGED), *FORMS, "words")]
    if config.best_metric not in names:
        what = f"unknown score {config.best_metric!r}{nearest(config.best_metric, names)}"
        raise InputError(what, "config.best_metric", "name another")
    fed, unfed = _posts(config, VALID, config.valid_posts)
    valid = [*_words(fed), *_words(unfed)]
    seen = seen_keyphrases(config, _training_posts(config))

    def scores_of(params: Params) -> dict[str, float]:
        predictions = _answers(predictor_of(params), fed, VALID)
        by_group = score(valid, _lines([each.predicted for each in [*predictions, *_nothing(unfed)]]), seen)
        scores = {f"{group}/{metric}": each[metric] for group, each in by_group.items() if each for metric in LOGGED}
        forms = form_shares([each.form for each in predictions])
        scores |= forms | {"words": mean_words([each.output for each in predictions])}
        return {f"{VALID}/{name}": value for name, value in scores.items()}

    return scores_of


def seen_keyphrases(config: ConfigDict, train: Iterable[Words]) -> set[str]:
    """Those that count as seen: of the file that the config names, else of the training posts."""
    if config.data.train_keyphrases:
        return read_train_keyphrases(Path(config.data.train_keyphrases))
    return {phrase for post in train for phrase in post.keyphrases}


def _training_posts(config: ConfigDict) -> list[Words]:
    return [post for dataset in datasets_of(config) for post in _words(_records(dataset.path, "train"))]


def _records(path: str, split: str) -> Reading:
    records = open_split(path, split)
    return Reading(len(records), records.__getitem__)


def _posts(config: ConfigDict, split: str, most: int) -> tuple[Reading, list[Post]]:
    """The first `most` posts of a split (0: all) of the first dataset: what can be fed, then what cannot."""
    path = datasets_of(config)[0].path
    fed, unfed = _records(path, split), rejected_posts(path, split)
    fed = fed[: most or None]
    return fed, unfed[: most - len(fed)] if most else unfed


def _answers(predictor: Predictor, records: Reading, name: str) -> list[Prediction]:
    """The predictions, in the posts' order."""
    with tqdm(total=len(records), unit="post", desc=name, dynamic_ncols=True, leave=name != VALID) as bar:
        found = []
        for each in predictor.predict(records):
            found.append(each)
            bar.update()
    return [prediction for _, prediction in sorted(found)]


def _nothing(unfed: Sequence[Post]) -> list[Prediction]:
    return [Prediction(post.id, list(post.keyphrases), [], "", "broken", 0) for post in unfed]


def _lines(predicted: Iterable[Sequence[str]]) -> list[list[str]]:
    """An empty prediction as the metric reads it: one empty phrase."""
    return [list(each) or [""] for each in predicted]


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
