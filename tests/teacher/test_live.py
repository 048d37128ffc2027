import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from mmkp_jax import predict, teach
from tests.data.test_images import random_image, saved
from tests.support.needs_torch import needs_torch
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.tiny import write_model


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a tiny model behind `transformers serve`, and its name there."""
    needs_torch()
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder)
    port = free_port()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.support.serve_tiny", str(folder), str(port)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            break
        except (OSError, urllib.error.URLError):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.5)
    else:
        pytest.fail((folder / "log").read_text()[-2000:])
    yield f"http://127.0.0.1:{port}/v1", str(folder)
    process.kill()


@pytest.fixture
def asked(served, tmp_path):
    """Flags that ask the endpoint about two posts, the first one with an image."""
    base_url, model = served
    (tmp_path / "0.png").write_bytes(saved(random_image(80, 60, seed=0)))
    posts = [{"id": f"p{n}", "text": "snow", "image": ["0.png", None][n], "keyphrases": ["winter"]} for n in range(2)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))
    return [
        f"--posts={tmp_path / 'train.jsonl'}",
        f"--images={tmp_path}",
        f"--base_url={base_url}",
        f"--model={model}",
        "--max_tokens=8",
        "--temperature=0",
    ]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("command", [teach, predict], ids=["teach", "predict"])
def test_a_real_endpoint_answers_a_post_with_an_image(asked, tmp_path, command):
    status = command.main([*asked, f"--out={tmp_path / 'out.jsonl'}"])
    rows = [row for row in lines(tmp_path / "out.answers.jsonl") if "key" in row]
    assert status == (0 if any(row["status"] == "answered" for row in rows) else 4)
    assert {row["status"] for row in rows} <= {"answered", "cut", "empty"}  # it has learnt nothing
    assert all(row["answer"]["choices"] and 0 < row["usage"]["completion"] <= 8 for row in rows)
    with_image, without = (next(row["usage"]["prompt"] for row in rows if row["id"] == name) for name in ("p0", "p1"))
    assert with_image > without  # the tokens of the image
    if command is predict:
        assert [row["id"] for row in lines(tmp_path / "out.jsonl")] == ["p0", "p1"]
