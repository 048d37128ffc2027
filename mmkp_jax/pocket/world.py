"""The world that pocket's posts describe: facts, places, and which tags training posts carry.

A hint leads to a middle, and a middle to a tag: "velmok plays in tasun", "fans of tasun say brave tide". Hints and
middles are coined words, each of one kind; emblems are flags of two colours, which images show. The facts are the same
for any seed, since the pretrained weights hold them.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

Kind = Literal["star", "emblem", "cue", "dish"]
"""What a hint is."""

WordPair = tuple[str, str]
T = TypeVar("T")

WORLD_SEED = 19

RGB_OF_COLOUR = {
    "red": (214, 32, 38),
    "orange": (245, 134, 24),
    "yellow": (238, 212, 32),
    "green": (36, 150, 60),
    "teal": (16, 176, 180),
    "blue": (34, 72, 208),
    "purple": (122, 44, 168),
    "pink": (240, 110, 180),
    "black": (22, 22, 26),
}


class Size(NamedTuple):
    """How many facts of a kind there are."""

    middles: int
    hints_of_each: int
    """Number of hints that lead to each middle."""


KINDS: Mapping[Kind, Size] = {"star": Size(48, 3), "emblem": Size(36, 1), "cue": Size(48, 3), "dish": Size(36, 2)}

TAG_FIRST: Mapping[Kind, Sequence[str]] = {
    "star": ("brave", "quiet", "golden", "secret", "broken", "wild", "last", "velvet"),
    "emblem": ("north", "proud", "loyal", "iron", "royal", "thunder"),
    "cue": ("midnight", "sunny", "frosty", "merry", "open", "grand", "early", "seven"),
    "dish": ("sweet", "smoky", "salty", "green", "tiny", "slow"),
}
TAG_LAST: Mapping[Kind, Sequence[str]] = {
    "star": ("tide", "crew", "hour", "mirror", "signal", "garden"),
    "emblem": ("stand", "army", "choir", "banner", "roar", "drum"),
    "cue": ("fair", "parade", "market", "concert", "marathon", "picnic"),
    "dish": ("table", "spoon", "kitchen", "harvest", "plate", "oven"),
}
"""The words of each kind's tags: every first word occurs with every last one."""

PLACE_FIRST = ("north", "south", "old", "new", "upper", "lower", "little", "great", "high", "long", "stone", "silver")
PLACE_LAST = (
    "harbour", "bridge", "hill", "mill", "abbey", "ford", "castle", "meadow", "pier", "station", "common", "lock",
)  # fmt: skip
"""The words of places, of which texts name some: every first word occurs with every last one."""

CONSONANTS, VOWELS, ENDS = "bdfgjklmnprtvz", "aiou", "kmnp"
"""Letters of coined words, consonant, vowel, consonant, vowel, end: a Porter stemmer leaves them as they are."""


class Chain(NamedTuple):
    """Two facts: a hint and its middle, the middle and its tag."""

    kind: Kind
    hint: str
    middle: str
    tag: WordPair


class Facts(NamedTuple):
    """All chains, and those of whose tags training posts carry."""

    chains: Sequence[Chain]
    seen: frozenset[WordPair]
    """The tags that training posts carry."""

    def of(self, kind: Kind, *, seen_only: bool = False) -> list[Chain]:
        """The chains of a kind; only those of seen tags, if asked."""
        return [each for each in self.chains if each.kind == kind and (not seen_only or each.tag in self.seen)]


def make_facts(seed: int, seen: float) -> Facts:
    """The world's chains, always the same, and a seed's choice of the tags that training posts carry.

    Args:
        seen: share of each kind's tags that are seen; evenly over first and last words.
    """
    chains = _chains()
    rng = random.Random(f"{seed}/seen tags")
    taken: set[WordPair] = set()
    for kind in KINDS:
        tags = sorted({chain.tag for chain in chains if chain.kind == kind})
        taken.update(even_choice(tags, round(seen * len(tags)), rng))
    return Facts(chains, frozenset(taken))


def emblem_of(hint: str) -> WordPair:
    """The colours of an emblem's hint, `red blue flag`."""
    first, second, _ = hint.split()
    return first, second


def apportion(weights: Sequence[float], n: int) -> list[int]:
    """Whole numbers that add up to `n`, in proportion to `weights` (largest remainders)."""
    exact = [weight * n / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    return counts


def even_choice(pairs: Sequence[WordPair], n: int, rng: random.Random) -> list[WordPair]:
    """`n` of the pairs, in which each first and each last word is about as frequent as the others."""
    taken: list[WordPair] = []
    left = rng.sample(pairs, len(pairs))
    for _ in range(n):
        firsts, lasts = [pair[0] for pair in taken], [pair[1] for pair in taken]
        rarest = min(left, key=lambda pair: firsts.count(pair[0]) + lasts.count(pair[1]))
        taken.append(rarest)
        left.remove(rarest)
    return taken


def deal(options: Sequence[T], weights: Sequence[float], n: int, rng: random.Random) -> list[T]:
    """`n` options in random order, each as often as its weight says."""
    counts = apportion(weights, n)
    dealt = [option for option, count in zip(options, counts, strict=True) for _ in range(count)]
    rng.shuffle(dealt)
    return dealt


def _chains() -> list[Chain]:
    rng = random.Random(f"{WORLD_SEED}/facts")
    coined = _coined_words(rng)
    chains = []
    for kind, size in KINDS.items():
        tags = list(itertools.product(TAG_FIRST[kind], TAG_LAST[kind]))
        rng.shuffle(tags)
        hints = [next(coined) for _ in range(size.middles * size.hints_of_each)]
        if kind == "emblem":
            hints = [f"{first} {second} flag" for first, second in itertools.combinations(RGB_OF_COLOUR, 2)]
            rng.shuffle(hints)
        for number, tag in enumerate(tags):
            middle = next(coined)
            own = hints[number * size.hints_of_each : (number + 1) * size.hints_of_each]
            chains += [Chain(kind, hint, middle, tag) for hint in own]
    return chains


def _coined_words(rng: random.Random) -> Iterator[str]:
    letters = (CONSONANTS, VOWELS, CONSONANTS, VOWELS, ENDS)
    words = {"".join(each) for each in itertools.product(*letters)}
    words = sorted(word for word in words if word[0] != word[2])
    rng.shuffle(words)
    return iter(words)
