"""Predictions of a traditional model for posts, in the form of all predictions."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from mmkp_jax.baselines.batches import Limits, Source, inputs_of, source_of
from mmkp_jax.baselines.beam import make_search
from mmkp_jax.baselines.model import END, Definition, Sizes, define
from mmkp_jax.baselines.sidecars import Sidecars
from mmkp_jax.baselines.vocabulary import Vocabulary
from mmkp_jax.data.numbered import Numbered
from mmkp_jax.data.posts import Record, Reject
from mmkp_jax.evaluation.predictions import PhraseScores, Prediction
from mmkp_jax.models.definition import Params

Answers = Literal["decoder", "classifier"]


class KeyphrasePredictor:
    """A traditional model that predicts; what it compiles is shared by `with_params`.

    Args:
        joint: whether the decoder also copies from the classifier's choices.
        answers: whose keyphrases are predicted.
        beams: unfinished keyphrases of the beam search.
        most: keyphrases of a post at most.
    """

    def __init__(
        self,
        sizes: Sizes,
        params: Params,
        vocabulary: Vocabulary,
        sidecars: Sidecars,
        limits: Limits,
        *,
        joint: bool,
        answers: Answers,
        beams: int,
        most: int,
        batch_size: int,
    ):
        self.definition: Definition = define(sizes)
        self._params, self._vocabulary, self._sidecars, self._limits = params, vocabulary, sidecars, limits
        self._answers, self._most, self._batch_size = answers, most, batch_size
        self._search = make_search(self.definition, beams=beams, length=limits.keyphrase_words + 1)
        self._class_words = vocabulary.keyphrase_words(limits.keyphrase_words) if sizes.classes else None
        self._joint = joint

    def with_params(self, params: Params, *, joint: bool) -> "KeyphrasePredictor":
        """A predictor with other parameters."""
        other = copy.copy(self)
        other._params, other._joint = params, joint
        return other

    def predict(
        self,
        rows: Numbered[Record | Reject],
        skipped: Callable[[tuple[str, str]], None] = lambda _: None,
        state: Callable[[int, np.ndarray], None] = lambda *_: None,
    ) -> Iterator[tuple[int, Prediction]]:
        """Yields (number, prediction) of every post.

        Args:
            skipped: called with the id of each post that cannot be used, and the reason.
            state: never called: these models have no prompt.
        """
        del state
        for start in range(0, len(rows), self._batch_size):
            usable: list[tuple[int, Source]] = []
            for number in range(start, min(start + self._batch_size, len(rows))):
                row = rows[number]
                if isinstance(row, Reject):
                    skipped((row.id or "", row.reason))
                    keyphrases = list(row.post.keyphrases) if row.post else []
                    yield number, Prediction(row.id or "", keyphrases, [], "", "broken", 0)
                else:
                    usable.append((number, source_of(row, self._vocabulary, self._sidecars, self._limits)))
            if usable:
                yield from self._predict([number for number, _ in usable], [source for _, source in usable])

    def _predict(self, numbers: Sequence[int], sources: Sequence[Source]) -> Iterator[tuple[int, Prediction]]:
        inputs = inputs_of(sources, self._sidecars.regions, self._batch_size)
        class_words = jnp.asarray(self._class_words) if self._joint and self._class_words is not None else None
        word_BKT, logp_BK, class_BC = map(np.asarray, self._search(self._params, inputs, class_words))
        for row, (number, source) in enumerate(zip(numbers, sources, strict=True)):
            if self._answers == "classifier":
                found = self._of_classifier(class_BC[row])
            else:
                found = self._of_decoder(word_BKT[row], logp_BK[row], source)
            yield number, prediction_of(source.record.id, source.record.keyphrases, found[: self._most])

    def _of_decoder(self, word_KT: np.ndarray, logp_K: np.ndarray, source: Source) -> list[tuple[str, float, int]]:
        """Each keyphrase with its log-probability and how many words it took, its end included."""
        words, found = (*self._vocabulary.words, *source.unknown), {}
        for word_T, logp in zip(word_KT.tolist(), logp_K.tolist(), strict=True):
            if np.isfinite(logp) and END in word_T:
                length = word_T.index(END)
                phrase = " ".join(words[each] for each in word_T[:length])
                found.setdefault(phrase, (phrase, logp, length + 1))
        return list(found.values())

    def _of_classifier(self, class_C: np.ndarray) -> list[tuple[str, float, int]]:
        """Each keyphrase with its log-probability, as one choice."""
        logp_C = class_C - np.logaddexp.reduce(class_C)
        best = np.argsort(-logp_C, kind="stable")[: self._most].tolist()
        return [(self._vocabulary.keyphrases[each], float(logp_C[each]), 1) for each in best]


def prediction_of(post: str, keyphrases: Sequence[str], found: Sequence[tuple[str, float, int]]) -> Prediction:
    """The prediction for a post of that id, of (keyphrase, log-probability, how many words it took), best first."""
    phrases = [phrase for phrase, _, _ in found]
    logprobs = [min(logp, 0.0) for _, logp, _ in found]
    means = [logp / length for logp, (_, _, length) in zip(logprobs, found, strict=True)]
    scores = PhraseScores(*(tuple(float(f"{each:.6g}") for each in values) for values in (logprobs, means)))
    tokens = sum(length for _, _, length in found)
    return Prediction(post, list(keyphrases), phrases, "; ".join(phrases), "direct", tokens, scores=scores)
