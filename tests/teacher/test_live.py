import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mmkp_jax import teach
from tests.data.test_images import picture, saved
from tests.tiny import hf_config_dict, hf_model, tiny_config, write_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a tiny model behind `transformers serve`, and its name there."""
    for package in ("fastapi", "uvicorn", "accelerate"):
        pytest.importorskip(package, reason="`transformers serve` needs it")
    folder = tmp_path_factory.mktemp("tiny")
    hf_model(tiny_config(), seed=0).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(hf_config_dict(tiny_config())))
    write_tokenizer(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.teacher.serve_tiny", str(folder), str(port)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            break
        except (OSError, urllib.error.URLError):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/v1", str(folder)
    process.kill()


@pytest.mark.slow
def test_a_real_endpoint_answers_a_post_with_a_picture(served, tmp_path):
    base_url, model = served
    (tmp_path / "0.png").write_bytes(saved(picture(80, 60, seed=0)))
    posts = [{"id": f"p{n}", "text": "snow", "image": ["0.png", None][n], "keyphrases": ["winter"]} for n in range(2)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))
    arguments = [
        f"--posts={tmp_path / 'train.jsonl'}",
        f"--images={tmp_path}",
        f"--out={tmp_path / 'cot.jsonl'}",
        f"--base_url={base_url}",
        f"--model={model}",
        "--max_tokens=8",
        "--temperature=0",
    ]
    assert teach.main(arguments) == 0
    rows = [json.loads(line) for line in (tmp_path / "cot.answers.jsonl").read_text().splitlines()]
    assert {row["id"]: row["status"] for row in rows} in (
        {"p0": "cut", "p1": "cut"},
        {"p0": "answered", "p1": "answered"},
    )
    assert all(0 < row["usage"]["completion"] <= 8 for row in rows)
    with_image, without = (next(row["usage"]["prompt"] for row in rows if row["id"] == name) for name in ("p0", "p1"))
    assert with_image > without  # the picture's tokens
