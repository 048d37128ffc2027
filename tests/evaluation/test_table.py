"""The table that people read."""

from mmkp_jax.evaluation.metric import METRICS, score
from mmkp_jax.evaluation.table import table
from tests.evaluation.shared import TextPost

POSTS = [TextPost("a dog", ("dog",)), TextPost("", ("bus", "cat"))]


def test_rows_are_groups_in_percent_with_their_n():
    lines = table(score(POSTS, ["dog", "bus"])).split("\n")
    assert lines[0].split() == ["group", "n", *(metric.upper() for metric in METRICS)]
    assert lines[1].split() == ["all", "2", "100.00", "75.00", "85.71", *["85.71"] * 3, "75.00", "100.00"]
    assert lines[2].split() == ["present", "1", *["100.00"] * 8]
    assert lines[4].split() == ["seen", *"–" * 9]
    assert lines[6:] == ["seen: no training keyphrases were given", "unseen: no training keyphrases were given"]
    assert len({len(line) for line in lines[:6]}) == 1


def test_baselines_stand_beside_the_model():
    train = {"dog", "bus", "cat"}
    model, baseline = (score(POSTS, lines, train) for lines in (["dog", "bus"], ["dog", "dog"]))
    lines = table(model, {"most frequent": baseline}).split("\n")
    assert lines[1].split()[:4] == ["all", "model", "2", "100.00"]
    assert lines[2].split()[:4] == ["most", "frequent", "2", "50.00"]
    assert lines[-1] == "unseen: no post has a keyphrase that is unseen"


def test_without_targets_every_group_says_so():
    lines = table(score([], [])).split("\n")
    assert lines[-1] == "unseen: no post has a keyphrase" and len(lines) == 11
