"""The published counts of CMKP's test split, from the real files."""

import numpy as np
import pytest

from mmkp_jax.evaluation.files import read_aligned, read_posts, read_train_keyphrases
from mmkp_jax.evaluation.metric import GROUPS, per_post, score
from tests.support.naive_metric import naive_scores
from tests.support.shared_folder import cmkp


@pytest.fixture(scope="module")
def posts():
    return read_posts(cmkp("tw_mm_s1/test_src.txt"))


@pytest.fixture(scope="module")
def train():
    return read_train_keyphrases(cmkp("tw_mm_s1/train_keyphrases.txt"))


def test_groups_have_the_published_sizes(posts, train):
    counts = per_post(posts, [""] * len(posts), train)
    on_posts = {group: np.count_nonzero(counts[group].targets_N) for group in GROUPS}
    assert on_posts | {"seen": None} == {"all": 5372, "present": 2320, "absent": 3441, "seen": None, "unseen": 74}
    share = counts["present"].targets_N.sum() / counts["all"].targets_N.sum()
    assert f"{share:.2%}" == "37.45%"
    assert len({k for post in posts for k in post.keyphrases} - train) == 68
    assert len(train) == 4261


def test_the_right_answers_score_one(posts, train):
    scores = score(posts, [post.keyphrases for post in posts], train)
    for group in GROUPS:
        assert scores[group]["p@1"] == scores[group]["f1@M"] == scores[group]["map@5"] == 1


def test_a_second_implementation_agrees_on_real_posts(posts, train):
    """Predictions: half of them the keyphrases of the post before, then a training keyphrase, then its own."""
    known = sorted(train)
    lines = [
        ";".join([*(before.keyphrases if number % 2 else ()), known[number % len(known)], *post.keyphrases[:1]])
        for number, (before, post) in enumerate(zip(posts[-1:] + posts[:-1], posts, strict=True))
    ]
    some = slice(0, 1000)
    ocr = read_aligned(cmkp("tw_mm_s1/test_ocr_final.txt"), len(posts))
    for words in (None, ocr[some]):
        ours, theirs = (f(posts[some], lines[some], train, words) for f in (score, naive_scores))
        for group in GROUPS:
            assert ours[group] == pytest.approx(theirs[group], abs=1e-12), group
