"""The table that people read."""

from mmkp_jax.evaluation.companions import MEASURES
from mmkp_jax.evaluation.metric import PROTOCOL, score, score_by_kind
from mmkp_jax.evaluation.table import answers_table, further_table, headline, main_metric, table
from tests.support.shared_folder import TextPost

POSTS = [TextPost("a dog", ("dog",)), TextPost("", ("bus", "cat"))]


def test_rows_are_groups_in_percent_with_their_n():
    lines = table(score(POSTS, ["dog", "bus"])).split("\n")
    assert lines[0].split() == ["group", "n", *(metric.upper() for metric in PROTOCOL)]
    assert lines[1].split() == ["all", "2", "100.00", "75.00", "85.71", *["85.71"] * 3, "75.00", "100.00"]
    assert lines[2].split() == ["present", "1", *["100.00"] * 8]
    assert lines[4].split() == ["seen", *"–" * 9]
    assert lines[6:] == ["seen: no training keyphrases were given", "unseen: no training keyphrases were given"]
    assert len({len(line) for line in lines[:6]}) == 1


def test_metrics_beyond_the_protocol_have_a_table_by_group_or_by_system():
    model, other = (score(POSTS, lines) for lines in (["dog", "bus"], ["x;dog", ""]))
    lines = [line.split() for line in further_table({"A": model}).split("\n")]
    assert lines[0] == ["group", "F1@O", "HIT@1", "HIT@3", "HIT@5"]
    assert lines[1] == ["all", "85.71", "100.00", "100.00", "100.00"] and lines[4] == ["seen", *"–" * 4]
    lines = [line.split() for line in further_table({"A": model, "B": other}).split("\n")]
    assert lines[0][0] == "all" and lines[2] == ["B", "0.00", "0.00", "50.00", "50.00"]


def test_a_measure_that_a_system_lacks_is_a_dash_and_one_that_all_lack_no_column():
    lines = answers_table({"A": {"words": 3.5, "repeats": 0.25}, "B": {"repeats": 0.5}}).split("\n")
    assert [line.split() for line in lines] == [
        ["answers", "words", "repeats"],
        ["A", "3.50", "25.00"],
        ["B", "–", "50.00"],
    ]
    assert answers_table({"A": {}}) == ""
    every = dict.fromkeys(MEASURES, 0.999)
    assert max(map(len, answers_table({"A": every | {"words": 1234.5}}).split("\n"))) <= 80


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
