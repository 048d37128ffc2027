"""Evaluation of a model on a split: predictions, scores, baselines, and input ablations."""

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from mmkp_jax.data.numbered import OnDemand, each_of
from mmkp_jax.data.posts import PostText, Record, text_of
from mmkp_jax.data.records import Split, open_split, rejected_posts
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.evaluation.baselines import most_frequent, nearest_neighbour
from mmkp_jax.evaluation.companions import companions
from mmkp_jax.evaluation.files import seen_keyphrases
from mmkp_jax.evaluation.metric import Scores, score, score_by_kind
from mmkp_jax.evaluation.outputs import FORMS, form_shares, mean_words, outputs_line
from mmkp_jax.evaluation.predictions import Prediction, all_logprobs, write_predictions
from mmkp_jax.evaluation.table import answers_table, further_table, headline, main_metric, table
from mmkp_jax.inference.predictor import Predictor
from mmkp_jax.runtime.atomic import replacing, write_json
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.json_files import read_rows
from mmkp_jax.runtime.progress import Progress
from mmkp_jax.training.batches import datasets_of
from mmkp_jax.training.watchdog import Watchdog

TEST, VALID = "test", "valid"

LOGGED = ("f1@1", "f1@M")
"""Metrics that are logged for each group during training."""

SHOWN = 5
"""Number of sample posts on the terminal, and of ids of skipped posts."""

BASELINE_K = 5
"""Keyphrases that the most-frequent baseline predicts for every post."""


class Evaluation:
    """The data that a run is evaluated on, opened before training so that missing files are found early.

    Args:
        watchdog: notified of each completion while a split is decoded.

    Raises:
        InputError: the data or a file that the config names cannot be read, or `config.best_metric` is not a score
            of the posts of valid.
    """

    def __init__(self, config: ConfigDict, watchdog: Watchdog | None = None):
        self._config, self._watchdog = config, watchdog or Watchdog(Path(), 0)
        self._first = "compiling, first answers"
        splits = (open_split(each.path, "train") for each in datasets_of(config))
        train = [text_of(record) for split in splits for record in each_of(split)]
        self._seen = seen_keyphrases(config.data.train_keyphrases, train)
        self._test = SplitPosts(config, TEST, config.eval_posts)
        self._kinds = kinds_of(config.data.kinds, self._test.words) if config.data.kinds else {}
        self._baselines = {
            "most frequent": [most_frequent([post.keyphrases for post in train], BASELINE_K)] * len(self._test.words),
            "nearest neighbour": nearest_neighbour(train, [post.text for post in self._test.words]),
        }
        self._valid = SplitPosts(config, VALID, config.valid_posts) if config.eval_every else None
        if self._valid:
            _check_metric(config.best_metric, score(self._valid.words, [""] * len(self._valid.words), self._seen))

    def validate(self, predictor: Predictor) -> dict[str, float]:
        """Scores on the first posts of the valid split, by the names of the log.

        These are `valid/{group}/{metric}`, the shares of the outputs' forms `valid/{form}`, and `valid/words`, the mean
        of the words generated for a post.
        """
        predictions = self._answers(predictor, self._valid.usable, VALID)
        predicted = [each.predicted for each in [*predictions, *self._valid.skipped]]
        by_group = score(self._valid.words, _lines(predicted), self._seen)
        scores = {f"{group}/{metric}": each[metric] for group, each in by_group.items() if each for metric in LOGGED}
        scores |= form_shares([each.form for each in predictions])
        scores["words"] = mean_words([each.output for each in predictions])
        return {f"{VALID}/{name}": value for name, value in scores.items()}

    def test(self, predictor: Predictor, workdir: Path, step: int) -> str:
        """Decodes the test split, and writes predictions and scores into the work directory.

        Writes `predictions/test-{step}.jsonl`, `results.json` (the model's scores, `forms`, the shares of its outputs'
        forms, and `answers`, what `companions` measures), `comparisons.json` (`scores` and `by_kind` of every system of
        the tables) and `hidden.npz` (`id_N`, and `hidden_ND`, float16: the state of the prompt's last token for each
        usable post). A post that cannot be used counts, with nothing predicted, and is listed.

        Returns:
            tables and samples for the terminal; print them when all files of the run are written.
        """
        usable, test, kinds = self._test.usable, self._test.words, self._kinds
        hidden: dict[int, np.ndarray] = {}  # by the post's number
        predictions = self._answers(predictor, usable, TEST, hidden.__setitem__)
        changed = {"images permuted": permute_images(usable), "texts blanked": blank_texts(usable)}
        changed = changed if self._config.ablations else {}
        by_input = {name: self._answers(predictor, each, name) for name, each in changed.items()}
        name = f"{self._config.strategy}, step {step:,}"
        answered = {name: predictions, **by_input}
        predicted = {who: [each.predicted for each in [*found, *self._test.skipped]] for who, found in answered.items()}
        lines = {who: _lines(each) for who, each in ({name: predicted[name]} | self._baselines | predicted).items()}
        scores = {who: score(test, each, self._seen) for who, each in lines.items()}
        by_kind = {who: score_by_kind(test, each, kinds) for who, each in lines.items()} if kinds else {}
        measured = companions(
            test,
            predicted[name],
            self._seen,
            outputs=[each.output for each in predictions],
            tokens=[each.tokens for each in predictions],
            logprobs=all_logprobs([each.scores for each in [*predictions, *self._test.skipped]], predicted[name]),
        )
        if jax.process_index() == 0:
            write_predictions(workdir / "predictions" / f"{TEST}-{step}.jsonl", [*predictions, *self._test.skipped])
            forms = form_shares([each.form for each in predictions])
            write_json(workdir / "results.json", {**scores[name], "forms": forms, "answers": measured})
            write_json(workdir / "comparisons.json", {"scores": scores, "by_kind": by_kind})
            if hidden:
                _write_hidden(
                    workdir / "hidden.npz", {predictions[number].id: hidden[number] for number in sorted(hidden)}
                )
        metric = main_metric(self._config.best_metric)
        parts = [headline(scores, metric)]
        if by_kind:
            title = for_terminal(f"by what a keyphrase needs ({self._config.data.kinds}):")
            parts.append(f"\n{title}\n{headline(by_kind, metric)}")
        parts.append(f"\n{table(scores[name])}")
        parts.append(f"\n{further_table({name: scores[name]})}\n\n{answers_table({'all': measured})}\n")
        parts.append(outputs_line([each.form for each in predictions], [each.output for each in predictions]))
        parts += _skipped_lines(self._test.skipped)
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
        bar = Progress(len(records), units="posts", label=name, first=self._first, leave=name != VALID)
        with bar, self._watchdog.counting("answer"):
            found = []
            for each in predictor.predict(records, state=state):
                found.append(each)
                bar.advance()
                self._watchdog.beat()
        self._first = "first answers"
        return [prediction for _, prediction in sorted(found)]


class SplitPosts:
    """The usable posts at the start of the first dataset's split; for a whole split, also the rejected posts.

    Args:
        most: number of usable posts; 0 for all.
    """

    def __init__(self, config: ConfigDict, split: str, most: int):
        path = datasets_of(config)[0].path
        self.usable = _records(open_split(path, split), most)
        rejected = [] if most else rejected_posts(path, split)
        self.skipped = [Prediction(post.id, list(post.keyphrases), [], "", "broken", 0) for post in rejected]
        """Empty predictions of the rejected posts."""
        self.words = [*map(text_of, self.usable), *map(text_of, rejected)]
        """The words of all posts: usable ones, then rejected ones."""


def _check_metric(metric: str, scores: Scores) -> None:
    of_groups = [f"{VALID}/{group}/{each}" for group, found in scores.items() if found for each in LOGGED]
    names = [*of_groups, *(f"{VALID}/{each}" for each in (*FORMS, "words"))]
    if metric not in names:
        what = f"the valid split gives no score {metric!r}{nearest(metric, names)}"
        raise InputError(what, "config.best_metric", "name another")


def _records(split: Split, most: int) -> OnDemand[Record]:
    return OnDemand(len(split), split.__getitem__)[: most or None]


def _lines(predicted: Iterable[Sequence[str]]) -> list[list[str]]:
    """The predictions as the metric reads them: an empty one is one empty phrase."""
    return [list(each) or [""] for each in predicted]


def permute_images(records: Sequence[Record], seed: int = 0) -> OnDemand[Record]:
    """The posts, each with another one's image."""
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    taken = dict(zip(order, order[1:] + order[:1], strict=True))  # a cycle, so no post keeps its own

    def read(number: int) -> Record:
        other = records[taken[number]]
        return dataclasses.replace(records[number], image=other.image, width=other.width, height=other.height)

    return OnDemand(len(records), read)


def blank_texts(records: Sequence[Record]) -> OnDemand[Record]:
    """The posts without their texts."""
    return OnDemand(len(records), lambda number: dataclasses.replace(records[number], text=""))


def kinds_of(file: str, posts: Sequence[PostText]) -> dict[str, str]:
    """`read_kinds` if the file is about these posts; else empty, and a note is printed.

    The file is about other posts if a row with the id of one of these names a keyphrase that the post does not have, or
    if it has none of their keyphrases.

    Raises:
        InputError: the file cannot be read, or is not of that form.
    """
    kinds, keyphrases = read_kinds(file), {post.id: {phrase.lower() for phrase in post.keyphrases} for post in posts}
    others = sum(not needs.keys() <= keyphrases.get(post, needs.keys()) for post, needs in _needs(file))
    every = [phrase for each in keyphrases.values() for phrase in each]
    known = sum(phrase in kinds for phrase in every)
    if others or not known:
        reason = f"{others:,} rows do not match the post of their id" if others else "it has none of their keyphrases"
        print(for_terminal(f"note: {file} (data.kinds) is about other posts ({reason}): no scores by kind"))
        return {}
    if known < len(every):
        print(for_terminal(f"note: {file} (data.kinds) has a kind for {known:,} of {len(every):,} test keyphrases"))
    return kinds


def read_kinds(file: str) -> dict[str, str]:
    """The kind of each keyphrase, from JSON Lines of `{"id": post, "needs": {keyphrase: kind}}`; ids are optional.

    Raises:
        InputError: the file cannot be read, or is not of that form.
    """
    return {phrase: kind for _, needs in _needs(file) for phrase, kind in needs.items()}


def _needs(file: str) -> list[tuple[str, dict[str, str]]]:
    """Each row's id (empty if it has none), and the kinds of its keyphrases."""
    form = 'give JSON Lines of {"needs": {keyphrase: kind}}, or none (config.data.kinds)'
    rows = [(row.text("id", ""), row.object("needs")) for row in read_rows(Path(file), form)]
    return [(post, {phrase.strip().lower(): needs.text(phrase) for phrase in needs.content}) for post, needs in rows]


def _skipped_lines(skipped: Sequence[Prediction]) -> list[str]:
    if not skipped:
        return []
    ids = ", ".join([post.id for post in skipped[:SHOWN]] + ["…"] * (len(skipped) > SHOWN))
    counted = f"{len(skipped):,} posts could not be used, and count with nothing predicted"
    return [for_terminal(f"{counted} (reasons: rejects.jsonl of the data): {ids}")]


def _write_hidden(file: Path, state_of: Mapping[str, np.ndarray]) -> None:
    """Writes the states by post id, in half precision, since a norm has bounded them."""
    with replacing(file) as out:
        np.savez(out, id_N=np.array(list(state_of), str), hidden_ND=np.array(list(state_of.values()), np.float16))


def _samples(posts: Sequence[PostText], predictions: Sequence[Prediction]) -> list[str]:
    """The first posts with their predictions, escaped so that texts cannot move the cursor."""
    lines = []
    for post, prediction in list(zip(posts, predictions, strict=False))[:SHOWN]:
        sample = [f"{post.id}: {post.text}", f"  gold       {'; '.join(post.keyphrases)}"]
        sample.append(f"  predicted  {'; '.join(prediction.predicted) or '–'}  ({prediction.form})")
        if prediction.form != "direct":
            sample.append(f"  output     {prediction.output}")
        lines += ["", *map(for_terminal, sample)]
    return lines
