"""Readers of predictions, posts to score, and of what the report shows of a run."""

import io
import json
import shutil
from pathlib import Path

import numpy as np

from mmkp_jax.data.posts import Post
from mmkp_jax.evaluation.files import read_aligned, read_posts, read_predictions, read_train_keyphrases
from mmkp_jax.evaluation.outputs import FORMS, READINGS, parse_output
from mmkp_jax.inference.resumable_predictions import ResumablePredictions
from mmkp_jax.pages.report.runs import read_runs
from tests.fuzz.harness import Target
from tests.fuzz.targets_posts import CMKP, OWN, lines_of

POSTS = [Post("a", "snow in the city", None, ("snow", "new york")), Post("b", "bread", None, ("fresh bread",))]
PREDICTIONS = [
    {
        "id": post.id,
        "keyphrases": list(post.keyphrases),
        "predicted": ["snow", "winter"],
        "output": "<think>So.</think><answer>snow; winter</answer>",
        "form": "cot",
        "tokens": 12,
        "think": 0.5,
        "mode": "auto",
        "scores": {"logprob": [-0.5, -2.0], "mean_logprob": [-0.5, -1.0]},
    }
    for post in POSTS
]
OUTPUTS = [
    *(b"snow; winter", b"<think>So.</think><answer>snow; winter</answer>", b"1. snow\n2. winter", b"snow, winter"),
    *(b"- a\n- b", b'["a", "b"]', b"<think>", b"#snow #winter", b"Keyphrases: a; b"),
]


def _read_posts(data: bytes, root: Path) -> None:
    (root / "test.jsonl").write_bytes(data)
    read_posts(root / "test.jsonl")
    read_train_keyphrases(root / "test.jsonl")


def _read_train(data: bytes, root: Path) -> None:
    (root / "train.txt").write_bytes(data)
    read_train_keyphrases(root / "train.txt")


def _read_predictions(data: bytes, root: Path) -> None:
    (root / "p.jsonl").write_bytes(data)
    found = read_predictions(root / "p.jsonl", POSTS)
    assert len(found.predictions) == len(POSTS)


def _read_lines(data: bytes, root: Path) -> None:
    (root / "p.txt").write_bytes(data)
    assert len(read_aligned(root / "p.txt", 2)) == 2
    read_predictions(root / "p.txt", POSTS)


def _resume(data: bytes, root: Path) -> None:
    shutil.rmtree(root / "journal", ignore_errors=True)
    (root / "journal").mkdir()
    (root / "journal" / "p.jsonl").write_bytes(data)
    found = ResumablePredictions(root / "journal" / "p.jsonl", [post.id for post in POSTS]).found
    for each in found.values():
        each.line().encode()


def _output(data: bytes, _: Path) -> None:
    for reading in READINGS:
        predicted, form = parse_output(data.decode("utf-8", "replace"), reading)
        assert form in FORMS and all(isinstance(each, str) for each in predicted)
        assert len(set(predicted)) == len(predicted)


def _arrays(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _scores() -> dict:
    cell = {
        "n": 2,
        "p@1": 0.5,
        "r@1": 0.5,
        "f1@1": 0.5,
        "f1@3": 0.5,
        "f1@5": 0.5,
        "f1@M": 0.5,
        "map@5": 0.5,
        "ndcg@5": 1.0,
        "f1@O": 0.5,
        "hit@1": 0.5,
        "hit@3": 0.5,
        "hit@5": 0.5,
    }
    return {group: dict(cell) for group in ("all", "present", "absent", "seen")} | {"unseen": None}


RUN = {
    "config.json": json.dumps(
        {
            "strategy": "dyncot",
            "gamma": 0.4,
            "gamma_mode": "fixed",
            "model": {"path": "m"},
            "data": {"path": "d", "train_keyphrases": ""},
            "seed": 0,
        }
    ).encode(),
    "environment.json": json.dumps({"python": "3.11", "packages": {"jax": "1"}, "devices": ["cpu"]}).encode(),
    "metrics.jsonl": lines_of([{"step": n, "loss": 1.0 / n, "gamma": 0.4, "cot_share": None} for n in range(1, 5)]),
    "results.json": json.dumps(_scores()).encode(),
    "comparisons.json": json.dumps({"scores": {"nearest": _scores()}, "by_kind": {"a": {"image": None}}}).encode(),
    "predictions/test-4.jsonl": lines_of(PREDICTIONS),
    "losses.npz": _arrays(
        epoch_N=np.zeros(3, np.int32), post_N=np.arange(3, dtype=np.int32), nll_sft_N=np.ones(3, np.float32)
    ),
    "hidden.npz": _arrays(id_N=np.array(["a", "b"]), hidden_ND=np.ones((2, 4), np.float16)),
}
"""The files of a run that the report reads."""


def _run_file(name: str):
    def feed(data: bytes, root: Path) -> None:
        for each, content in RUN.items():
            file = root / "run" / each
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data if each == name else content)
        read_runs([root / "run"])

    return lambda _: [RUN[name]], feed


TARGETS = [
    Target("score: posts", lambda _: [lines_of(OWN[:2])], _read_posts),
    Target("score: training keyphrases", lambda _: [b"snow\nnew york; x\n", CMKP], _read_train),
    Target("score: predictions", lambda _: [lines_of(PREDICTIONS)], _read_predictions, share=2),
    Target("score: predictions a line each", lambda _: [b"snow;winter\nbread\n"], _read_lines),
    Target("predict: what is there already", lambda _: [lines_of(PREDICTIONS)], _resume),
    Target("outputs of models", lambda _: OUTPUTS, _output, refusals=(), share=3),
    *(Target(f"report: {name}", *_run_file(name), share=0.4) for name in RUN),
]
