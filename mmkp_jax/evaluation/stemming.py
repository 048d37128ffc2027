"""Porter stems as CMKP's metric takes them: NLTK's stemmer in its default mode."""

from collections.abc import Iterable
from functools import cache, lru_cache


@cache
def _stemmer():
    from nltk.stem.porter import PorterStemmer  # imported late: nltk takes a second, and only scoring needs it

    return PorterStemmer()


@lru_cache(maxsize=1 << 20)
def stem(word: str) -> str:
    """The stem of one word, stripped and lower-cased first (CMKP rule 1)."""
    return _stemmer().stem(word.strip().lower())


def stem_words(words: Iterable[str]) -> str:
    """Stems joined by single spaces."""
    return " ".join(map(stem, words))
