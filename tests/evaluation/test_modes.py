"""The modes of a model: cases by hand, and every measure against a second, naive implementation."""

import json
import random

import numpy as np
import pytest

from mmkp_jax.data.posts import Post
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.metric import METRICS, score
from mmkp_jax.evaluation.modes import COLUMNS, measure_modes, modes_as_json, oracle, post_scores
from mmkp_jax.evaluation.outputs import begins_with_thought
from mmkp_jax.evaluation.systems import read_system
from mmkp_jax.pages.modes import modes_table
from mmkp_jax.pages.tables import as_text
from mmkp_jax.score import main

WORDS = ["cat", "dog", "bus", "sun"]
POSTS = [
    Post("a", "a cat", None, ("cat",)),  # both right
    Post("b", "a dog", None, ("dog",)),  # only with a chain
    Post("c", "a bus", None, ("bus", "sun")),  # only without
    Post("d", "a sun", None, ("sun",)),  # neither
]
SEEN = {"cat", "dog"}


def thought(answer: str, words: int = 3) -> str:
    return f"<think>{'so ' * words}</think><answer>{answer}</answer>"


def rows_of(outputs, mode, p_think=None):
    rows = []
    for post, output in zip(POSTS, outputs, strict=True):
        answer = output.split("<answer>")[-1].removesuffix("</answer>")
        row = {"id": post.id, "predicted": [each for each in answer.split("; ") if each], "output": output}
        row |= {"mode": mode} if mode != "auto" else {}
        rows.append(row | ({} if p_think is None else {"think": p_think[len(rows)]}))
    return rows


DIRECT = ["cat", "cat", "bus", "cat"]
THINK = [thought("cat"), thought("dog"), thought("cat"), thought("bus; cat; dog")]
AUTO = [DIRECT[0], THINK[1], THINK[2], DIRECT[3]]  # right, right, wrong, and the shorter of equal ones


@pytest.fixture
def write(tmp_path):
    def written(name, rows):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return written


@pytest.fixture
def files(write):
    return {
        "direct": write("direct.jsonl", rows_of(DIRECT, "direct")),
        "think": write("think.jsonl", rows_of(THINK, "think")),
        "auto": write("auto.jsonl", rows_of(AUTO, "auto", [0.25, 0.75, 1.0, 0.0])),
    }


def systems(files, posts=POSTS, seen=SEEN):
    return {mode: read_system([file], posts, seen, None) for mode, file in files.items()}


def test_modes_of_four_posts_by_hand(files):
    found = measure_modes(systems(files))
    every = found["all"]
    recall = {"direct": (1 + 0 + 0.5 + 0) / 4, "think": (1 + 1 + 0 + 0) / 4, "auto": (1 + 1 + 0 + 0) / 4}
    precision = {"direct": 2 / 4, "think": 2 / 4, "auto": 2 / 4}
    for mode in recall:
        expected = 2 * precision[mode] * recall[mode] / (precision[mode] + recall[mode])
        assert every.scores[mode]["f1@1"] == pytest.approx(expected)
    p, r = 3 / 4, (1 + 1 + 0.5) / 4
    assert every.scores["oracle"]["f1@1"] == pytest.approx(2 * p * r / (p + r))
    assert (every.n, every.best, every.gain) == (4, "think", None)
    choice = every.choice
    assert (choice.hybrid_accuracy, choice.differ, choice.right) == (3 / 4, 2 / 4, 1 / 2)
    assert (choice.thinks, choice.p_think) == (2 / 4, 0.5)
    assert every.words == {"direct": 1, "think": 4.5, "auto": (1 + 4 + 4 + 1) / 4}
    seen = found["seen"]  # the first two posts
    assert (seen.n, seen.choice.hybrid_accuracy, seen.choice.right, seen.choice.p_think) == (2, 1, 1, 0.5)
    unseen = found["unseen"]  # c and d
    assert (unseen.n, *unseen.choice[:4]) == (2, 0.5, 0.5, 0, 0.5)


def test_what_was_not_measured_is_absent(files, write):
    files["auto"] = write("plain.jsonl", rows_of(AUTO, "auto"))
    found = measure_modes(systems(files, seen=None))
    assert found["seen"] is None and found["all"].choice.p_think is None
    assert "p_think" not in modes_as_json(found)["all"] and "gain" not in modes_as_json(found)["all"]
    files["auto"] = write("one.jsonl", rows_of(AUTO, "auto", [0.25, None, None, None]))
    assert measure_modes(systems(files))["all"].choice.p_think == 0.25
    same = {"direct": files["direct"], "think": write("t.jsonl", rows_of(DIRECT, "think")), "auto": files["auto"]}
    choice = measure_modes(systems(same))["all"].choice
    assert (choice.differ, choice.right) == (0, None)
    assert choice.hybrid_accuracy == 0.5  # of equal ones with as many words, the direct one


def random_case(seed):
    """Random posts and outputs of the three modes, some broken, some with a post of no target in a group."""
    rng = random.Random(seed)
    words = [f"w{n}" for n in range(7)]
    posts = [
        Post(str(n), " ".join(rng.sample(words, 3)), None, tuple(rng.sample(words, rng.randint(1, 3))))
        for n in range(25)
    ]
    outputs = {}
    for mode in ("direct", "think"):
        for post in posts:
            said = "; ".join(rng.choices(words, k=rng.randint(0, 6)))
            outputs[mode, post.id] = said if mode == "direct" else thought(said, rng.randint(0, 2))
    for post in posts:
        outputs["auto", post.id] = outputs[rng.choice(["direct", "think"]), post.id]
    return posts, outputs, {words[n] for n in range(4)}, [rng.random() for _ in posts]


def naive(posts, predicted, outputs, seen, p_think, group):
    """The measures of a group, post by post with `score` alone."""

    def own(post, phrases, metric="f1@1"):
        found = score([post], [phrases or [""]], seen)[group]
        return None if found is None else found[metric]

    inside = [n for n, post in enumerate(posts) if own(post, predicted["direct"][n]) is not None]
    found = {"n": len(inside), "scores": {}, "words": {}}
    for mode in ("direct", "think", "auto"):
        found["scores"][mode] = score(posts, [each or [""] for each in predicted[mode]], seen)[group]
        found["words"][mode] = np.mean([len(outputs[mode, posts[n].id].split()) for n in inside])
    found["scores"]["oracle"] = {}
    for metric in METRICS:
        taken = []
        for n, post in enumerate(posts):
            pair = [own(post, predicted[mode][n], metric) or 0 for mode in ("direct", "think")]
            taken.append(predicted["think" if pair[1] > pair[0] else "direct"][n] or [""])
        found["scores"]["oracle"][metric] = score(posts, taken, seen)[group][metric]
    hits, differ, right_of = 0, 0, 0
    for n in inside:
        d, t = (own(posts[n], predicted[mode][n]) for mode in ("direct", "think"))
        d_words, t_words = (len(outputs[mode, posts[n].id].split()) for mode in ("direct", "think"))
        thinks = outputs["auto", posts[n].id].startswith("<think>")
        better = "think" if t > d or (t == d and t_words < d_words) else "direct"
        hits += thinks == (better == "think")
        differ += d != t
        right_of += d != t and thinks == (t > d)
    thinking = [outputs["auto", posts[n].id].startswith("<think>") for n in inside]
    found["choice"] = hits / len(inside), differ / len(inside), right_of / differ, np.mean(thinking)
    found["p_think"] = np.mean([p_think[n] for n in inside])
    return found


@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_a_naive_implementation(write, seed):
    posts, outputs, seen, p_think = random_case(seed)
    predicted, files = {}, {}
    for mode in ("direct", "think", "auto"):
        rows = []
        for n, post in enumerate(posts):
            output = outputs[mode, post.id]
            said = output.split("<answer>")[-1].removesuffix("</answer>")
            rows.append(
                {"id": post.id, "output": output, "predicted": [x for x in said.split("; ") if x], "mode": mode}
            )
            rows[-1] |= {"think": p_think[n]}
        predicted[mode] = [row["predicted"] for row in rows]
        files[mode] = write(f"{mode}.jsonl", rows)
    found = measure_modes(systems(files, posts, seen))
    for group in ("all", "present", "absent", "seen", "unseen"):
        expected = naive(posts, predicted, outputs, seen, p_think, group)
        assert found[group].n == expected["n"]
        for column in COLUMNS:
            for metric in METRICS:
                assert found[group].scores[column][metric] == pytest.approx(expected["scores"][column][metric]), metric
        assert found[group].choice[:4] == pytest.approx(expected["choice"])
        assert found[group].choice.p_think == pytest.approx(expected["p_think"])
        assert found[group].words == pytest.approx(expected["words"])


def test_a_posts_score_alone_is_that_of_the_metric(files):
    system = systems(files)["think"]
    for metric in METRICS:
        alone = post_scores(system.runs[0]["all"], metric)
        for n, post in enumerate(POSTS):
            assert alone[n] == pytest.approx(score([post], [system.predicted[0].predictions[n]])["all"][metric])


def test_the_oracle_is_never_worse_than_a_single_mode_and_its_gain_has_an_interval(files):
    by_mode = systems(files)
    found = measure_modes(by_mode, resamples=200)["all"]
    assert found.gain.delta == pytest.approx(found.scores["oracle"]["f1@1"] - found.scores["think"]["f1@1"])
    assert 0 <= found.gain.low <= found.gain.delta <= found.gain.high
    taken = oracle(by_mode["direct"].runs[0], by_mode["think"].runs[0])["all"]
    assert taken.hits_NK[:, 0].tolist() == [1, 1, 1, 0]


def test_several_runs_are_a_mean(files, write):
    other = {
        "direct": write("d2.jsonl", rows_of(["", "", "", ""], "direct")),
        "think": write("t2.jsonl", rows_of(THINK, "think")),
        "auto": write("a2.jsonl", rows_of(THINK, "auto", [1.0] * 4)),
    }
    one, two = (measure_modes(systems(each))["all"] for each in (files, other))
    both = measure_modes({mode: read_system([files[mode], other[mode]], POSTS, SEEN, None) for mode in files})["all"]
    for column in COLUMNS:
        assert both.scores[column]["f1@1"] == pytest.approx(
            (one.scores[column]["f1@1"] + two.scores[column]["f1@1"]) / 2
        )
    assert both.choice.thinks == 0.75 and both.choice.p_think == 0.75
    other["auto"] = write("a3.jsonl", rows_of(THINK, "auto"))  # one run's number is not the mean of two
    both = measure_modes({mode: read_system([files[mode], other[mode]], POSTS, SEEN, None) for mode in files})["all"]
    assert both.choice.thinks == 0.75 and both.choice.p_think is None


@pytest.mark.parametrize(
    "output, thinks", [("<think>a", True), (" <think>", True), ("a <think>", False), ("<thin", False), ("", False)]
)
def test_an_output_begins_with_a_thought(output, thinks):
    assert begins_with_thought(output) == thinks


def flags(files, tmp_path):
    posts = tmp_path / "posts.jsonl"
    rows = [{"id": p.id, "text": p.text, "image": None, "keyphrases": p.keyphrases, "cot": None} for p in POSTS]
    posts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "seen.txt").write_text("cat\ndog\n")
    named = [f"--predictions={files['auto']}", f"--direct={files['direct']}", f"--think={files['think']}"]
    return [*named, f"--posts={posts}", f"--train={tmp_path / 'seen.txt'}", "--resamples=200"]


def test_score_prints_and_writes_the_modes(files, tmp_path, capsys):
    written = tmp_path / "s.json"
    assert main([*flags(files, tmp_path), f"--json={written}"]) == 0
    shown = capsys.readouterr().out
    assert as_text(modes_table(measure_modes(systems(files), 200))) in shown
    row = next(line.split() for line in shown.split("Modes\n")[1].splitlines() if line.split()[0] == "all")
    assert row[1:6] == ["4", "42.86", "50.00", "50.00", "68.18"]
    assert row[-8:] == ["75.0%", "50.0%", "50.0%", "50.0%", "0.500", "1.00", "4.50", "2.50"]
    modes = json.loads(written.read_text())["modes"]
    assert modes["all"]["hybrid_accuracy"] == 0.75 and modes["all"]["oracle"]["f1@1"] == pytest.approx(15 / 22)
    assert list(modes["all"]["gain"]) == ["delta", "low", "high"] and modes["unseen"]["words"]["think"] > 3


def test_score_refuses_files_of_another_mode_in_one_line(files, write, tmp_path, capsys):
    named = flags(files, tmp_path)
    assert main([each for each in named if not each.startswith("--think")]) == 2
    assert "give both --direct and --think, or neither" in capsys.readouterr().err
    swapped = [each.replace("--direct=", "--x=").replace("--think=", "--direct=") for each in named]
    assert main([each.replace("--x=", "--think=") for each in swapped]) == 2
    message = (
        "think.jsonl: its posts were predicted with --mode=think, not direct; give what predict --mode=direct wrote"
    )
    assert message in capsys.readouterr().err
    again = write("again.jsonl", rows_of(AUTO, "auto"))
    two = [f"{each},{again}" if each.startswith("--predictions") else each for each in named]
    assert main(two) == 2
    assert "runs: 1 with --mode=direct, 2 with --mode=auto; " in capsys.readouterr().err
    for field, value in (("mode", "fast"), ("think", 2)):
        files["auto"] = write("bad.jsonl", [row | {field: value} for row in rows_of(AUTO, "auto")])
        assert main(flags(files, tmp_path)) == 2
        assert f"bad.jsonl:1: '{field}' is " in capsys.readouterr().err


def test_lines_without_outputs_have_no_modes(files, write):
    files["direct"] = write("d.jsonl", [{"id": p.id, "predicted": [], "mode": "direct"} for p in POSTS])
    with pytest.raises(InputError, match="it has no outputs"):
        measure_modes(systems(files))


def test_a_file_of_two_modes_is_refused(write):
    rows = rows_of(THINK, "think")[:2] + rows_of(AUTO, "auto")[2:]
    with pytest.raises(InputError, match="predicted with --mode=auto and think; give the predictions of one mode"):
        read_system([write("mixed.jsonl", rows)], POSTS, SEEN, None)
