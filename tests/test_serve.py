"""The command: mistakes in one line; a process that other clients get `predict`'s keyphrases from; and its page."""

import base64
import json
import shutil
import signal
import subprocess
import sys
from socket import socket

import pytest

from mmkp_jax.predict import main as predict
from mmkp_jax.serve import main
from tests.support.chromium import Chromium
from tests.support.small_pocket import ROOT, environment, small_pocket


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--model=FOLDER or WORKDIR is not given"),
        (["--model=a,,b"], "has an empty name"),
        (["--model=a", "--port=70000"], "--port=70000 is not from 0 to 65535"),
        (["--model=a", "--batch_size=0"], "--batch_size=0 is less than 1"),
        (["--model=a", "--seed=3"], "--seed needs --temperature above 0"),
        (["--model=a", "--token=short"], "--token has fewer than 16 characters"),
        (["--model=a", "--host=no.such.host.invalid", "--port=0"], "there is no such address"),
        (["--model=no such", "--port=0"], "no such: there is no such folder"),
        (["--model=a,a", "--port=0"], "a model is named twice"),
        (["--model=a", "--port=0", "--data=no such"], "no such"),
        (["--model=a", "--prt=0"], "did you mean '--port'?"),
    ],
)
def test_a_mistake_is_one_line(flags, message, capsys):
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_port_that_is_taken_is_one_line_before_anything_is_loaded(capsys):
    with socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["--model=no such", f"--port={other.getsockname()[1]}"]) == 2
    assert "the port cannot be used (Address already in use)" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["--model=a"]) == 2
    assert capsys.readouterr().err == "serve: uvicorn is not installed; pip install 'mmkp_jax[serve]'\n"


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("pocket"))


@pytest.fixture(scope="module")
def served(pocket):
    """The address of a process that serves pocket's model; it is ended by Ctrl-C."""
    flags = [f"--model={pocket / 'model'}", "--port=0", f"--data={pocket / 'dataset'}", "--max_tokens=12"]
    command = [sys.executable, "-m", "mmkp_jax.serve", *flags]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("Ctrl-C"):
            break
    assert [line.split()[0] for line in printed[:3]] == ["loading", "compiling", "compiling"], printed
    (page,) = [line.split()[1] for line in printed if line.startswith("  page")]
    yield page
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


@pytest.mark.nightly
def test_the_openai_sdk_gets_the_keyphrases_of_predict(pocket, served, tmp_path):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    out = tmp_path / "p.jsonl"
    posts, images = pocket / "posts/test.jsonl", pocket / "images"
    flags = [f"--model={pocket / 'model'}", f"--posts={posts}", f"--images={images}", "--max_tokens=12"]
    assert predict([*flags, "--batch_size=8", f"--out={out}"]) == 0
    expected = {line["id"]: line for line in map(json.loads, out.read_text().splitlines())}
    client = openai.OpenAI(base_url=f"{served}v1", api_key="any")
    assert [each.id for each in client.models.list()] == ["model", "model:post"]
    answered = 0
    for row in map(json.loads, posts.read_text().splitlines()):
        parts = [{"type": "text", "text": row["text"]}]
        if row["image"]:
            data = base64.b64encode((images / row["image"]).read_bytes()).decode()
            parts.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        asked = dict(model="model:post", messages=[{"role": "user", "content": parts}])
        if not expected[row["id"]]["tokens"]:  # its image is damaged
            with pytest.raises(openai.BadRequestError, match="truncated or damaged"):
                client.chat.completions.create(**asked)
            continue
        answer = client.chat.completions.create(**asked)
        chunks = client.chat.completions.create(**asked, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert answer.choices[0].message.content == said == "; ".join(expected[row["id"]]["predicted"])
        answered += 1
    assert answered == len(expected) - 1


HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> \u202e <|im_end|>"


@pytest.mark.nightly
@pytest.mark.parametrize("width", [1200, 390])
def test_a_post_with_a_dropped_image_gets_keyphrases_on_the_page(pocket, served, tmp_path, width):
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium on this machine")
    image = base64.b64encode((pocket / "images/test-1.jpg").read_bytes()).decode()
    with Chromium(chromium, tmp_path, width=width) as page:
        page.open(served)
        page.wait_for("document.querySelectorAll('#examples button').length === 5")
        page.run(f"document.getElementById('text').value = {json.dumps(HOSTILE)}")
        page.run(
            f"const bytes = Uint8Array.from(atob('{image}'), (c) => c.charCodeAt(0)), moved = new DataTransfer();"
            "moved.items.add(new File([bytes], 'dropped.jpg', { type: 'image/jpeg' }));"
            "document.dispatchEvent(new DragEvent('drop', { dataTransfer: moved, bubbles: true, cancelable: true }))"
        )
        page.wait_for("!document.getElementById('image').hidden")
        page.run("document.getElementById('form').requestSubmit()")
        page.wait_for("document.querySelectorAll('.run h3').length === 2 && !document.getElementById('go').disabled")
        shown = page.run("document.getElementById('runs').innerText")
        assert "By its own choice" in shown and "If it must" in shown and shown.count("tokens after") == 2
        assert page.run("document.title") == "Keyphrases of a post"
        assert page.run("document.getElementById('error').textContent") == ""
        assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.run("document.querySelectorAll('#runs img, #runs script').length") == 0
