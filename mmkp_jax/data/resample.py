"""MMKP-V2's split: training posts with keyphrases of their own become test posts, so that more of test is unseen.

The paper's two rules, read literally, leave no overlap, while it reports one of 44.92%. So the second is inferred:
shared keyphrases are dropped from test, one after the other in a seeded random order, until few enough are left.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from mmkp_jax.data.posts import Post
from mmkp_jax.errors import InputError

RESAMPLING = ("seed", "target_overlap")
"""The settings of a resampled split: fields of its builder's config, and flags of `prepare`."""

Origin = Literal["train", "test"]
"""The split that a post was in before."""


class Dropped(NamedTuple):
    """A post that is no longer in either split."""

    post: Post
    origin: Origin
    keyphrase: str
    """The shared keyphrase, lower-cased, that it was dropped for; it may carry others too."""


class Provenance(NamedTuple):
    """Where the test posts came from, and which posts were dropped; all others remain training posts."""

    test: list[Origin]
    """The origin of each new test post, in their order."""
    dropped: list[Dropped]
    """The dropped posts, in the order in which they were dropped."""


def resample(
    train: Sequence[Post],
    test: Sequence[Post],
    target_overlap: float,
    seed: int,
    *,
    target_posts: int = 0,
) -> tuple[list[Post], list[Post], Provenance]:
    """Moves training posts to test, then drops test posts until the two share few keyphrases.

    1. Every training post that carries a keyphrase which no test post has becomes a test post.
    2. Test is then the test posts and, behind them, the moved ones, each in their order.
    3. The new training keyphrases, sorted and shuffled by `seed`, are gone through. Each drops the test posts that
       carry it, until the overlap is at most `target_overlap`, or test has at most `target_posts` posts.

    Keyphrases are compared in lower case, as for the groups seen and unseen. Posts are not changed.

    Args:
        target_overlap: share of the different test keyphrases that a training post carries, 0–1; 0.4528 in the paper.
        seed: seed of Python's `random.Random`.
        target_posts: number of test posts at which dropping stops; 0 for no such limit.

    Returns:
        The new training posts, the new test posts, and where these came from.

    Raises:
        InputError: the target is no share, or no post would be left in a split.
    """
    if not 0 <= target_overlap <= 1:
        raise InputError(f"it is {target_overlap}, not a share", "target_overlap", "give a number from 0 to 1")
    known = _all_keyphrases(test)
    stays = [_keyphrases(post) <= known for post in train]
    kept = [post for post, stay in zip(train, stays, strict=True) if stay]
    moved = [post for post, stay in zip(train, stays, strict=True) if not stay]
    pool = [*test, *moved]
    origins: list[Origin] = ["test"] * len(test) + ["train"] * len(moved)
    why = _drops([_keyphrases(post) for post in pool], _all_keyphrases(kept), target_overlap, seed, target_posts)
    left = [number for number in range(len(pool)) if number not in why]
    for split, posts in (("train", kept), ("test", left)):
        if not posts:
            raise InputError(
                f"of {len(train):,} training and {len(test):,} test posts, none would be left in {split!r}",
                "resampling",
                "give posts of which more share keyphrases, or a higher target_overlap",
            )
    dropped = [Dropped(pool[number], origins[number], keyphrase) for number, keyphrase in why.items()]
    return kept, [pool[number] for number in left], Provenance([origins[number] for number in left], dropped)


def overlap(train: Iterable[Post], test: Iterable[Post]) -> float:
    """The share of the different test keyphrases that a training post carries, 0–1; 0 without any."""
    known, found = _all_keyphrases(train), _all_keyphrases(test)
    return len(found & known) / max(len(found), 1)


def _drops(
    pool: list[frozenset[str]], train: set[str], target_overlap: float, seed: int, target_posts: int
) -> dict[int, str]:
    """The numbers of the posts that step 3 drops, each with the keyphrase that it is dropped for."""
    carriers: defaultdict[str, list[int]] = defaultdict(list)
    for number, keyphrases in enumerate(pool):
        for keyphrase in keyphrases:
            carriers[keyphrase].append(number)
    left = Counter({keyphrase: len(posts) for keyphrase, posts in carriers.items()})  # posts that carry it still
    shared = sum(keyphrase in train for keyphrase in left)
    dropped: dict[int, str] = {}
    order = sorted(train)
    random.Random(seed).shuffle(order)
    for keyphrase in order:
        if shared / max(len(left), 1) <= target_overlap or len(pool) - len(dropped) <= target_posts:
            break
        for number in carriers.get(keyphrase, ()):
            if number in dropped:
                continue
            dropped[number] = keyphrase
            for each in pool[number]:
                left[each] -= 1
                if not left[each]:
                    del left[each]
                    shared -= each in train
    return dropped


def _keyphrases(post: Post) -> frozenset[str]:
    return frozenset(each.lower() for each in post.keyphrases)


def _all_keyphrases(posts: Iterable[Post]) -> set[str]:
    return {each.lower() for post in posts for each in post.keyphrases}
