"""What a pocket model is pretrained on, as posts: the text asks, and the one keyphrase is the answer's sentences.

A text asks for facts by their names, each with a word of the wording that is wanted, and the answer states them in that
order. So the answers follow from the texts: where names or wordings were drawn by chance, the loss of what nobody can
know hid that of the facts, and a model of this size learned none of them in the same time (`benchmarks/README.md`).
Captions say what an image shows, and some what its emblem stands for; reading answers a post's text with the fact of
its hint, or with its place.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image

from mmkp_jax.data.prompts import ZERO_SHOT
from mmkp_jax.pocket.drawing import draw_emblem, draw_scene
from mmkp_jax.pocket.facts.wording import (
    FIRST_WORD,
    FORWARD,
    SECOND_WORD,
    first_fact,
    hint_clause,
    join_clauses,
    place_clause,
    second_fact,
    see,
    sentences,
    tag_text,
)
from mmkp_jax.pocket.facts.world import SIZES, Chain, emblem_of
from mmkp_jax.pocket.world import PLACE_FIRST, PLACE_LAST, WordPair

ALONE = 40
"""Times that a text asks for each fact alone."""

LISTED = 40
"""Times that a text asks for each fact among others; reading and the emblems of captions add some."""

FACTS_A_LIST = (2, 6)
"""Fewest and most facts that such a text asks for."""

CAPTIONS = 2500
READINGS = 1500
PLACES = 3000
ASKED_FOR_A_FORM = 0.5
"""Share of the reading whose text ends as the prompt of a model that was not trained does."""
WITH_SCENE = 0.7
"""Share of the reading with an image, of which it is not about."""
SCENES = 0.15
"""Share of captions whose image has no emblem."""

WORDINGS = 5


class CorpusPost(NamedTuple):
    """A post of the corpus, before its image is drawn."""

    id: str
    text: str
    answer: str
    emblem: WordPair | None = None
    """Shape and colour of the emblem in the image."""
    has_image: bool = False

    def record(self) -> dict[str, Any]:
        """The post in the general form."""
        image = f"{self.id}.png" if self.has_image else None
        return {"id": self.id, "text": self.text, "image": image, "keyphrases": [self.answer], "cot": None}


class Fact(NamedTuple):
    """One of a chain's two facts."""

    chain: Chain
    is_first: bool

    @property
    def name(self) -> str:
        """What the fact is about."""
        return self.chain.hint if self.is_first else self.chain.middle

    @property
    def answer(self) -> str:
        """What the fact says about it."""
        return self.chain.middle if self.is_first else tag_text(self.chain.tag)

    def sentence(self, wording: int) -> str:
        """The fact in one of its five wordings."""
        return (first_fact if self.is_first else second_fact)(self.chain, wording)

    def word(self, wording: int) -> str:
        """The word by which a text asks for that wording."""
        return (FIRST_WORD if self.is_first else SECOND_WORD)[self.chain.kind][wording]


def all_facts(chains: Sequence[Chain]) -> list[Fact]:
    """Each fact once: every chain's first, and each middle's second."""
    by_middle = {chain.middle: chain for chain in chains}
    return [Fact(chain, True) for chain in chains] + [Fact(chain, False) for chain in by_middle.values()]


def make_corpus(chains: Sequence[Chain], seed: int, alone: int = ALONE, listed: int = LISTED) -> list[CorpusPost]:
    """The corpus in random order.

    Args:
        alone: see `ALONE`; each wording as often as the others.
        listed: see `LISTED`.
    """
    rng = random.Random(f"{seed}/corpus")
    facts = all_facts(chains)
    singles = [asking([(fact, n % WORDINGS)]) for n in range(alone) for fact in facts]
    stream = [(fact, rng.randrange(WORDINGS)) for _ in range(listed) for fact in rng.sample(facts, len(facts))]
    captions = [_caption(chains, rng) for _ in range(CAPTIONS)]
    posts = [*singles, *_lists(stream, rng), *captions, *_readings(chains, rng), *_places(rng)]
    rng.shuffle(posts)
    return [post._replace(id=f"train-{number}") for number, post in enumerate(posts, start=1)]


def draw_corpus_image(post: CorpusPost, seed: int) -> Image.Image:
    """The image of a post that has one."""
    rng = random.Random(f"{seed}/{post.id}/corpus picture")
    return draw_emblem(*post.emblem, rng) if post.emblem else draw_scene(rng)


def asking(facts: Sequence[tuple[Fact, int]]) -> CorpusPost:
    """The post, without its number, whose text asks for facts in these wordings, and whose answer states them."""
    text = "tell " + " , ".join(f"{fact.word(wording)} {fact.name}" for fact, wording in facts)
    return CorpusPost("", text, sentences([fact.sentence(wording) for fact, wording in facts]))


def _lists(stream: list[tuple[Fact, int]], rng: random.Random) -> Iterator[CorpusPost]:
    """Asks for the facts of a stream, which it empties."""
    while stream:
        yield asking([stream.pop() for _ in range(min(rng.randint(*FACTS_A_LIST), len(stream)))])


def _caption(chains: Sequence[Chain], rng: random.Random) -> CorpusPost:
    """An image, what it shows and often what its emblem stands for."""
    emblem = None if rng.random() < SCENES else rng.choice([chain for chain in chains if chain.kind == "emblem"])
    parts = see(emblem and emblem.hint, rng)
    if emblem and rng.random() < 0.5:
        parts.append(first_fact(emblem, rng.randrange(FORWARD)))
    return CorpusPost("", "tell of the picture", sentences(parts), emblem and emblem_of(emblem.hint), True)


def _readings(chains: Sequence[Chain], rng: random.Random) -> Iterator[CorpusPost]:
    by_kind = {kind: [chain for chain in chains if chain.kind == kind] for kind in SIZES if kind != "emblem"}
    for _ in range(READINGS):
        chain = rng.choice(by_kind[rng.choice(list(by_kind))])
        yield _read([hint_clause(chain, rng)], sentences([first_fact(chain, rng.randrange(FORWARD))]), rng)


def _places(rng: random.Random) -> Iterator[CorpusPost]:
    for _ in range(PLACES):
        place = (rng.choice(PLACE_FIRST), rng.choice(PLACE_LAST))
        yield _read([place_clause(place, rng)], tag_text(place), rng)


def _read(clauses: Sequence[str], answer: str, rng: random.Random) -> CorpusPost:
    text = join_clauses(clauses, rng)
    return CorpusPost(
        "",
        f"{text}\n{ZERO_SHOT}" if rng.random() < ASKED_FOR_A_FORM else text,
        answer,
        has_image=rng.random() < WITH_SCENE,
    )
