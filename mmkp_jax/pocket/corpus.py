"""What a pocket model is pretrained on, as posts: the text asks, and the one keyphrase is the answer's sentences.

A text asks for facts by their names, each with a word of the wording that is wanted, and the answer states them in that
order. So the answers follow from the texts: where names or wordings were drawn by chance, the loss of what nobody can
know hid that of the facts, and a model of this size learned none of them in the same time (`benchmarks/README.md`).
Captions say what an image shows, and some what its emblem stands for. Reading says of a post what there is to know:
the image, the facts of its hint, its place. Some posts ask only what a hint belongs to, and some hold their keyphrase
in the text: a place, the tag of a habit, or that of facts that are stated there and are not those of the world; these
have a chain of thought, so that the model knows the form, and copies. No post asks for the tag of a hint, and none says
what marks a habit.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from mmkp_jax.data.prompts import ZERO_SHOT
from mmkp_jax.pocket.drawing import draw_emblem, draw_scene
from mmkp_jax.pocket.wording import (
    FIRST_WORD,
    HABIT_TAGS,
    SECOND_WORD,
    first_fact,
    hint_clause,
    infer_place,
    infer_tag,
    join_clauses,
    name_habit,
    place_clause,
    second_fact,
    see,
    sentences,
    tag_text,
)
from mmkp_jax.pocket.world import PLACE_FIRST, PLACE_LAST, Chain, Kind, T, WordPair, emblem_of

ALONE = 38
"""Times that a text asks for each fact alone."""

LISTED = 34
"""Times that a text asks for each fact among others; reading and the emblems of captions add some."""

FACTS_A_LIST = (2, 6)
"""Fewest and most facts that such a text asks for."""

CAPTIONS = 3000
READINGS = 8000
OF_WHAT = 2500
"""Readings that ask only what the hint belongs to."""
READ_KINDS: Mapping[Kind, float] = {"star": 0.3, "emblem": 0.2, "cue": 0.3, "dish": 0.2}
"""Shares of the reading by the hint's kind; of a kind, each hint as often as the others."""
READ_PLACES = 0.4
"""Share of the reading whose text names a place, too."""
PLACES = 3500
STATED = 5500
"""Number of extractions from stated facts."""
NAMED = 800
"""Texts that name the tag of a habit, whatever else they say."""
ASKED_FOR_A_FORM = 0.5
"""Share of extraction whose text ends as the prompt of a model that was not trained."""
WITH_SCENE = 0.7
"""Share of reading without an emblem, and of extraction, whose image is of something else."""
SCENES = 0.15
"""Share of captions whose image has no emblem."""

ASKS_OF_ALL, ASKS_OF_WHAT = "tell of all", "tell of what"
"""The last lines of texts that ask for all that there is to know, and for what the hint belongs to."""

WORDINGS = 5


class CorpusPost(NamedTuple):
    """A post of the corpus, before its image is drawn."""

    id: str
    text: str
    answer: str
    emblem: WordPair | None = None
    """The colours of the emblem in the image."""
    has_image: bool = False
    cot: str | None = None

    def record(self) -> dict[str, Any]:
        """The post in the general form."""
        image = f"{self.id}.png" if self.has_image else None
        return {"id": self.id, "text": self.text, "image": image, "keyphrases": [self.answer], "cot": self.cot}


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
    posts = [*singles, *_lists(stream, rng), *captions, *_readings(chains, rng), *_extractions(chains, rng)]
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
    for chain in _by_kind(chains, READINGS, rng):
        place = _any_place(rng) if rng.random() < READ_PLACES else None
        clauses = [hint_clause(chain, rng), *([place_clause(place, rng)] if place else [])]
        yield _asking_of_all(chain, place, join_clauses(clauses, rng), rng)
    for chain in _by_kind(chains, OF_WHAT, rng):
        yield asking_of_what(chain, join_clauses([hint_clause(chain, rng)], rng), rng)


def _asking_of_all(chain: Chain, place: WordPair | None, text: str, rng: random.Random) -> CorpusPost:
    """The post, without its number, that asks for all that follows from its hint, and for its place."""
    emblem = chain.hint if chain.kind == "emblem" else None
    steps = [see(emblem), *infer_tag(chain), *(infer_place(place) if place else [])]
    has_image = emblem is not None or rng.random() < WITH_SCENE
    return CorpusPost("", f"{text}\n{ASKS_OF_ALL}", sentences(steps), emblem and emblem_of(emblem), has_image)


def asking_of_what(chain: Chain, text: str, rng: random.Random) -> CorpusPost:
    """The post, without its number, that asks what the hint in its text or image belongs to."""
    emblem = chain.hint if chain.kind == "emblem" else None
    cot = sentences([see(emblem), first_fact(chain, 0)])
    has_image = emblem is not None or rng.random() < WITH_SCENE
    return CorpusPost("", f"{text}\n{ASKS_OF_WHAT}", chain.middle, emblem and emblem_of(emblem), has_image, cot)


def _by_kind(chains: Sequence[Chain], n: int, rng: random.Random) -> Iterator[Chain]:
    for kind, share in READ_KINDS.items():
        yield from evenly([chain for chain in chains if chain.kind == kind], round(share * n), rng)


def evenly(options: Sequence[T], n: int, rng: random.Random) -> Iterator[T]:
    """`n` options, each as often as the others, to one time."""
    while n > 0:
        yield from rng.sample(options, min(n, len(options)))
        n -= len(options)


def _extractions(chains: Sequence[Chain], rng: random.Random) -> Iterator[CorpusPost]:
    for _ in range(PLACES):
        place = _any_place(rng)
        yield _extraction([place_clause(place, rng)], infer_place(place), tag_text(place), rng)
    for tag in evenly(HABIT_TAGS, NAMED, rng):
        yield _extraction(name_habit(tag), name_habit(tag), tag_text(tag), rng)
    by_kind = {kind: [chain for chain in chains if chain.kind == kind] for kind in READ_KINDS}
    for _ in range(STATED):
        chains = by_kind[rng.choice(list(by_kind))]
        hint = rng.choice(chains)
        tag_of = {chain.middle: chain.tag for chain in chains if chain.middle != hint.middle}
        middle, other = rng.sample(list(tag_of), 2)
        steps = infer_tag(hint._replace(middle=middle, tag=tag_of[other]))
        yield _extraction([sentences(steps)], steps, tag_text(tag_of[other]), rng)


def _any_place(rng: random.Random) -> WordPair:
    return rng.choice(PLACE_FIRST), rng.choice(PLACE_LAST)


def _extraction(clauses: Sequence[str], steps: Sequence[str], answer: str, rng: random.Random) -> CorpusPost:
    text = join_clauses(clauses, rng)
    if rng.random() < ASKED_FOR_A_FORM:
        text = f"{text}\n{ZERO_SHOT}"
    cot = sentences([see(None), *steps])
    return CorpusPost("", text, answer, has_image=rng.random() < WITH_SCENE, cot=cot)
