"""The world that pocket's posts describe: its words, and which of its keyphrases training posts have.

Every keyphrase has two words, each from its own list, so that a keyphrase that no training post has can still be
composed from parts that training posts have. No word of a keyphrase occurs in any text, except those of places.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Clause = Literal["fan", "clash", "event", "place"]
"""What a post can be about; each clause in its text gives one keyphrase."""

Evidence = Literal["image", "text", "both"]
"""What a keyphrase needs to be found."""
WordPair = tuple[str, str]
Topic = tuple[Clause, ...]

NEEDS: Mapping[Clause, Evidence] = {"fan": "image", "clash": "both", "event": "text", "place": "text"}

CLUB_OF_SHAPE = {
    "star": "comets",
    "triangle": "falcons",
    "ring": "rovers",
    "cross": "knights",
    "square": "bears",
    "moon": "owls",
}
RGB_OF_COLOUR = {
    "red": (214, 32, 38),
    "orange": (245, 134, 24),
    "yellow": (238, 212, 32),
    "green": (36, 150, 60),
    "teal": (16, 176, 180),
    "blue": (34, 72, 208),
    "purple": (122, 44, 168),
    "pink": (240, 110, 180),
}
CLASH_CUES = {
    "cup": ("the knockout round", "that shiny trophy", "lifting silverware"),
    "derby": ("facing our neighbours", "bragging rights in town", "the local rivals"),
    "league": ("three points away", "the standings by may", "climbing the table"),
    "final": ("the very last whistle", "ninety minutes from glory", "the decider"),
    "tour": ("eight cities by bus", "matches abroad", "suitcases and passports"),
    "draft": ("the first young pick", "choosing college talent", "the rookie list"),
    "camp": ("two weeks of drills", "preseason sweat", "running before breakfast"),
    "awards": ("the best player vote", "golden boots on stage", "a speech in a tuxedo"),
}
SEASON_CUES = {
    "winter": ("frost", "mittens", "snowflakes"),
    "spring": ("blossom", "lambs", "daffodils"),
    "summer": ("sunburn", "ice cream", "a heatwave"),
    "autumn": ("conkers", "falling leaves", "pumpkins"),
    "night": ("lanterns", "moonlight", "a late yawn"),
    "dawn": ("a rooster", "first light", "an early alarm"),
}
GATHERING_CUES = {
    "fair": ("a carousel", "candy floss", "bumper cars"),
    "parade": ("floats", "a marching band", "confetti"),
    "market": ("stalls", "cheese sellers", "haggling"),
    "concert": ("an encore", "guitars", "a drum solo"),
    "marathon": ("mile twenty", "runners", "sore legs"),
    "picnic": ("blankets", "sandwiches", "a wicker basket"),
    "gallery": ("paintings", "sculptures", "oil portraits"),
}
PLACE_FIRST = ("north", "south", "old", "new", "upper", "lower", "little", "great", "high", "long", "stone", "silver")
PLACE_LAST = (
    "harbour", "bridge", "hill", "mill", "abbey", "ford", "castle", "meadow", "pier", "station", "common", "lock",
)  # fmt: skip

OPTIONS: Mapping[Clause, tuple[Sequence[str], Sequence[str]]] = {
    "fan": (tuple(RGB_OF_COLOUR), tuple(CLUB_OF_SHAPE.values())),
    "clash": (tuple(CLUB_OF_SHAPE.values()), tuple(CLASH_CUES)),
    "event": (tuple(SEASON_CUES), tuple(GATHERING_CUES)),
    "place": (PLACE_FIRST, PLACE_LAST),
}
"""The first and the last words of each clause's keyphrases."""

TOPICS: Mapping[Topic, float] = {
    ("place",): 0.287,
    ("fan",): 0.14,
    ("event",): 0.14,
    ("clash",): 0.143,
    ("clash", "fan"): 0.10,
    ("fan", "place"): 0.08,
    ("clash", "place"): 0.05,
    ("event", "place"): 0.06,
}
"""Shares of posts by their clauses, in the order of their keyphrases: 1.29 a post, of which 37% are places."""

SEEN = 0.4492
"""Share of each clause's keyphrases that training posts have: the overlap of MMKP-V2's splits (paper, Table 2)."""


class World(NamedTuple):
    """The pairs of words that are keyphrases: all of them, and those of training posts."""

    every: Mapping[Clause, list[WordPair]]
    seen: Mapping[Clause, list[WordPair]]


def make_world(seed: int) -> World:
    """Chooses the seen pairs of each clause, evenly over its first and over its last words."""
    rng = random.Random(f"{seed}/world")
    every = {clause: list(itertools.product(firsts, lasts)) for clause, (firsts, lasts) in OPTIONS.items()}
    return World(every, {clause: even_choice(pairs, round(SEEN * len(pairs)), rng) for clause, pairs in every.items()})


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
