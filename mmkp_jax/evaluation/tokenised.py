"""Whether posts are tokenised, as CMKP's are: only then do `present` and `absent` say what they seem to say.

The metric looks for a keyphrase among the words that blanks separate (its rules 1 and 7). In `Loving Paris!` and in
`#sunrise` it finds neither `paris` nor `sunrise`; among the words of `tokens_of` it does.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from mmkp_jax.evaluation.stemming import stem_words

MANY = 0.02
"""Share of the keyphrases that tokenised text must hold in addition before it is worth a remark; CMKP's have less."""

_TOKEN = re.compile(r"<\w+>|\w+(?:['’-]\w+)*|[^\w\s]")
_HASHTAG = re.compile(r"#(\w+)")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Post(Protocol):
    """What is needed of a post."""

    @property
    def text(self) -> str: ...
    @property
    def keyphrases(self) -> Sequence[str]: ...


class Present(NamedTuple):
    """How many keyphrases are in their post's text."""

    keyphrases: int
    as_is: int
    """Among the words that blanks separate, as the metric has it."""
    tokenised: int
    """Among those of `tokens_of`."""

    def remark(self) -> str | None:
        """A line for people where the text seems not to be tokenised; None where it makes little difference."""
        if self.tokenised - self.as_is <= MANY * self.keyphrases:
            return None
        as_is, tokenised = (f"{each / self.keyphrases:.2%}" for each in (self.as_is, self.tokenised))
        return (
            f"the text does not look tokenised: {as_is} of the keyphrases are present between blanks, {tokenised} once "
            "punctuation and '#' are set apart; present and absent go by blanks, so tokenise the text to compare them"
        )


def tokens_of(text: str) -> list[str]:
    """The words of a text with punctuation and `#` set apart, `#BrownCoffee` as two words, `<url>` and its like kept."""
    return _TOKEN.findall(_HASHTAG.sub(lambda found: f" # {_CAMEL.sub(' ', found[1])} ", text))


def tokenised(text: str) -> str:
    """The text with a blank between all its tokens, which the metric splits at."""
    return " ".join(tokens_of(text))


def is_present(keyphrase: str, text: str, words_of: Callable[[str], Iterable[str]] = tokens_of) -> bool:
    """Whether the stemmed keyphrase is a run of the stemmed words of the text."""
    stemmed = stem_words(words_of(keyphrase))
    return bool(stemmed) and f" {stemmed} " in f" {stem_words(words_of(text))} "


def count_present(posts: Iterable[Post]) -> Present:
    """Counts the keyphrases that are in their posts' texts, as the metric looks for them and in tokenised text."""
    keyphrases = as_is = by_tokens = 0
    for post in posts:
        for keyphrase in post.keyphrases:
            found = is_present(keyphrase, post.text, str.split)
            keyphrases, as_is = keyphrases + 1, as_is + found
            by_tokens += found or is_present(keyphrase, post.text)
    return Present(keyphrases, as_is, by_tokens)
