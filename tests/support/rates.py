"""Measures the kinds of a split's keyphrases: present in the text or absent, seen in training or unseen."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Rates(NamedTuple):
    """Rates of one split; shares are fractions."""

    posts: int
    keyphrases: int
    per_post: float
    """Keyphrases a post."""
    present: float
    """Share of keyphrases whose stemmed words occur in the stemmed text, next to each other."""
    unique: int
    """Number of different keyphrases."""
    overlap: float
    """Share of the different keyphrases that a training post has."""
    without_cot: float
    without_image: float


def measure_rates(
    posts: Sequence[Mapping[str, Any]],
    train: Iterable[Mapping[str, Any]],
    stem: Callable[[str], str] = str.lower,
) -> Rates:
    """The rates of `posts`, which are records in the general form, with `train` as training posts.

    Args:
        stem: stems a word. Pocket's texts have no other form of a keyphrase's words, so any stemmer gives the same.
    """
    known = {phrase for post in train for phrase in post["keyphrases"]}
    carried = [(phrase, post["text"]) for post in posts for phrase in post["keyphrases"]]
    unique = {phrase for phrase, _ in carried}
    return Rates(
        posts=len(posts),
        keyphrases=len(carried),
        per_post=len(carried) / len(posts),
        present=sum(is_present(phrase, text, stem) for phrase, text in carried) / len(carried),
        unique=len(unique),
        overlap=len(unique & known) / len(unique),
        without_cot=sum(post["cot"] is None for post in posts) / len(posts),
        without_image=sum(post["image"] is None for post in posts) / len(posts),
    )


def is_present(phrase: str, text: str, stem: Callable[[str], str] = str.lower) -> bool:
    """Whether the phrase's words occur in the text next to each other, after stemming."""
    wanted, words = ([stem(word) for word in part.split()] for part in (phrase, text))
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words)))
