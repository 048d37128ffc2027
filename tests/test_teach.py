import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mmkp_jax import teach
from mmkp_jax.data.chain_files import Chains
from mmkp_jax.runtime.escape import for_markdown
from mmkp_jax.teacher.store import Store
from tests.data.test_images import random_image, saved
from tests.support.fake_endpoint import MODEL, RETURNED, FakeEndpoint
from tests.support.paths import ROOT
from tests.support.posts_on_disk import write_posts

SECRET = "sk-secret-of-the-tests"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def write_file(folder, count=6, images=()):
    """A file of posts, those numbered in `images` with one."""
    rows = []
    for n in range(count):
        name = f"{n}.png" if n in images else None
        if name:
            (folder / name).write_bytes(saved(random_image(40, 30, seed=n)))
        rows.append({"id": f"p{n}", "text": f"text {n}", "image": name, "keyphrases": ["snow", f"#Key{n}"]})
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def flags(server, file, out, *more):
    return [f"--posts={file}", f"--out={out}", f"--base_url={server.base_url}", f"--model={MODEL}", *more]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def refused(capsys, arguments):
    """The one line that a mistake gives."""
    assert teach.main(arguments) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1, printed
    return printed[0]


def test_a_dataset_becomes_chains_that_prepare_takes(tmp_path, capsys):
    write_posts(tmp_path, 10)
    out = tmp_path / "cot.jsonl"
    prices = ["--price_in=2.5", "--price_out=10"]
    with FakeEndpoint(lambda body: "It is a picture of news.") as server:
        arguments = [f"--data={tmp_path / 'out'}", "--split=train", *flags(server, "", out, *prices)[1:]]
        assert teach.main(arguments) == 0
        prompt, completion = server.tokens()
    chains = Chains(out)
    assert not chains.rejects and len(lines(out)) == 10
    with_image = [call for call in server.calls if isinstance(call.body["messages"][-1]["content"], list)]
    assert len(with_image) == 8  # of ten posts, as the dataset has it
    url = with_image[0].body["messages"][-1]["content"][-1]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,")
    printed = capsys.readouterr().out
    assert "10 posts = 10 kept + 0 left out" in printed
    assert f"spent in all: {(prompt * 2.5 + completion * 10) / 1e6:.4f}" in printed
    card = (tmp_path / "cot.card.md").read_text()
    assert f"{for_markdown(RETURNED)} (10)" in card and "100.00%" in card and f"{prompt:,} of prompts" in card
    for file in tmp_path.glob("cot*"):
        assert SECRET not in file.read_text() and "base64" not in file.read_text()


def test_dry_run_prints_the_forecast_and_sends_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    file = write_file(tmp_path, images=(0,))
    with FakeEndpoint(lambda body: "because " * 150) as server:
        arguments = flags(server, file, tmp_path / "cot.jsonl", f"--images={tmp_path}", "--dry_run")
        assert teach.main(arguments) == 0
        printed = capsys.readouterr().out
        assert "calls: 6 for 6 questions;" in printed and "price: unknown" in printed
        assert printed.count("Post text: text") == 3 and "(image, " in printed and "base64" not in printed
        assert teach.main([*arguments, "--price_in=1", "--price_out=2"]) == 0
        printed = capsys.readouterr().out
        low, high = (float(each) for each in printed.split("price: ")[1].split("\n")[0].split(" to "))
        assert 0 < low < high
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        assert not server.calls and [each.name for each in tmp_path.glob("cot*")] == []
        assert teach.main([*arguments[:-1], "--price_in=1", "--price_out=2"]) == 0
        assert low < sum(row["cost"] for row in lines(tmp_path / "cot.answers.jsonl") if "key" in row) < high
        capsys.readouterr()
        assert teach.main(arguments) == 0
        assert "calls: 0 for 6 questions; 6 are answered" in capsys.readouterr().out


def test_gates_leave_out_and_list(tmp_path, capsys):
    answers = {"text 0": "It shows snow.", "text 1": "It does not.", "text 2": "Snow, " + "snow " * 30}

    def answer(body):
        return next(said for text, said in answers.items() if text in str(body["messages"]))

    with FakeEndpoint(answer) as server:
        arguments = flags(server, write_file(tmp_path, 3), tmp_path / "cot.jsonl", "--mentions=any", "--max_words=20")
        assert teach.main(arguments) == 0
    assert lines(tmp_path / "cot.jsonl") == [{"id": "p0", "cot": "It shows snow."}]
    assert [row["gate"] for row in lines(tmp_path / "cot.rejects.jsonl")] == ["mentions", "length"]
    assert "kept of 3 complete answers: 33.33%" in capsys.readouterr().out


def test_a_teacher_that_does_not_see_the_keyphrases_must_match_them(tmp_path, capsys):
    def answer(body):
        assert "snow" not in str(body["messages"])
        right = "text 1" in str(body["messages"])
        return f"It is cold. <answer>{'Snow; #key1' if right else 'sun'}</answer>"

    with FakeEndpoint(answer) as server:
        assert teach.main(flags(server, write_file(tmp_path), tmp_path / "cot.jsonl", "--answer_hidden")) == 0
    assert lines(tmp_path / "cot.jsonl") == [{"id": "p1", "cot": "It is cold."}]
    assert "kept of 6 complete answers: 16.67%" in capsys.readouterr().out


def test_hashtags_become_keyphrases_of_posts(tmp_path):
    with FakeEndpoint(lambda body: "none" if "Key2" in str(body) else "snow; key") as server:
        arguments = flags(server, write_file(tmp_path, 3, (1,)), tmp_path / "clean.jsonl", f"--images={tmp_path}")
        assert teach.main([*arguments, "--task=keyphrases"]) == 0
        assert any("Hashtags: snow; #Key0" in call.text for call in server.calls)
    found = lines(tmp_path / "clean.jsonl")
    assert found[1] == {"id": "p1", "text": "text 1", "image": "1.png", "keyphrases": ["snow", "key"], "cot": None}
    assert [row["id"] for row in lines(tmp_path / "clean.rejects.jsonl")] == ["p2"]


def test_unusual_answers_become_valid_files(tmp_path, capsys):
    kinds = ["half a character", "model", "terminal", "think", "unopened think", "finish \x1b[2J\n|", "choice error"]
    file = write_file(tmp_path, len(kinds) + 1)

    def fault(said, attempt):
        number = int(said.partition("Post text: text ")[2].split()[0])
        return kinds[number] if number < len(kinds) else None

    with FakeEndpoint(fault=fault) as server:
        arguments = flags(server, file, tmp_path / "cot.jsonl", "--price_in=1", "--price_out=1")
        assert teach.main(arguments) == 0 and teach.main(arguments) == 0
        assert len(server.calls) == len(kinds) + 1
    chains = {row["id"]: row["cot"] for row in lines(tmp_path / "cot.jsonl")}
    assert list(chains) == ["p0", "p1", "p2", "p3", "p4", "p7"]
    assert chains["p0"].endswith("\ufffd") and chains["p3"].startswith("People") and chains["p4"].startswith("People")
    assert not Chains(tmp_path / "cot.jsonl").rejects
    assert {row["gate"] for row in lines(tmp_path / "cot.rejects.jsonl")} == {"unfinished"}
    card = (tmp_path / "cot.card.md").read_text()
    assert "<script" not in card.replace("\\<script", "") and "](javascript" not in card and "a\\|b" in card
    assert card.count("\n# ") == 0  # a heading of the endpoint's own
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out.replace("\x1b[A", "") and "unfinished 2" in shown.out


def test_a_run_that_keeps_nothing_has_its_own_exit_status_and_the_commonest_reason(tmp_path, capsys):
    with FakeEndpoint(fault=lambda said, attempt: "filtered" if "Key1" in said else "finish abort") as server:
        assert teach.main(flags(server, write_file(tmp_path), tmp_path / "cot.jsonl")) == 4
    printed = capsys.readouterr().err.splitlines()[-1]
    assert "nothing was kept of 6 posts, most often for unfinished (5: " in printed and "'abort'" in printed
    assert (tmp_path / "cot.jsonl").read_text() == "" and len(lines(tmp_path / "cot.rejects.jsonl")) == 6
    with FakeEndpoint(fault=lambda said, attempt: "500") as server:
        arguments = flags(server, tmp_path / "train.jsonl", tmp_path / "other.jsonl", "--attempts=1")
        assert teach.main(arguments) == 4
    assert "most often for unanswered (6: 500: trouble 500)" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_whose_first_answers_are_all_rejected_stops(tmp_path, capsys):
    file = write_file(tmp_path, 60)
    with FakeEndpoint(lambda body: "I <answer>cannot</answer> say.") as server:
        arguments = flags(server, file, tmp_path / "cot.jsonl", "--concurrency=2")
        assert teach.main(arguments) == 2
        printed = capsys.readouterr().err.splitlines()[-1]
        assert "the first 20 answers are all rejected, most often for tags (20: " in printed
        calls = len(server.calls)
        assert 20 <= calls <= 22
        assert teach.main(arguments) == 2 and len(server.calls) <= calls + 2  # what is there counts
        assert teach.main([*arguments, "--give_up_after=0"]) == 4 and len(server.calls) == 60
    with FakeEndpoint(lambda body: "so" if "Key5 " in str(body).replace("\\n", " ") else "no, too long") as server:
        arguments = flags(server, file, tmp_path / "b.jsonl", "--max_words=1", "--concurrency=1")
        assert teach.main(arguments) == 0 and len(server.calls) == 60  # one of use is enough


def test_a_damaged_store_is_repaired_without_a_call(tmp_path, capsys):
    file, store = write_file(tmp_path), tmp_path / "cot.answers.jsonl"
    with FakeEndpoint() as server:
        arguments = flags(server, file, tmp_path / "cot.jsonl")
        assert teach.main(arguments) == 0
        rows = store.read_bytes().splitlines(keepends=True)
        store.write_bytes(b"".join([*rows[:3], b'{"id": "p9", "key": 5}\n', *rows[3:]]))
        capsys.readouterr()
        line = refused(capsys, arguments)
        assert "cot.answers.jsonl:4: this line is not an answer" in line and "--repair" in line and "remove" not in line
        assert teach.main([*arguments, "--repair"]) == 0 and len(server.calls) == 6
        assert "1 damaged lines" in capsys.readouterr().out
    assert (tmp_path / "cot.answers.jsonl.damaged").read_bytes() == b'{"id": "p9", "key": 5}\n'


def test_a_test_split_is_refused_unless_it_is_named(tmp_path, capsys):
    file = write_file(tmp_path).rename(tmp_path / "test.jsonl")
    with FakeEndpoint() as server:
        arguments = flags(server, file, tmp_path / "cot.jsonl")
        assert "leak" in refused(capsys, arguments)
        assert not server.calls
        assert teach.main([*arguments, "--allow_split=test"]) == 0


def test_a_test_split_is_recognized_by_its_folder_and_its_ids_too(tmp_path, capsys):
    folder = tmp_path / "cmkp-test"
    folder.mkdir()
    file = write_file(folder)
    with FakeEndpoint() as server:
        arguments = flags(server, file, tmp_path / "cot.jsonl", "--dry_run")
        assert "'cmkp-test' is a test split, by its folder" in refused(capsys, arguments)
        assert teach.main([*arguments, "--allow_split=cmkp-test"]) == 0
        file = file.rename(tmp_path / "train.jsonl")
        assert teach.main(flags(server, file, tmp_path / "cot.jsonl", "--dry_run")) == 0
        file.write_text(file.read_text().replace('"p5"', '"test-5"'))
        arguments = flags(server, file, tmp_path / "cot.jsonl", "--dry_run")
        capsys.readouterr()
        assert "by the ids of its posts" in refused(capsys, arguments)
        assert teach.main([*arguments, "--allow_split=test"]) == 0


def test_max_cost_has_its_own_exit_status(tmp_path, capsys):
    file = write_file(tmp_path)
    with FakeEndpoint() as server:
        prices = ["--price_in=1", "--price_out=1", "--max_tokens=20"]
        arguments = flags(server, file, tmp_path / "cot.jsonl", *prices)
        assert teach.main([*arguments, "--max_cost=0.0006"]) == 3
        assert "stopped: --max_cost is reached" in capsys.readouterr().out
        assert 0 < len(lines(tmp_path / "cot.jsonl")) < 6
        assert teach.main([*arguments, "--max_cost=1"]) == 0 and len(lines(tmp_path / "cot.jsonl")) == 6


def test_the_forecast_warns_of_another_max_tokens(tmp_path, capsys):
    file = write_file(tmp_path)
    with FakeEndpoint() as server:
        arguments = flags(server, file, tmp_path / "cot.jsonl")
        assert teach.main([*arguments, "--max_tokens=20"]) == 0
        assert teach.main([*arguments, "--max_tokens=20", "--dry_run"]) == 0
        assert "asks every post again" not in capsys.readouterr().out
        assert teach.main([*arguments, "--max_tokens=30", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "answers of at most 20 tokens" in printed and "asks every post again" in printed
    assert str(tmp_path) not in (tmp_path / "cot.card.md").read_text()


def test_batches_give_the_same_file(tmp_path):
    file = write_file(tmp_path)
    with FakeEndpoint(batch_polls=0) as server:
        assert teach.main(flags(server, file, tmp_path / "a.jsonl")) == 0
        assert teach.main(flags(server, file, tmp_path / "b.jsonl", "--batch", "--batch_size=4")) == 0
        assert len(server.batches) == 2
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_wrong_flags_are_one_line_and_nothing_is_sent(tmp_path, capsys, monkeypatch):
    file = write_file(tmp_path, images=(1,))
    with FakeEndpoint() as server:
        out = tmp_path / "cot.jsonl"
        good = flags(server, file, out, f"--images={tmp_path}")
        for wrong, what in [
            (["--modell=x"], "did you mean '--model'"),
            (["--base_url=localhost:1"], "it is not a URL"),
            (["--data=x", "--split=y"], "one of --data and --posts"),
            ([f"--posts={tmp_path}"], "give a dataset as --data"),  # or its test split would leak
            (["--batch", "--retry_refused"], "--retry_refused asks one by one"),
            (["--max_cost=3"], "needs --price_in"),
            (["--price_in=3"], "go together"),
            (["--concurrency=0"], "--concurrency=0"),
            (["--extra_body=5"], "not a JSON object"),
            (["--extra_body={\"stream\": true}"], "'stream' of a request cannot be set"),
            (["--extra_headers={\"X\": \"$NOT_THERE\"}"], "NOT_THERE: the environment holds no value"),
            (["--template=none.txt"], "none.txt: the template cannot be read"),
            (["--task=keyphrases", "--min_words=9"], "--min_words goes with --task=chains"),
            (["--task=keyphrases", "--mentions=any"], "--mentions goes with --task=chains"),
            (["--match=any"], "--match goes with --answer_hidden"),
            (["--min_words=9", "--max_words=3"], "--min_words"),
            ([f"--out={tmp_path}/no/cot.jsonl"], "there is no such folder"),
            (["--model=other"], "no model 'other'"),
            ([f"--images={tmp_path}/elsewhere"], "there is no image '1.png'"),
        ]:  # fmt: skip
            assert what in refused(capsys, good + wrong)
        monkeypatch.delenv("OPENAI_API_KEY")
        assert "OPENAI_API_KEY: the environment holds no key" in refused(capsys, good)
        assert not server.answered and not out.exists()
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert "cannot be reached" in refused(capsys, good)
    with pytest.raises(SystemExit) as ended:
        teach.main(["--help"])
    assert ended.value.code == 0


def test_a_command_killed_at_random_moments_pays_for_nothing_twice(tmp_path):
    file, concurrency, kills = write_file(tmp_path, 240), 8, 3
    draw = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(server, out):
        arguments = flags(server, file, out, f"--concurrency={concurrency}", "--price_in=1", "--price_out=1")
        command = [sys.executable, "-m", "mmkp_jax.teach", *arguments]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)

    with FakeEndpoint(delay=0.05) as server:
        assert start(server, tmp_path / "unbroken.jsonl").wait() == 0
        assert len(server.calls) == 240
    with FakeEndpoint(delay=0.05) as server:
        for _ in range(kills):
            process, until = start(server, tmp_path / "cot.jsonl"), len(server.calls) + draw.randrange(1, 70)
            while len(server.calls) < until:
                assert process.poll() is None
                time.sleep(0.002)
            time.sleep(draw.random() * 0.06)
            process.send_signal(signal.SIGKILL)
            process.wait()
            with Store(tmp_path / "cot.answers.jsonl") as store:
                before = len(store)
            assert before >= len(server.answered) - concurrency  # but those that were on their way
        assert start(server, tmp_path / "cot.jsonl").wait() == 0
        repeated = len(server.calls) - 240
        assert 0 <= repeated <= kills * concurrency
    assert (tmp_path / "cot.jsonl").read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    assert (tmp_path / "cot.rejects.jsonl").read_bytes() == b""
