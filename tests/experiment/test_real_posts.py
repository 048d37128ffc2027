"""The main job on real posts, at reduced size: the five strategies, and seen and unseen by the true training list.

The full size is `benchmarks/real_posts.py`.
"""

import json
import subprocess

import pytest

from tests.support.paths import ROOT
from tests.support.real_posts import command, draw_standins, environment, make_real
from tests.support.shared_folder import cmkp

SHORT = ("--config.num_epochs=1", "--config.warmup_steps=2", "--config.global_batch_size=4")
VALIDATED = ("--config.eval_every=100", "--config.valid_posts=20")


def run(out, workdir, *flags, **options):
    done = command(out, workdir, *SHORT, *flags, **options)
    done = subprocess.run(done, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny variant of the release: 200 training, 200 valid and 50 test posts."""
    out, raw = tmp_path_factory.mktemp("tiny"), cmkp("tw_mm_s1_tiny/train_src.txt").parent
    draw_standins(raw, out / "images", None)
    counts = make_real(out, raw, out / "images", {split: (split, None) for split in ("train", "valid", "test")})
    posts = {split: each.records for split, each in counts.items() if not each.rejects}
    assert posts == {"train": 200, "valid": 200, "test": 50}
    return out


STRATEGIES = ("zeroshot", "sft", "cot", "multitask", "dyncot")


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_on_the_tiny_split(tiny, tmp_path, strategy):
    out, results = run(tiny, tmp_path / "run", *VALIDATED, "--config.answer_tokens=24", strategy=strategy)
    assert results["all"]["n"] == 50 and results["seen"]["n"] + results["unseen"]["n"] >= 50
    if strategy != "zeroshot":
        assert "200 posts an epoch" in out
        lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        assert sum(line["posts"] for line in lines) == 200  # each post once
        assert lines[-1]["loss"] < lines[0]["loss"] and "valid/all/f1@1" in lines[-1]


@pytest.mark.nightly
def test_seen_keyphrases_are_those_of_the_given_list(tmp_path):
    keyphrases = cmkp("tw_mm_s1/train_keyphrases.txt")
    draw_standins(keyphrases.parent, tmp_path / "images", 40)
    splits = {"train": ("valid", 40), "test": ("test", 40)}
    make_real(tmp_path, keyphrases.parent, tmp_path / "images", splits)
    seen_by = f"--config.data.train_keyphrases={keyphrases}"
    _, results = run(tmp_path, tmp_path / "run", seen_by, "--config.answer_tokens=8")
    posts = [line.split("<sep>") for line in cmkp("tw_mm_s1/test_src.txt").read_text().splitlines()[:40]]
    known = set(keyphrases.read_text().splitlines())
    seen = [any(k.strip() in known for k in post[1].split(";")) for post in posts]
    unseen = [any(k.strip() not in known for k in post[1].split(";")) for post in posts]
    n = {group: (results[group] or {"n": 0})["n"] for group in ("all", "seen", "unseen")}
    assert n == {"all": 40, "seen": sum(seen), "unseen": sum(unseen)}
