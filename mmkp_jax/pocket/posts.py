"""Writes pocket's posts: JSON Lines in the general form, their images, and the kind of each keyphrase."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from mmkp_jax.pocket.drawing import draw_emblem, draw_scene
from mmkp_jax.pocket.wording import PostFacts, choose_cues, write_chain, write_post_text
from mmkp_jax.pocket.world import (
    CLUB_OF_SHAPE,
    NEEDS,
    RGB_OF_COLOUR,
    TOPICS,
    Clause,
    Topic,
    WordPair,
    World,
    apportion,
)

SIZES: Mapping[str, int] = {"train": 2000, "valid": 200, "test": 400}
"""Posts of each split."""

WITHOUT_CHAIN = 0.04
"""Share of posts that have no chain of thought."""

WITHOUT_IMAGE = 0.05
"""Share of the posts without an emblem that have no image at all."""

_SHAPE_OF_CLUB = {club: shape for shape, club in CLUB_OF_SHAPE.items()}
T = TypeVar("T")


class PocketPost(NamedTuple):
    """A post of pocket, before its image is drawn."""

    id: str
    """The id, `{split}-{line, from 1}` as for CMKP."""
    text: str
    image: str | None
    keyphrases: list[str]
    cot: str | None
    needs: Mapping[str, str]
    """What each keyphrase needs to be found."""
    emblem: WordPair | None
    """Shape and colour of the emblem in the image; None for a landscape or no image."""

    def record(self) -> dict[str, Any]:
        """The post in the general form."""
        fields = self._asdict()
        return {name: fields[name] for name in ("id", "text", "image", "keyphrases", "cot")}


def make_posts(world: World, seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, list[PocketPost]]:
    """The posts of each split, no two with the same text.

    Training posts carry the world's seen keyphrases, some more often than others; those of the other splits carry
    seen and unseen ones evenly. If only the club matters, training images have colours that it is not seen with: their
    chains of thought name shape and colour, their keyphrases do not.
    """
    texts: set[str] = set()
    splits = {}
    for split, n in sizes.items():
        rng = random.Random(f"{seed}/{split}")
        facts = _make_facts(world, split == "train", n, rng)
        splits[split] = [_make_post(f"{split}-{i}", each, texts, rng) for i, each in enumerate(facts, start=1)]
    return splits


def draw_image(post: PocketPost, seed: int) -> Image.Image:
    """The image of a post."""
    rng = random.Random(f"{seed}/{post.id}/picture")
    return draw_emblem(*post.emblem, rng) if post.emblem else draw_scene(rng)


def write_posts(splits: Mapping[str, Sequence[PocketPost]], seed: int, out: Path) -> None:
    """Writes `posts/{split}.jsonl`, `images/` and `needs.jsonl` into `out`."""
    (out / "posts").mkdir(parents=True)
    (out / "images").mkdir()
    for split, posts in splits.items():
        _write_lines(out / "posts" / f"{split}.jsonl", [post.record() for post in posts])
        for post in posts:
            if post.image:
                draw_image(post, seed).save(out / "images" / post.image, quality=90)
    needs = [{"id": post.id, "needs": post.needs} for posts in splits.values() for post in posts]
    _write_lines(out / "needs.jsonl", needs)


def _make_facts(world: World, training: bool, n: int, rng: random.Random) -> list[PostFacts]:
    topics = deal(list(TOPICS), list(TOPICS.values()), n, rng)
    pairs = world.seen if training else world.every
    decks = {}
    for clause in NEEDS:
        options = rng.sample(pairs[clause], len(pairs[clause]))
        weights = [1 / (rank + 10) if training else 1.0 for rank in range(len(options))]
        decks[clause] = deal(options, weights, sum(clause in _dealt(topic) for topic in topics), rng)
    return [_draw_facts(topic, decks, pairs["fan"], rng) for topic in topics]


def _dealt(topic: Topic) -> Topic:
    """The clauses whose keyphrases are drawn freely; with a clash, the fan's club is that of the clash."""
    return tuple(clause for clause in topic if clause != "fan" or "clash" not in topic)


def _draw_facts(
    topic: Topic, decks: Mapping[Clause, list[WordPair]], teams: Sequence[WordPair], rng: random.Random
) -> PostFacts:
    drawn = {clause: decks[clause].pop() for clause in _dealt(topic)}
    emblem = None
    if "clash" in drawn:
        club = drawn["clash"][0]
        colours = [colour for colour, other in teams if other == club] if "fan" in topic else list(RGB_OF_COLOUR)
        emblem = (rng.choice(colours), club)
    if "fan" in topic:
        emblem = drawn.setdefault("fan", emblem)
    shown = emblem and (_SHAPE_OF_CLUB[emblem[1]], emblem[0])
    return PostFacts({clause: drawn[clause] for clause in topic}, shown, choose_cues(drawn, rng))


def _make_post(id: str, facts: PostFacts, texts: set[str], rng: random.Random) -> PocketPost:
    while (text := write_post_text(facts, rng)) in texts:
        pass
    texts.add(text)
    keyphrases = {" ".join(pair): NEEDS[clause] for clause, pair in facts.pairs.items()}
    lacks_image = facts.emblem is None and rng.random() < WITHOUT_IMAGE
    image = None if lacks_image else f"{id}.{rng.choice(('png', 'jpg'))}"
    chain = write_chain(facts, rng)
    cot = None if rng.random() < WITHOUT_CHAIN else chain
    return PocketPost(id, text, image, list(keyphrases), cot, keyphrases, facts.emblem)


def deal(options: Sequence[T], weights: Sequence[float], n: int, rng: random.Random) -> list[T]:
    """`n` options in random order, each as often as its weight says."""
    counts = apportion(weights, n)
    dealt = [option for option, count in zip(options, counts, strict=True) for _ in range(count)]
    rng.shuffle(dealt)
    return dealt


def _write_lines(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
