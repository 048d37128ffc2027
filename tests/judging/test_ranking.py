import itertools
from collections import Counter

import numpy as np
import pytest

from mmkp_jax.data.numbered import records_of
from mmkp_jax.judging.ranking import CRITERIA, Study, Unreadable, average_ties, balanced_orders, read_better, read_ranks
from mmkp_jax.teacher.endpoint import Endpoint
from tests.support.teacher_posts import text_posts


@pytest.mark.parametrize("systems", [1, 2, 3, 4, 5, 6, 7])
def test_orders_are_balanced(systems):
    rows = balanced_orders(systems)
    assert all(sorted(row) == list(range(systems)) for row in rows)
    places = Counter((place, each) for row in rows for place, each in enumerate(row))
    assert set(places.values()) == {len(rows) // systems}
    follows = Counter(pair for row in rows for pair in itertools.pairwise(row))
    assert len(follows) == systems * (systems - 1) and len(set(follows.values())) <= 1


def test_what_the_judge_sees_is_anonymous_and_blind_to_length():
    systems = {"ours": [["snow", "Snow day", "snow"]] * 4, "theirs": [[]] * 4}
    study = Study(records_of(text_posts(4), None), systems, Endpoint("http://h/v1", "m"), orders=2, pairs=2)
    said = [study.question_of()(n).messages()[-1]["content"] for n in range(study.questions)]
    assert len(said) == 12 and not any("ours" in each or "theirs" in each or "key 0" in each for each in said)
    assert "A: snow; Snow day\nB: (none)\n" in said[0] and "A: (none)\nB: snow; Snow day\n" in said[1]
    pairs = [study.order(n) for n in range(8, 12)]
    assert [order for _, order in pairs] == [[1, 0], [0, 1]] * 2
    assert pairs[0][0] == pairs[1][0] != pairs[2][0] == pairs[3][0]


def test_pairs_are_sampled_from_posts_whose_lists_differ():
    lists = {"a": [["x", "y"]] * 6, "b": [["y", "x"]] * 3 + [["z"]] * 3, "c": [["x", "y", "x "]] * 5 + [["z"]]}
    study = Study(records_of(text_posts(6), None), lists, Endpoint("http://h/v1", "m"), pairs=50)
    assert {couple for post, couple in study.compared} <= {(1, 0), (2, 0), (2, 1)}
    assert {post for post, _ in study.compared} == {3, 4, 5} and study.questions == 12 + 6
    assert all(
        set(map(str.strip, lists["abc"[a]][post])) != set(lists["abc"[b]][post]) for post, (a, b) in study.compared
    )
    fewer = Study(records_of(text_posts(6), None), lists, Endpoint("http://h/v1", "m"), pairs=2)
    assert fewer.compared == study.compared[:2]


def answer(**ranks):
    return str({name: ranks for name in CRITERIA}).replace("'", '"')


def test_ranks_are_read_whatever_surrounds_them():
    answer_text = f"Sure:\n```json\n{answer(A=1, B=3, C=1)}\n```"
    assert read_ranks(answer_text, 3).tolist() == [[1, 3, 1]] * 3
    assert average_ties(read_ranks(answer_text, 3)).tolist() == [[1.5, 3, 1.5]] * 3


@pytest.mark.parametrize(
    "answer_text",
    [
        "A is the best",
        answer(A=1, B=2),
        answer(A=1, B=2, C=3, D=4),
        answer(A=0, B=1, C=2),
        answer(A=1, B=2, C=4),
        answer(A=1, B=2, C=True),
        '{"correctness": {"A": 1, "B": 2, "C": 3}}',
        '{"correctness": [1, 2, 3]}',
        "",
    ],
)
def test_an_answer_without_ranks_is_unreadable(answer_text):
    with pytest.raises(Unreadable):
        read_ranks(answer_text.replace("True", "true"), 3)


def test_the_better_of_two_lists_is_read():
    assert [read_better(f'{{"better": "{each}"}}') for each in ("A", "B", "tie")] == [0, 1, None]
    with pytest.raises(Unreadable):
        read_better('{"better": "both"}')


def test_ties_share_the_mean_of_their_positions():
    assert average_ties(np.array([[1.0, 1, 1], [2, 1, 2]])).tolist() == [[2, 2, 2], [2.5, 1, 2.5]]
