"""Posts whose punctuation is still on their words, which CMKP's rule of present keyphrases does not expect.

CMKP's files are tokenised: `loving paris !`. Of a post like `Loving Paris!`, the keyphrase `paris` is absent by that
rule (`metric`, rule 7), and `#paris` is another keyphrase than `paris`. Here both sides can be compared by their words.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from mmkp_jax.evaluation.metric import Phrases, Post
from mmkp_jax.evaluation.stemming import stem_words

_BETWEEN = re.compile(r"[^\w<>'’&+@-]+")
_EDGES = "_'’&+@-"

COMMON = 0.01
"""Share of hidden keyphrases from which on posts seem not to be tokenised."""


class TokenisedPost(NamedTuple):
    """What the metric needs of a post."""

    text: str
    keyphrases: Sequence[str]


class Hidden(NamedTuple):
    """Keyphrases that are in their post's text, but not as words between blanks."""

    keyphrases: int
    of: int
    """Keyphrases in all."""
    example: tuple[str, str] = ("", "")
    """A keyphrase and the text that it is in; empty where there is none."""

    @property
    def is_common(self) -> bool:
        """Whether the posts seem not to be tokenised: of CMKP's test posts, 4 in 7,117 keyphrases are hidden."""
        return self.keyphrases > 0 and self.keyphrases >= COMMON * self.of


def tokenise(text: str) -> str:
    """The words of a text, lower-cased, without the punctuation and hash signs around and between them.

    Hyphens, apostrophes, `&`, `+` and `@` inside a word and CMKP's `<number>` stay.
    """
    words = (word.strip(_EDGES) for word in _BETWEEN.split(text.lower()))
    return " ".join(word for word in words if word)


def tokenise_posts(posts: Sequence[Post]) -> list[TokenisedPost]:
    """The posts with text and keyphrases as `tokenise` has them; a keyphrase without any word stays as it is."""
    return [TokenisedPost(tokenise(post.text), [tokenise(each) or each for each in post.keyphrases]) for post in posts]


def tokenise_phrases(predictions: Sequence[Phrases]) -> list[list[str]]:
    """The predictions of each post as `tokenise` has them; a phrase without any word stays as it is."""
    split = (each.split(";") if isinstance(each, str) else each for each in predictions)
    return [[tokenise(phrase) or phrase for phrase in phrases] for phrases in split]


def hidden_keyphrases(posts: Sequence[Post]) -> Hidden:
    """How many keyphrases count as absent that are in the text when both are tokenised."""
    found, total, example = 0, 0, ("", "")
    for post in posts:
        total += len(post.keyphrases)
        if phrases := hidden_in(post):
            example = example if found else (phrases[0], post.text)
            found += len(phrases)
    return Hidden(found, total, example)


def hidden_in(post: Post) -> list[str]:
    """The keyphrases of one post that count as absent, though they are in the text when both are tokenised."""
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
