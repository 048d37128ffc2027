"""Posts that are not tokenised, which CMKP's rule of present keyphrases does not expect.

CMKP's files are tokenised: `loving paris !`. In a post like `Loving Paris!`, the keyphrase `paris` is absent by that
rule (`metric`, rule 7), and `#paris` is another keyphrase than `paris`. Here both sides can be compared by words.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from mmkp_jax.evaluation.metric import Phrases, PostLike
from mmkp_jax.evaluation.stemming import stem_words

_BETWEEN = re.compile(r"[^\w<>'’&+@-]+")
_EDGES = "_'’&+@-"

COMMON = 0.01
"""The share of hidden keyphrases from which posts count as not tokenised."""


class TokenisedPost(NamedTuple):
    """A tokenised post as the metric needs it."""

    text: str
    keyphrases: Sequence[str]


class HiddenKeyphrases(NamedTuple):
    """Count of keyphrases that are in their post's text, but not as words between blanks."""

    keyphrases: int
    total: int
    """All keyphrases."""
    example: tuple[str, str] = ("", "")
    """A keyphrase and the text that it is in; empty if there is none."""

    @property
    def is_common(self) -> bool:
        """Whether the posts seem not to be tokenised; in CMKP's test posts, 4 of 7,117 keyphrases are hidden."""
        return self.keyphrases > 0 and self.keyphrases >= COMMON * self.total


def tokenise(text: str) -> str:
    """The words of a text, lower-cased, without the punctuation and hash signs around and between them.

    Hyphens, apostrophes, `&`, `+` and `@` inside a word, and CMKP's `<number>`, are kept.
    """
    words = (word.strip(_EDGES) for word in _BETWEEN.split(text.lower()))
    return " ".join(word for word in words if word)


def tokenise_posts(posts: Sequence[PostLike]) -> list[TokenisedPost]:
    """The posts with tokenised text and keyphrases; a keyphrase without any word is kept as it is."""
    return [TokenisedPost(tokenise(post.text), [tokenise(each) or each for each in post.keyphrases]) for post in posts]


def tokenise_phrases(predictions: Sequence[Phrases]) -> list[list[str]]:
    """The tokenised predictions of each post; a phrase without any word is kept as it is."""
    split = (each.split(";") if isinstance(each, str) else each for each in predictions)
    return [[tokenise(phrase) or phrase for phrase in phrases] for phrases in split]


def hidden_keyphrases(posts: Sequence[PostLike]) -> HiddenKeyphrases:
    """The count of keyphrases that are absent, but in the text when both are tokenised."""
    found, total, example = 0, 0, ("", "")
    for post in posts:
        total += len(post.keyphrases)
        if phrases := hidden_in(post):
            example = example if found else (phrases[0], post.text)
            found += len(phrases)
    return HiddenKeyphrases(found, total, example)


def hidden_in(post: PostLike) -> list[str]:
    """The keyphrases of one post that are absent, but in the text when both are tokenised."""
    text, words, found = _stemmed(post.text), None, []
    for phrase in post.keyphrases:
        if (stemmed := _stemmed(phrase)).strip() and stemmed in text:
            continue
        words = words or _stemmed(tokenise(post.text))
        if (stemmed := _stemmed(tokenise(phrase))).strip() and stemmed in words:
            found.append(phrase)
    return found


def _stemmed(text: str) -> str:
    return f" {stem_words(text.lower().split())} "
