"""Batches of posts for the traditional models.

B posts, S source words, A attribute words, T words of a keyphrase with its end, P places of
such words, N pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.baselines.model import END, SEPARATOR, UNKNOWN, Inputs
from mmkp_jax.baselines.sidecars import Regions, Sidecars, without_image
from mmkp_jax.baselines.vocabulary import Vocabulary, padded, words_of
from mmkp_jax.data.posts import Record

SHORTEST = 16
"""Lengths of sources are rounded up to this times a power of 2, so that few programs are compiled."""

POOL = 32
"""Batches whose pairs are sorted by length, so that short sources are not padded to the longest of an epoch."""

WORDS = 4
"""Words of a keyphrase, with its end, that a batch has room for at the vocabulary: a multiple of this times B."""

ATTRIBUTES = 5
"""Attribute words of an image."""


class Limits(NamedTuple):
    """How much of a post a model reads and says."""

    text_words: int
    """Words of the text, and as many of OCR, at most."""
    keyphrase_words: int


class Source(NamedTuple):
    """A post as the model reads it."""

    record: Record
    """Without its image where `regions` do not need it."""
    source: list[int]
    copied: list[int]
    """The source, with words that the vocabulary lacks numbered from its size on."""
    unknown: list[str]
    """Those words."""
    attributes: list[int]


class Pair(NamedTuple):
    """A post with one of its keyphrases, which is what a training step sees."""

    post: int
    target: list[int]
    """Its words and `END`, numbered as `Source.copied`."""
    label: int
    """The classifier's number of it; -1 where it has none."""


class Batch(NamedTuple):
    """Pairs as arrays."""

    inputs: Inputs
    target_BT: np.ndarray
    label_B: np.ndarray
    weight_B: np.ndarray
    """1 for a pair, 0 for filling."""
    place_P: np.ndarray | None = None
    """Where words other than `PAD` are among the B x T of targets, and then 0s; None: not said."""


def source_of(record: Record, vocabulary: Vocabulary, sidecars: Sidecars, limits: Limits) -> Source:
    """A post in the vocabulary's numbers."""
    words = words_of(record.text)[: limits.text_words]
    numbers = vocabulary.word_numbers(words)
    if sidecars.ocr and (read := sidecars.ocr.words(record.id)[: limits.text_words]):
        words, numbers = [*words, "", *read], [*numbers, SEPARATOR, *vocabulary.word_numbers(read)]
    words, numbers = (words, numbers) if words else ([""], [SEPARATOR])
    unknown = list(dict.fromkeys(word for word, number in zip(words, numbers, strict=True) if number == UNKNOWN))
    place = {word: len(vocabulary.words) + number for number, word in enumerate(unknown)}
    copied = [place[word] if n == UNKNOWN else n for word, n in zip(words, numbers, strict=True)]
    of_image = sidecars.attributes.words(record.id)[:ATTRIBUTES] if sidecars.attributes else []
    kept = sidecars.regions.keep(record) if sidecars.regions else without_image(record)
    return Source(kept, numbers, copied, unknown, vocabulary.word_numbers(of_image))


def pairs_of(sources: Sequence[Source], vocabulary: Vocabulary, limits: Limits) -> list[Pair]:
    """Each post with each of its keyphrases (CMKP trains on 57,126 such pairs)."""
    found = []
    for number, source in enumerate(sources):
        place = {word: len(vocabulary.words) + n for n, word in enumerate(source.unknown)}
        for phrase in source.record.keyphrases:
            words = words_of(phrase)[: limits.keyphrase_words]
            target = [
                place.get(word, UNKNOWN) if n == UNKNOWN else n
                for word, n in zip(words, vocabulary.word_numbers(words), strict=True)
            ]
            found.append(Pair(number, [*target, END], vocabulary.classes.get(" ".join(words_of(phrase)), -1)))
    return found


def inputs_of(sources: Sequence[Source], regions: Regions | None, size: int) -> Inputs:
    """Posts as arrays of `size` rows; those behind the last post are copies of the first."""
    filling = size - len(sources)
    filled = [*sources, *sources[:1] * filling]
    region_BRF = regions.read([each.record for each in sources]) if regions else np.zeros((len(sources), 0, 0), "f4")
    width = SHORTEST
    while width < max(len(each.source) for each in filled):
        width *= 2
    return Inputs(
        padded([each.source for each in filled], width),
        padded([each.copied for each in filled], width),
        padded([each.attributes for each in filled], ATTRIBUTES),
        np.concatenate([region_BRF, np.repeat(region_BRF[:1], filling, axis=0)]),
    )


def batch_of(
    pairs: Sequence[Pair], sources: Sequence[Source], regions: Regions | None, limits: Limits, size: int
) -> Batch:
    """Pairs as arrays of `size` rows; those behind the last pair have the weight 0."""
    filling = size - len(pairs)
    target_BT = np.pad(padded([pair.target for pair in pairs], limits.keyphrase_words + 1), ((0, filling), (0, 0)))
    place_P = np.flatnonzero(target_BT).astype(np.int32)
    room = min(-(-len(place_P) // (WORDS * size)) * WORDS * size, target_BT.size)
    return Batch(
        inputs_of([sources[pair.post] for pair in pairs], regions, size),
        target_BT,
        np.pad(np.array([pair.label for pair in pairs], np.int32), (0, filling), constant_values=-1),
        np.pad(np.ones(len(pairs), np.float32), (0, filling)),
        np.pad(place_P, (0, room - len(place_P))),
    )


def epoch_batches(length_N: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The numbers of the pairs in each batch of an epoch, in an order of its own; those of a batch are of like length.

    Args:
        length_N: words of each pair's source.
    """
    rng = np.random.default_rng((seed, epoch))
    order_N = rng.permutation(len(length_N))
    batches = []
    for start in range(0, len(order_N), POOL * size):
        pool = order_N[start : start + POOL * size]
        pool = pool[np.argsort(length_N[pool], kind="stable")]
        batches += [pool[first : first + size] for first in range(0, len(pool), size)]
    return [batches[each] for each in rng.permutation(len(batches))]
