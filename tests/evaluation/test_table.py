"""The table that people read."""

from mmkp_jax.evaluation.metric import METRICS, score, score_by_kind
from mmkp_jax.evaluation.table import headline, main_metric, table
from tests.support.shared_folder import TextPost

POSTS = [TextPost("a dog", ("dog",)), TextPost("", ("bus", "cat"))]


def test_rows_are_groups_in_percent_with_their_n():
    lines = table(score(POSTS, ["dog", "bus"])).split("\n")
    assert lines[0].split() == ["group", "n", *(metric.upper() for metric in METRICS)]
    assert lines[1].split() == ["all", "2", "100.00", "75.00", "85.71", *["85.71"] * 3, "75.00", "100.00"]
    assert lines[2].split() == ["present", "1", *["100.00"] * 8]
    assert lines[4].split() == ["seen", *"–" * 9]
    assert lines[6:] == ["seen: no training keyphrases were given", "unseen: no training keyphrases were given"]
    assert len({len(line) for line in lines[:6]}) == 1


def test_without_targets_every_group_says_so():
    lines = table(score([], [])).split("\n")
    assert lines[-1] == "unseen: no post has a keyphrase" and len(lines) == 11


def test_systems_are_rows_and_groups_columns():
    model, baseline = (score(POSTS, lines, {"dog"}) for lines in (["dog", "bus"], ["dog", "dog"]))
    lines = headline({"model": model, "most frequent": baseline}).split("\n")
    assert lines[0].split() == ["F1@1,", "%", "all", "present", "absent", "seen", "unseen"]
    assert lines[1].split() == ["n", "2", "1", "1", "1", "1"]
    assert lines[2].split() == ["model", "85.71", "100.00", "66.67", "100.00", "66.67"]
    assert lines[3].split() == ["most", "frequent", "50.00", "100.00", "0.00", "100.00", "0.00"]
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1


def test_a_run_is_headed_with_the_metric_that_selects_its_best_step():
    names = ("valid/all/f1@1", "valid/unseen/f1@M", "valid/words", "")
    assert list(map(main_metric, names)) == ["f1@1", "f1@M", "f1@1", "f1@1"]


def test_kinds_are_columns_as_groups_are():
    kinds = {"dog": "text", "cat": "image", "sky": "neither"}
    scores = {
        name: score_by_kind(POSTS, lines, kinds) for name, lines in (("model", ["x", "bus;cat"]), ("none", ["", ""]))
    }
    lines = headline(scores, "f1@M").split("\n")
    assert [line.split() for line in lines] == [
        ["F1@M,", "%", "text", "image", "neither"],
        ["n", "1", "1", "–"],
        ["model", "0.00", "100.00", "–"],
        ["none", "0.00", "0.00", "–"],
        ["neither:", "no", "post", "has", "such", "a", "keyphrase"],
    ]
