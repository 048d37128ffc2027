"""What a model knows of pocket's facts: the pretrained one nearly all, one of random weights none."""

import json

import pytest

from benchmarks import recall
from benchmarks.gates import RECALL
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.save import save_params
from mmkp_jax.hf.tensors import WEIGHTS
from mmkp_jax.pocket.corpus import questions
from mmkp_jax.pocket.make import FACTS, PRETRAINED
from mmkp_jax.pocket.model import initial_params
from mmkp_jax.pocket.world import make_facts


def asked(model, folder):
    """The recall of a model, by the command's own file."""
    lines = [json.dumps(post.record()) for post in questions(make_facts(0, 1.0).chains)]
    (folder / FACTS).write_text("\n".join(lines) + "\n")
    flags = [f"--model={model}", f"--questions={folder / FACTS}", f"--out={folder / 'known.json'}"]
    assert recall.run(flags) == 0
    found = json.loads((folder / "known.json").read_text())
    assert found["recall"] == sum(found["known"]) / 564 and len(found["known"]) == 564
    return found["recall"]


def test_the_shipped_weights_know_the_facts(tmp_path):
    assert asked(PRETRAINED, tmp_path) >= RECALL


@pytest.mark.nightly
def test_random_weights_know_none(tmp_path):
    opened = open_folder(str(PRETRAINED))
    folder = tmp_path / "random"
    folder.mkdir()
    for file in PRETRAINED.iterdir():
        if file.name != WEIGHTS:
            (folder / file.name).write_bytes(file.read_bytes())
    save_params(initial_params(define(opened.config), 0), opened.config, folder)
    assert asked(folder, tmp_path) < 0.02


def test_questions_about_another_world_are_refused(tmp_path):
    lines = [json.dumps(post.record()) for post in questions(make_facts(0, 1.0).chains)][1:]
    (tmp_path / FACTS).write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="questions about another world"):
        recall.known_facts(str(PRETRAINED), tmp_path / FACTS)
