"""Run by decoding/test_sharded.py in processes of their own, with eight fake devices in all; prints one JSON line.

Answers on several meshes, of models of the zoo: `MESHES NAMES ROOT [ADDRESS PROCESS]`, where `ROOT/NAME` is a model's
folder; of two processes where the last two are given. The first member answers sampled, and greedily in each mode in
turn, with completions of more than a page of the cache, the others greedily and shortly; the last number of its states
is the probability of a chain of thought. `sent` after a mesh counts what devices send.
"""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from mmkp_jax.data.prompts import MODES
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.decoding.prompts import prompt_of
from mmkp_jax.decoding.sampling import GREEDY, Sampling
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.sharding import DEFAULT_RULES, MESH_AXES, make_mesh, param_structs
from tests.support.zoo import ZOO, model_of, random_tree

KINDS = (dict(images=[1]), dict(images=[], text=20), dict(images=[2, 0]))
LOST = 4
"""The number of a prompt that cannot be loaded."""

FIRST = next(iter(ZOO))
OPENING = (5, 9)
HOW = {"sampled": Sampling(1.0, 0.9, 5), "greedy": GREEDY}


def main(meshes: str, names: str, root: str, address: str = "", process: str = "") -> None:
    if address:
        jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    report = {}
    for name in names.split(","):
        for mesh in meshes.split(","):
            report[f"{name} on {mesh.removesuffix(' sent')}"] = answers_of(name, Path(root) / name, mesh)
    print(json.dumps(report, sort_keys=True))


def answers_of(name: str, folder: Path, mesh_name: str) -> dict:
    """Tokens by prompt, the states of prompts, which were loaded, the longest completion, what devices send."""
    definition, is_first = model_of(name).definition, name == FIRST
    trees = [random_tree(i, model_of(name), **KINDS[i % 3]) for i in range(13 if is_first else 7)]
    prompts = [prompt_of(str(i), tree, definition.processor) for i, tree in enumerate(trees)]
    sizes = dict(zip(MESH_AXES, map(int, mesh_name.removesuffix(" sent").split("x")), strict=True))
    mesh = make_mesh(sizes, jax.devices()[:1] if set(sizes.values()) == {1} else None)
    params = load_params(open_folder(str(folder)), param_structs(definition, mesh, DEFAULT_RULES, jnp.float32))
    loaded, found, answers, sent = [], {}, [], {}

    def load(number: int):
        loaded.append(number)
        return None if number == LOST else trees[number]

    for how in HOW if is_first else ("greedy",):
        options = {"slots": 5, "answer_tokens": 90 if is_first else 20, "sampling": HOW[how], "dtype": jnp.float32}
        options["stop_tokens"] = range(0, 320, 30 if is_first else 7)
        generator = Generator(definition, mesh, **options, opening=OPENING if is_first else ())
        modes = MODES if is_first and how == "greedy" else MODES[:1]
        asked = [prompt._replace(mode=modes[n % len(modes)]) for n, prompt in enumerate(prompts)]
        answers = list(generator(params, asked, load))
        found[how] = {each.prompt: each.tokens for each in answers}
        if mesh_name.endswith("sent"):
            sent = sent_per_token(generator.lower(params, prompts[0].size)["decode"].compile().as_text())
    return {
        "answers": found,
        "states": {
            each.prompt: [*each.state_D.tolist(), *([each.think] if is_first else [])]
            for each in answers
            if each.tokens is not None
        },
        "loaded": sorted(loaded),
        "longest": max(len(each.tokens or ()) for each in answers) if answers else 0,
        "sent": sent,
    }


def sent_per_token(program: str) -> dict[str, int]:
    """How often devices send each other something in the loop over tokens, by kind."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf" ({kinds})(?:-start)?\(.*while/body", program)
    return {kind: found.count(kind) for kind in found}


if __name__ == "__main__":
    main(*sys.argv[1:])
