"""The words and keyphrases that a baseline knows: those of its training posts, most frequent first."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmkp_jax.baselines.model import PAD, UNKNOWN
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.metric import PostLike
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.json_files import read_object

SPECIAL = ("<pad>", "<unk>", "<begin>", "<end>", "<sep>")
"""The first words, in the order of `model.PAD` and those after it."""

VOCABULARY = "vocabulary.json"
"""File of a work directory."""


class Vocabulary(NamedTuple):
    """Words and the classifier's keyphrases, by number."""

    words: tuple[str, ...]
    keyphrases: tuple[str, ...]
    numbers: dict[str, int]
    """The number of each word that can be in a text; the special ones cannot."""
    classes: dict[str, int]
    """The number of each keyphrase."""

    def word_numbers(self, words: Iterable[str]) -> list[int]:
        """Each word's number; `UNKNOWN` for others."""
        return [self.numbers.get(word, UNKNOWN) for word in words]

    def keyphrase_words(self, most: int) -> np.ndarray:
        """`words_CK`: the first `most` words of each keyphrase, `PAD` behind them."""
        return padded([self.word_numbers(words_of(each))[:most] for each in self.keyphrases], most)


def words_of(text: str) -> list[str]:
    """A text's words, as CMKP's files separate them: by blanks; lower-case."""
    return text.lower().split()


def make_vocabulary(posts: Sequence[PostLike], others: Iterable[Sequence[str]], most: int) -> Vocabulary:
    """The vocabulary of training posts.

    Args:
        others: words of the posts' images.
        most: words at most, special ones included.
    """
    phrases = Counter(" ".join(words_of(each)) for post in posts for each in post.keyphrases)
    counts: Counter[str] = Counter()
    for post in posts:
        counts.update(itertools.chain(words_of(post.text), *map(words_of, post.keyphrases)))
    for words in others:
        counts.update(words)
    for word in SPECIAL:
        counts.pop(word, None)
    words = [word for word, _ in counts.most_common(max(most - len(SPECIAL), 0))]
    return vocabulary_of([*SPECIAL, *words], [each for each, _ in phrases.most_common()])


def vocabulary_of(words: Sequence[str], keyphrases: Sequence[str]) -> Vocabulary:
    """The vocabulary with these words, `SPECIAL` first, and keyphrases."""
    numbers = {word: number for number, word in enumerate(words) if number >= len(SPECIAL)}
    return Vocabulary(tuple(words), tuple(keyphrases), numbers, {each: n for n, each in enumerate(keyphrases)})


def save_vocabulary(vocabulary: Vocabulary, workdir: Path) -> None:
    """Writes it into a work directory; one that is there already has to be the same.

    Raises:
        InputError: it is of other posts.
    """
    file = workdir / VOCABULARY
    if file.exists():
        if load_vocabulary(workdir)[:2] != vocabulary[:2]:
            what = "the vocabulary there is not that of these training posts"
            raise InputError(what, str(file), "give the dataset that the run started with, or another --workdir")
        return
    write_json(file, {"words": vocabulary.words, "keyphrases": vocabulary.keyphrases}, indent=None)


def load_vocabulary(workdir: Path) -> Vocabulary:
    """The vocabulary of a run.

    Raises:
        InputError: there is none, or it is damaged.
    """
    fields = read_object(workdir / VOCABULARY, "restore the file, or run again")
    words, keyphrases = fields.texts("words"), fields.texts("keyphrases")
    if tuple(words[: len(SPECIAL)]) != SPECIAL:
        fields.refuse("words", f"a list that begins with {', '.join(SPECIAL)}")
    return vocabulary_of(words, keyphrases)


def padded(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """The rows as int32 [rows, width], `PAD` behind each."""
    out = np.full((len(rows), width), PAD, np.int32)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out
