"""A model's answers to a split, and what they are worth: predictions, scores, baselines, and what the input is for."""

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from mmkp_jax.data.numbered import OnDemand, each_of
from mmkp_jax.data.posts import Record, Words, words_of
from mmkp_jax.data.records import Split, open_split, rejected_posts
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.evaluation.baselines import most_frequent, nearest_neighbour
from mmkp_jax.evaluation.files import seen_keyphrases
from mmkp_jax.evaluation.metric import Scores, score, score_by_kind
from mmkp_jax.evaluation.outputs import FORMS, form_shares, mean_words, outputs_line
from mmkp_jax.evaluation.predictions import Prediction, write_predictions
from mmkp_jax.evaluation.table import headline, table
from mmkp_jax.inference.predictor import Predictor
from mmkp_jax.runtime.atomic import replacing, write_json
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.json_files import read_rows
from mmkp_jax.training.batches import datasets_of
from mmkp_jax.training.watchdog import Watchdog

TEST, VALID = "test", "valid"

LOGGED = ("f1@1", "f1@M")
"""What is logged of each group on the way."""

SHOWN = 5
"""Sample posts on the terminal, and ids of posts that could not be fed."""

BASELINE_K = 5
"""Keyphrases that the most-frequent baseline predicts for every post."""


class Evaluation:
    """What a run is evaluated on; made before it trains, so that nothing that it needs is missing afterwards.

    Args:
        watchdog: counts the answers while a split is decoded.

    Raises:
        InputError: the data or a file that the config names cannot be read, or `config.best_metric` is no score of the
            posts of valid.
    """

    def __init__(self, config: ConfigDict, watchdog: Watchdog | None = None):
        self._config, self._watchdog = config, watchdog or Watchdog(Path(), 0)
        splits = (open_split(each.path, "train") for each in datasets_of(config))
        train = [words_of(record) for split in splits for record in each_of(split)]
        self._seen = seen_keyphrases(config.data.train_keyphrases, train)
        self._test = Posts(config, TEST, config.eval_posts)
        self._kinds = kinds_of(config.data.kinds, self._test.words) if config.data.kinds else {}
        self._baselines = {
            "most frequent": [most_frequent([post.keyphrases for post in train], BASELINE_K)] * len(self._test.words),
            "nearest neighbour": nearest_neighbour(train, [post.text for post in self._test.words]),
        }
        self._valid = Posts(config, VALID, config.valid_posts) if config.eval_every else None
        if self._valid:
            _check_metric(config.best_metric, score(self._valid.words, [""] * len(self._valid.words), self._seen))

    def validate(self, predictor: Predictor) -> dict[str, float]:
        """Scores on the first posts of the valid split, by the names of the log.

        These are `valid/{group}/{metric}`, the shares of the outputs' forms `valid/{form}`, and `valid/words`, the mean
        of the words written for a post.
        """
        predictions = self._answers(predictor, self._valid.fed, VALID)
        predicted = [each.predicted for each in [*predictions, *self._valid.unfed]]
        by_group = score(self._valid.words, _lines(predicted), self._seen)
        scores = {f"{group}/{metric}": each[metric] for group, each in by_group.items() if each for metric in LOGGED}
        scores |= form_shares([each.form for each in predictions])
        scores["words"] = mean_words([each.output for each in predictions])
        return {f"{VALID}/{name}": value for name, value in scores.items()}

    def test(self, predictor: Predictor, workdir: Path, step: int) -> str:
        """Decodes the test split and leaves predictions and scores in the work directory.

        Writes `predictions/test-{step}.jsonl`, `results.json` (the model's scores, and `forms`, the shares of its
        outputs' forms), `comparisons.json` (`scores` and `by_kind` of every system of the tables) and `hidden.npz`
        (`id_N`, and `hidden_ND`, float16: of each post that was fed the state of its prompt's last token). A post that
        cannot be fed counts, with nothing predicted, and is listed.

        Returns:
            tables and samples for the terminal; print them when all files of the run are written.
        """
        fed, test, kinds = self._test.fed, self._test.words, self._kinds
        hidden: dict[int, np.ndarray] = {}  # by the post's number
        predictions = self._answers(predictor, fed, TEST, hidden.__setitem__)
        changed = {"pictures permuted": permute_pictures(fed), "texts blanked": blank_texts(fed)}
        changed = changed if self._config.ablations else {}
        by_input = {name: self._answers(predictor, each, name) for name, each in changed.items()}
        name = f"{self._config.strategy}, step {step:,}"
        answered = {name: predictions, **by_input}
        predicted = {who: [each.predicted for each in [*found, *self._test.unfed]] for who, found in answered.items()}
        lines = {who: _lines(each) for who, each in ({name: predicted[name]} | self._baselines | predicted).items()}
        scores = {who: score(test, each, self._seen) for who, each in lines.items()}
        by_kind = {who: score_by_kind(test, each, kinds) for who, each in lines.items()} if kinds else {}
        if jax.process_index() == 0:
            write_predictions(workdir / "predictions" / f"{TEST}-{step}.jsonl", [*predictions, *self._test.unfed])
            forms = form_shares([each.form for each in predictions])
            write_json(workdir / "results.json", {**scores[name], "forms": forms})
            write_json(workdir / "comparisons.json", {"scores": scores, "by_kind": by_kind})
            _write_hidden(workdir / "hidden.npz", {predictions[number].id: hidden[number] for number in sorted(hidden)})
        parts = [headline(scores)]
        if by_kind:
            title = for_terminal(f"by what a keyphrase needs ({self._config.data.kinds}):")
            parts.append(f"\n{title}\n{headline(by_kind)}")
        parts.append(f"\n{table(scores[name])}")
        parts.append(outputs_line([each.form for each in predictions], [each.output for each in predictions]))
        parts += _about_unfed(self._test.unfed)
        parts += _samples(test, predictions)
        return "\n".join(parts)

    def _answers(
        self,
        predictor: Predictor,
        records: OnDemand[Record],
        name: str,
        state: Callable[[int, np.ndarray], None] = lambda *_: None,
    ) -> list[Prediction]:
        """The predictions, in the posts' order; `state` as `Predictor.predict`."""
        bar = tqdm(total=len(records), unit="post", desc=name, dynamic_ncols=True, leave=name != VALID)
        with bar, self._watchdog.counting("answer"):
            found = []
            for each in predictor.predict(records, state=state):
                found.append(each)
                bar.update()
                self._watchdog.beat()
        return [prediction for _, prediction in sorted(found)]


class Posts:
    """The first posts of a split of the first dataset that can be fed; of a whole split, also those that cannot.

    Args:
        most: how many of those that can be fed; 0 for all.
    """

    def __init__(self, config: ConfigDict, split: str, most: int):
        path = datasets_of(config)[0].path
        self.fed = _records(open_split(path, split), most)
        rejected = [] if most else rejected_posts(path, split)
        self.unfed = [Prediction(post.id, list(post.keyphrases), [], "", "broken", 0) for post in rejected]
        """With nothing predicted."""
        self.words = [*map(words_of, self.fed), *map(words_of, rejected)]
        """Of all of them, in this order."""


def _check_metric(metric: str, scores: Scores) -> None:
    of_groups = [f"{VALID}/{group}/{each}" for group, found in scores.items() if found for each in LOGGED]
    names = [*of_groups, *(f"{VALID}/{each}" for each in (*FORMS, "words"))]
    if metric not in names:
        what = f"the posts of valid give no score {metric!r}{nearest(metric, names)}"
        raise InputError(what, "config.best_metric", "name another")


def _records(split: Split, most: int) -> OnDemand[Record]:
    return OnDemand(len(split), split.__getitem__)[: most or None]


def _lines(predicted: Iterable[Sequence[str]]) -> list[list[str]]:
    """An empty prediction as the metric reads it: one empty phrase."""
    return [list(each) or [""] for each in predicted]


def permute_pictures(records: Sequence[Record], seed: int = 0) -> OnDemand[Record]:
    """Each post with another one's picture."""
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    taken = dict(zip(order, order[1:] + order[:1], strict=True))  # a cycle: nobody keeps its own

    def read(number: int) -> Record:
        other = records[taken[number]]
        return dataclasses.replace(records[number], image=other.image, width=other.width, height=other.height)

    return OnDemand(len(records), read)


def blank_texts(records: Sequence[Record]) -> OnDemand[Record]:
    """Each post without its text."""
    return OnDemand(len(records), lambda number: dataclasses.replace(records[number], text=""))


def kinds_of(file: str, posts: Sequence[Words]) -> dict[str, str]:
    """`read_kinds`, where the file belongs to these posts; else empty, with a line that says so.

    It is of other posts where a row has the id of one of them and names a keyphrase that this one does not have, or
    where it knows none of their keyphrases.

    Raises:
        InputError: the file cannot be read, or is not of that form.
    """
    kinds, keyphrases = read_kinds(file), {post.id: {phrase.lower() for phrase in post.keyphrases} for post in posts}
    others = sum(not needs.keys() <= keyphrases.get(post, needs.keys()) for post, needs in _needs(file))
    every = [phrase for each in keyphrases.values() for phrase in each]
    known = sum(phrase in kinds for phrase in every)
    if others or not known:
        reason = f"{others:,} rows are not of the post of their id" if others else "it has none of their keyphrases"
        print(for_terminal(f"note: {file} (data.kinds) is of other posts, as {reason}: no scores by kind"))
        return {}
    if known < len(every):
        print(for_terminal(f"note: {file} (data.kinds) has a kind for {known:,} of {len(every):,} test keyphrases"))
    return kinds


def read_kinds(file: str) -> dict[str, str]:
    """The kind of each keyphrase in JSON Lines of `{"id": post, "needs": {keyphrase: kind}}`; ids may be left out.

    Raises:
        InputError: the file cannot be read, or is not of that form.
    """
    return {phrase: kind for _, needs in _needs(file) for phrase, kind in needs.items()}


def _needs(file: str) -> list[tuple[str, dict[str, str]]]:
    """A post's id, empty where the row has none, and the kinds of its keyphrases."""
    form = 'give JSON Lines of {"needs": {keyphrase: kind}}, or none (config.data.kinds)'
    rows = [(row.text("id", ""), row.object("needs")) for row in read_rows(Path(file), form)]
    return [(post, {phrase.strip().lower(): needs.text(phrase) for phrase in needs.content}) for post, needs in rows]


def _about_unfed(unfed: Sequence[Prediction]) -> list[str]:
    if not unfed:
        return []
    ids = ", ".join([post.id for post in unfed[:SHOWN]] + ["…"] * (len(unfed) > SHOWN))
    counted = f"{len(unfed):,} posts could not be fed, and count with nothing predicted"
    return [for_terminal(f"{counted} (reasons: rejects.jsonl of the data): {ids}")]


def _write_hidden(file: Path, state_of: Mapping[str, np.ndarray]) -> None:
    """The states by their posts' ids; in half precision, as a norm has bounded them."""
    with replacing(file) as out:
        np.savez(out, id_N=np.array(list(state_of), str), hidden_ND=np.array(list(state_of.values()), np.float16))


def _samples(posts: Sequence[Words], predictions: Sequence[Prediction]) -> list[str]:
    """The first posts with what was predicted: what posts and a model wrote moves no cursor."""
    lines = []
    for post, prediction in list(zip(posts, predictions, strict=False))[:SHOWN]:
        sample = [f"{post.id}: {post.text}", f"  gold       {'; '.join(post.keyphrases)}"]
        sample.append(f"  predicted  {'; '.join(prediction.predicted) or '–'}  ({prediction.form})")
        if prediction.form != "direct":
            sample.append(f"  output     {prediction.output}")
        lines += ["", *map(for_terminal, sample)]
    return lines
