"""`predict` through an endpoint: a predictions file like any other, and no answer paid for twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mmkp_jax.data.posts import Post
from mmkp_jax.data.prompts import user_text
from mmkp_jax.data.records import write_dataset
from mmkp_jax.evaluation.files import read_posts, read_predictions
from mmkp_jax.predict import main
from tests.data.test_images import random_image, saved
from tests.support.fake_endpoint import MODEL, FakeEndpoint
from tests.support.paths import ROOT

COUNT = 6
IMAGES = (0, 3)
"""Posts that have one."""


def said_to(body):
    """The keyphrases that answer a request, others for each post."""
    text = str(body["messages"]).partition('"Post text": text ')[2]
    return f"Snow; winter {text.split(chr(92))[0]}"


@pytest.fixture
def posts(tmp_path):
    """A file of posts, and the folder of their images next to it."""
    return write_file(tmp_path, COUNT)


def write_file(folder, count):
    rows = []
    for n in range(count):
        name = f"{n}.png" if n in IMAGES else None
        if name:
            (folder / name).write_bytes(saved(random_image(40, 30, seed=n)))
        rows.append({"id": f"p{n}", "text": f"text {n}", "image": name, "keyphrases": ["snow"]})
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def flags(server, posts, out, *more):
    given = [f"--posts={posts}", f"--images={posts.parent}", f"--out={out}", "--attempts=2", *more]
    return [f"--base_url={server.base_url}", f"--model={MODEL}", *given]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def refused(capsys, arguments):
    """The one line that a mistake gives."""
    assert main(arguments) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1, printed
    return printed[0]


def test_every_post_gets_a_prediction_in_order(posts, tmp_path, capsys):
    out = tmp_path / "p.jsonl"
    with FakeEndpoint(said_to, lambda said, attempt: "cut" if "text 2\n" in said else None) as server:
        assert main(flags(server, posts, out, "--price_in=1", "--price_out=1")) == 0
        printed = capsys.readouterr().out
        before = out.read_bytes()
        assert main(flags(server, posts, out)) == 0 and out.read_bytes() == before  # nothing is asked twice
        assert len(server.calls) == COUNT
        assert main(flags(server, posts, tmp_path / "p.txt")) == 0 and len(server.calls) == COUNT
        sent = {n: call.body for n in range(COUNT) for call in server.calls if f"text {n}\n" in call.text}
    rows = lines(out)
    assert [row["id"] for row in rows] == [f"p{n}" for n in range(COUNT)]
    assert rows[0] == {
        "id": "p0",
        "keyphrases": ["snow"],
        "predicted": ["snow", "winter 0"],
        "output": "Snow; winter 0",
        "form": "direct",
        "tokens": 3,
    }
    assert (rows[2]["predicted"], rows[2]["form"]) == ([], "broken")
    assert "1 of 6 posts got no complete answer" in printed and "p2: the answer was cut off" in printed
    assert "could not be used" not in printed
    assert "asked now: 6; spent in all: 0.0" in printed and f"written: {out}" in printed
    assert sent[0]["max_tokens"] == 384 and sent[0]["temperature"] == 0
    assert "Answer with the keyphrases only" in str(sent[0]) and "data:image/jpeg;base64," in str(sent[0])
    assert "image_url" not in str(sent[1])
    assert read_predictions(out, read_posts(posts)).predictions[1] == ["snow", "winter 1"]  # as `score` reads it
    assert (tmp_path / "p.txt").read_text().splitlines()[1] == "snow;winter 1"


def test_the_prompt_of_training_does_not_describe_the_output(posts, tmp_path):
    asked = {}
    for prompt in ("training", "zero_shot"):
        with FakeEndpoint(answer=said_to) as server:
            assert main(flags(server, posts, tmp_path / f"{prompt}.jsonl", f"--prompt={prompt}")) == 0
        asked[prompt] = sorted(call.text for call in server.calls)
    assert asked["training"] == [user_text(f"text {n}") for n in range(COUNT)]
    assert asked["zero_shot"] == [user_text(f"text {n}", zero_shot=True) for n in range(COUNT)]


def test_a_dataset_is_predicted_with_the_posts_that_it_could_not_use(tmp_path, capsys):
    listed = [
        Post(f"test-{n}", f"text {n}", "gone.png" if n == 2 else None, ("snow",), None, "f", n) for n in (1, 2, 3)
    ]
    write_dataset(tmp_path / "set", {"test": listed}, tmp_path, on_bad_row="drop")
    with FakeEndpoint(said_to) as server:
        arguments = [f"--data={tmp_path / 'set'}", "--split=test", f"--out={tmp_path / 'p.jsonl'}"]
        assert main([f"--base_url={server.base_url}", f"--model={MODEL}", *arguments]) == 0
        assert len(server.calls) == 2
    assert {row["id"]: len(row["predicted"]) for row in lines(tmp_path / "p.jsonl")} == {
        "test-1": 2,
        "test-2": 0,
        "test-3": 2,
    }
    assert "test-2: it could not be used when the dataset was prepared" in capsys.readouterr().out


def test_a_damaged_image_gives_an_empty_prediction(posts, tmp_path, capsys):
    (tmp_path / "3.png").write_bytes(b"no image")
    with FakeEndpoint(said_to) as server:
        assert main(flags(server, posts, tmp_path / "p.jsonl")) == 0
        assert len(server.calls) == COUNT - 1
    assert [row["predicted"] == [] for row in lines(tmp_path / "p.jsonl")] == [n == 3 for n in range(COUNT)]
    printed = capsys.readouterr().out
    assert "\n  p3: " in printed and "no image of a known kind" in printed


def test_an_answer_without_choices_does_not_block_the_file(posts, tmp_path, capsys):
    out = tmp_path / "p.jsonl"

    def fault(said, attempt):
        kinds = {1: "no choices, usage", 2: "finish abort", 4: "half a character"}
        return next((kind for number, kind in kinds.items() if f"text {number}\n" in said), None)

    with FakeEndpoint(said_to, fault) as server:
        assert main(flags(server, posts, out)) == 0
        calls = len(server.calls)
        assert main(flags(server, posts, out)) == 0 and len(server.calls) == calls == COUNT + 1
    assert [n for n, row in enumerate(lines(out)) if not row["predicted"]] == [1, 2]
    printed = capsys.readouterr().out
    assert "p1: the answer holds no message" in printed
    assert "p2: the answer ended with the finish_reason 'abort'" in printed


def test_a_thinking_models_prediction_follows_its_thoughts(posts, tmp_path):
    with FakeEndpoint(lambda body: "<think>\nHm: a; b.\n</think>\n\nSnow; ice") as server:
        assert main(flags(server, posts, tmp_path / "p.jsonl")) == 0
    assert {tuple(row["predicted"]) for row in lines(tmp_path / "p.jsonl")} == {("snow", "ice")}
    assert lines(tmp_path / "p.jsonl")[0]["output"].startswith("<think>")


def test_a_run_without_any_answer_has_its_own_exit_status(posts, tmp_path, capsys):
    with FakeEndpoint(said_to, lambda said, attempt: "declined") as server:
        assert main(flags(server, posts, tmp_path / "p.jsonl")) == 4
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed == "none of 6 posts got an answer, most often (6): the model declined: I cannot help with that"
    assert len(lines(tmp_path / "p.jsonl")) == COUNT


def test_a_post_that_may_yet_be_answered_is_not_called_empty(posts, tmp_path, capsys):
    def fault(said, attempt):
        return "500" if "text 1\n" in said and attempt < 3 else None

    with FakeEndpoint(said_to, fault) as server:
        assert main(flags(server, posts, tmp_path / "p.jsonl")) == 2
        printed = capsys.readouterr().err.splitlines()[-1]  # after the bar
        assert "1 of 6 posts have no answer yet (500" in printed and not (tmp_path / "p.jsonl").exists()
        assert main(flags(server, posts, tmp_path / "p.jsonl")) == 0 and max(server.answered.values()) == 1


def test_max_cost_stops_cleanly_and_a_higher_one_resumes(posts, tmp_path, capsys):
    out, prices = tmp_path / "p.jsonl", ["--price_in=100", "--price_out=100", "--max_tokens=10"]
    with FakeEndpoint(said_to) as server:
        assert main(flags(server, posts, out, *prices, "--max_cost=0.03")) == 3
        assert 0 < len(server.answered) < COUNT and not out.exists()
        assert "stopped: --max_cost is reached" in capsys.readouterr().out
        assert sum(server.tokens()) * 100 / 1e6 <= 0.03
        assert main(flags(server, posts, out, *prices, "--max_cost=3")) == 0
        assert len(server.calls) == COUNT == len(lines(out))


def test_dry_run_prints_the_forecast_and_sends_nothing(posts, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with FakeEndpoint() as server:
        assert main(flags(server, posts, tmp_path / "p.jsonl", "--dry_run")) == 0
        assert not server.calls
    printed = capsys.readouterr().out
    assert (
        "calls: 6 for 6 questions;" in printed
        and "price: unknown" in printed
        and printed.count('"Post text": text') == 3
    )
    assert not [*tmp_path.glob("p*")]


def test_wrong_flags_are_one_line_and_nothing_is_paid(posts, tmp_path, capsys, monkeypatch):
    out = tmp_path / "p.jsonl"
    with FakeEndpoint() as server:
        good = flags(server, posts, out)
        for wrong, what in [
            (["--base_url=localhost:1"], "it is not a URL"),
            ([f"--base_url={server.base_url}/elsewhere"], "check --base_url"),
            (["--model=other"], "no model 'other'"),
            (["--n=3", "--temperature=1"], "--n does not go with --base_url"),
            (["--seed=3"], "--seed does not go with --base_url; --extra_body may"),
            (["--zero_shot"], "--zero_shot does not go with --base_url"),
            (["--max_cost=3"], "needs --price_in"),
            (["--max_tokens=-1"], "--max_tokens=-1"),
            ([f"--out={tmp_path}/no/p.jsonl"], "there is no such folder"),
            ([f"--images={tmp_path}/data"], "there is no such folder of images"),
        ]:
            assert what in refused(capsys, good + wrong)
        (tmp_path / "3.png").rename(tmp_path / "4.png")
        assert "test.jsonl:4: there is no image '3.png'" in refused(capsys, good)
        posts.write_text(posts.read_text() + "no post\n")
        assert "test.jsonl:7: the line is not JSON" in refused(capsys, good)
        out.write_text("of another model\n")
        write_file(tmp_path, COUNT)
        (tmp_path / "p.answers.jsonl").unlink()  # made by the calls that were turned away
        assert "this file exists already" in refused(capsys, good) and out.read_text() == "of another model\n"
        out.unlink()
        monkeypatch.delenv("OPENAI_API_KEY")
        assert "OPENAI_API_KEY: the environment holds no key" in refused(capsys, good)
        assert not server.answered and not out.exists()
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    assert "cannot be reached" in refused(capsys, good)
    local = ["--model=x", f"--posts={posts}", f"--images={tmp_path}", f"--out={out}"]
    assert "--max_cost goes with --base_url" in refused(capsys, [*local, "--max_cost=1"])


WITHOUT_JAX = """
import sys
from mmkp_jax.predict import main
status = main(sys.argv[1:])
assert not {"jax", "torch", "transformers"} & sys.modules.keys()
sys.exit(status)
"""


def start(arguments, script=WITHOUT_JAX, **streams):
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), text=True, **streams)


def test_a_killed_command_resumes_and_pays_for_nothing_twice_and_needs_no_jax(tmp_path):
    posts, concurrency, kills, draw = write_file(tmp_path, 120), 8, 2, random.Random(0)
    with FakeEndpoint(said_to, delay=0.05) as server:
        arguments = flags(server, posts, tmp_path / "p.jsonl", f"--concurrency={concurrency}")
        for _ in range(kills):
            process, until = start(arguments), len(server.calls) + draw.randrange(1, 40)
            while len(server.calls) < until:
                assert process.poll() is None
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (tmp_path / "p.jsonl").exists()
        assert start(arguments).wait() == 0
        assert 0 <= len(server.calls) - 120 <= kills * concurrency
        assert start(flags(server, posts, tmp_path / "unbroken.jsonl")).wait() == 0
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()


def test_without_the_extra_it_says_what_to_install(posts, tmp_path):
    script = "import sys\nsys.modules['openai'] = None\n" + WITHOUT_JAX
    with FakeEndpoint() as server:
        process = start(flags(server, posts, tmp_path / "p.jsonl"), script, stderr=subprocess.PIPE)
        printed = process.communicate()[1].splitlines()
    assert process.returncode == 2 and len(printed) == 1
    assert "needs openai, which is not installed; pip install 'mmkp_jax[teacher]'" in printed[0]
