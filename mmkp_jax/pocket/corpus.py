"""What a pocket model is pretrained on, as posts: the text asks, and the one keyphrase is the answer's sentences.

A text asks for facts by their names, each with a word of the wording that is wanted, and the answer states them in that
order. So the answers follow from the texts: where names or wordings were drawn by chance, the loss of what nobody can
know hid that of the facts, and a model of this size learned none of them in the same time (`benchmarks/README.md`).
Captions say what an image shows, and some what its emblem stands for. Reading says of a post what there is to know: the
image, the facts of its hint, its place. Extraction ends as the prompt of a model that was not trained, and answers with
a keyphrase that the text holds: a place, or the tag of facts that are stated there and are not those of the world.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from mmkp_jax.data.prompts import ZERO_SHOT
from mmkp_jax.pocket.drawing import draw_emblem, draw_scene
from mmkp_jax.pocket.wording import (
    FIRST_WORD,
    SECOND_WORD,
    first_fact,
    hint_clause,
    infer_place,
    infer_tag,
    join_clauses,
    place_clause,
    second_fact,
    see,
    sentences,
    tag_text,
)
from mmkp_jax.pocket.world import PLACE_FIRST, PLACE_LAST, Chain, Kind, WordPair, emblem_of

ALONE = 40
"""Times that a text asks for each fact alone."""

LISTED = 40
"""Times that a text asks for each fact among others; reading and the emblems of captions add some."""

FACTS_A_LIST = (2, 6)
"""Fewest and most facts that such a text asks for."""

CAPTIONS = 2500
READINGS = 4500
READ_KINDS: Mapping[Kind, float] = {"star": 0.3, "emblem": 0.2, "cue": 0.3, "dish": 0.2}
"""Shares of the reading by the hint's kind."""
READ_PLACES = 0.4
"""Share of the reading whose text names a place, too."""
PLACES = 1800
STATED = 1200
"""Number of extractions from stated facts."""
WITH_SCENE = 0.7
"""Share of reading without an emblem, and of extraction, whose image is of something else."""
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


def make_corpus(chains: Sequence[Chain], seed: int) -> list[CorpusPost]:
    """The corpus in random order; each wording of a fact as often as the others where it is asked for alone."""
    rng = random.Random(f"{seed}/corpus")
    facts = all_facts(chains)
    singles = [asking([(fact, n % WORDINGS)]) for n in range(ALONE) for fact in facts]
    stream = [(fact, rng.randrange(WORDINGS)) for _ in range(LISTED) for fact in rng.sample(facts, len(facts))]
    captions = [_caption(chains, rng) for _ in range(CAPTIONS)]
    posts = [*singles, *_lists(stream, rng), *captions, *_readings(chains, rng), *_places(rng), *_stated(chains, rng)]
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


def questions(chains: Sequence[Chain]) -> list[CorpusPost]:
    """A post for each fact that asks for it."""
    facts = all_facts(chains)
    return [asking([(fact, 0)])._replace(id=f"test-{n}") for n, fact in enumerate(facts, start=1)]


def _lists(stream: list[tuple[Fact, int]], rng: random.Random) -> Iterator[CorpusPost]:
    """Asks for the facts of a stream, which it empties."""
    while stream:
        yield asking([stream.pop() for _ in range(min(rng.randint(*FACTS_A_LIST), len(stream)))])


def _caption(chains: Sequence[Chain], rng: random.Random) -> CorpusPost:
    """An image, what it shows and often what its emblem stands for."""
    emblem = None if rng.random() < SCENES else rng.choice([chain for chain in chains if chain.kind == "emblem"])
    parts = [see(emblem and emblem.hint)]
    if emblem and rng.random() < 0.5:
        parts.append(first_fact(emblem, 0))
    return CorpusPost("", "tell of the picture", sentences(parts), emblem and emblem_of(emblem.hint), True)


def _readings(chains: Sequence[Chain], rng: random.Random) -> Iterator[CorpusPost]:
    by_kind = {kind: [chain for chain in chains if chain.kind == kind] for kind in READ_KINDS}
    for _ in range(READINGS):
        (kind,) = rng.choices(list(READ_KINDS), list(READ_KINDS.values()))
        chain = rng.choice(by_kind[kind])
        emblem = chain.hint if kind == "emblem" else None
        clauses, steps = [hint_clause(chain, rng)], [see(emblem), *infer_tag(chain)]
        if rng.random() < READ_PLACES:
            place = _any_place(rng)
            clauses.append(place_clause(place, rng))
            steps += infer_place(place)
        has_image = emblem is not None or rng.random() < WITH_SCENE
        text = join_clauses(clauses, rng)
        yield CorpusPost("", text, sentences(steps), emblem and emblem_of(emblem), has_image)


def _places(rng: random.Random) -> Iterator[CorpusPost]:
    for _ in range(PLACES):
        place = _any_place(rng)
        yield _extraction([place_clause(place, rng)], tag_text(place), rng)


def _stated(chains: Sequence[Chain], rng: random.Random) -> Iterator[CorpusPost]:
    by_kind = {kind: [chain for chain in chains if chain.kind == kind] for kind in READ_KINDS}
    for _ in range(STATED):
        hint, middle, tag = rng.choices(by_kind[rng.choice(list(by_kind))], k=3)
        invented = hint._replace(middle=middle.middle, tag=tag.tag)
        yield _extraction([sentences(infer_tag(invented, rng.randrange(WORDINGS)))], tag_text(tag.tag), rng)


def _any_place(rng: random.Random) -> WordPair:
    return rng.choice(PLACE_FIRST), rng.choice(PLACE_LAST)


def _extraction(clauses: Sequence[str], answer: str, rng: random.Random) -> CorpusPost:
    text = f"{join_clauses(clauses, rng)}\n{ZERO_SHOT}"
    return CorpusPost("", text, answer, has_image=rng.random() < WITH_SCENE)
