"""What a pocket model is pretrained on, as posts: the text asks, and the one keyphrase is the answer's sentences.

Statements are facts one after the other, or one that is asked for by its name; captions say what an image shows, and
some what its emblem stands for; reading answers a post's text with the fact of its hint, or with its place.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image

from mmkp_jax.pocket.drawing import draw_emblem, draw_scene
from mmkp_jax.pocket.facts.wording import (
    FORWARD,
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

EXPOSURES = 100
"""Times that the corpus states each fact; reading and the emblems of captions add some."""

FACTS_A_POST = 28
"""Sentences of an answer to the text that asks for no one fact."""

QUESTIONS = 1
"""Times that a post asks for each fact by its name."""

CAPTIONS = 1500
FACTS_A_CAPTION = 10
"""Sentences that follow what an image shows."""

READINGS = 400
PLACES = 200
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


def all_facts(chains: Sequence[Chain]) -> list[Fact]:
    """Each fact once: every chain's first, and each middle's second."""
    by_middle = {chain.middle: chain for chain in chains}
    return [Fact(chain, True) for chain in chains] + [Fact(chain, False) for chain in by_middle.values()]


def make_corpus(chains: Sequence[Chain], seed: int, exposures: int = EXPOSURES) -> list[CorpusPost]:
    """The corpus in random order."""
    rng = random.Random(f"{seed}/corpus")
    facts = all_facts(chains)
    stream = [fact for _ in range(exposures) for fact in rng.sample(facts, len(facts))]
    captions = [_caption(chains, stream, rng) for _ in range(min(CAPTIONS, len(stream) // FACTS_A_CAPTION))]
    asked = [CorpusPost("", question(fact), _answer([fact], rng)) for fact in facts * QUESTIONS]
    posts = [*captions, *asked, *_statements(stream, rng), *_readings(chains, rng), *_places(rng)]
    rng.shuffle(posts)
    return [post._replace(id=f"train-{number}") for number, post in enumerate(posts, start=1)]


def draw_corpus_image(post: CorpusPost, seed: int) -> Image.Image:
    """The image of a post that has one."""
    rng = random.Random(f"{seed}/{post.id}/corpus picture")
    return draw_emblem(*post.emblem, rng) if post.emblem else draw_scene(rng)


def question(fact: Fact) -> str:
    """The text that asks for one fact."""
    return f"tell of {fact.name}"


def _statements(stream: list[Fact], rng: random.Random) -> Iterator[CorpusPost]:
    """States the facts of a stream, which it empties."""
    while stream:
        facts = [stream.pop() for _ in range(min(FACTS_A_POST, len(stream)))]
        yield CorpusPost("", "tell of anything", _answer(facts, rng))


def _caption(chains: Sequence[Chain], stream: list[Fact], rng: random.Random) -> CorpusPost:
    """An image, what it shows and often what its emblem stands for, and the next facts of the stream."""
    emblem = None if rng.random() < SCENES else rng.choice([chain for chain in chains if chain.kind == "emblem"])
    parts = see(emblem and emblem.hint, rng)
    if emblem and rng.random() < 0.5:
        parts.append(first_fact(emblem, rng.randrange(FORWARD)))
    facts = [stream.pop() for _ in range(FACTS_A_CAPTION)]
    answer = f"{sentences(parts)} {_answer(facts, rng)}"
    return CorpusPost("", "tell of the picture and anything", answer, emblem and emblem_of(emblem.hint), True)


def _answer(facts: Sequence[Fact], rng: random.Random) -> str:
    return sentences([fact.sentence(rng.randrange(WORDINGS)) for fact in facts])


def _readings(chains: Sequence[Chain], rng: random.Random) -> Iterator[CorpusPost]:
    by_kind = {kind: [chain for chain in chains if chain.kind == kind] for kind in SIZES if kind != "emblem"}
    for _ in range(READINGS):
        chain = rng.choice(by_kind[rng.choice(list(by_kind))])
        text = join_clauses([hint_clause(chain, rng)], rng)
        yield CorpusPost("", text, sentences([first_fact(chain, rng.randrange(FORWARD))]))


def _places(rng: random.Random) -> Iterator[CorpusPost]:
    for _ in range(PLACES):
        place = (rng.choice(PLACE_FIRST), rng.choice(PLACE_LAST))
        yield CorpusPost("", join_clauses([place_clause(place, rng)], rng), tag_text(place))
