"""Run by decoding/test_sharded.py in processes of their own, with eight fake devices in all; prints one JSON line.

Greedy (in each mode in turn) and sampled answers on several meshes, from one model folder: `MESHES FOLDER [ADDRESS
PROCESS]`, of two processes where these are given. A mesh with a `*` is compiled only. The last number of a state is the
probability of a chain of thought.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp

from mmkp_jax.data.prompts import MODES
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.decoding.prompts import prompt_of
from mmkp_jax.decoding.sampling import GREEDY, Sampling
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.sharding import MESH_AXES, make_mesh, param_shardings
from tests.support.tiny import tiny_config
from tests.support.trees import random_tree

KINDS = (dict(grids=[(4, 6)]), dict(grids=[], text=20), dict(grids=[(8, 8), (2, 4)]))
LOST = 4
OPENING = (5, 9)


def main(meshes: str, folder: str, address: str = "", process: str = "") -> None:
    if address:
        jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    opened = open_folder(folder)
    definition = define(opened.config)
    trees = [random_tree(i, tiny_config(), **KINDS[i % 3]) for i in range(13)]
    prompts = [prompt_of(str(i), tree, definition.processor) for i, tree in enumerate(trees)]
    report = {}
    for named in meshes.split(","):
        name = named.rstrip("*")
        sizes = dict(zip(MESH_AXES, map(int, name.split("x")), strict=True))
        mesh = make_mesh(sizes, None if name != "1x1x1" else jax.devices()[:1])
        structs = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            definition.shapes(),
            param_shardings(definition, mesh),
        )
        params = load_params(opened, structs)
        loaded = []

        def load(number: int, loaded: list = loaded):
            loaded.append(number)
            return None if number == LOST else trees[number]

        found, answers = {}, []
        for how, sampling in (("sampled", Sampling(1.0, 0.9, 5)), ("greedy", GREEDY)):
            modes = MODES if how == "greedy" else MODES[:1]
            stop = range(0, 320, 30)  # some answers come to a second page of the cache, and to a third
            settings = dict(slots=5, answer_tokens=90, stop_tokens=stop, dtype=jnp.float32, opening=OPENING)
            generator = Generator(definition, mesh, **settings, sampling=sampling)
            if named == name:
                asked = [prompt._replace(mode=modes[n % len(modes)]) for n, prompt in enumerate(prompts)]
                answers = list(generator(params, asked, load))
            found[how] = {each.prompt: each.tokens for each in answers}
        states = {each.prompt: [*each.state_D.tolist(), each.think] for each in answers if each.tokens is not None}
        lowered = generator.lower(params, prompts[0].size)["decode"]
        report[name] = {
            "answers": found,
            "states": states,
            "loaded": sorted(loaded),
            "sent": sent_per_token(lowered.compile().as_text()),
            "longest": max((len(each.tokens or ()) for each in answers), default=0),
        }
    print(json.dumps(report, sort_keys=True))


def sent_per_token(program: str) -> dict[str, int]:
    """How often devices send each other something in the loop over tokens, by kind."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf" ({kinds})(?:-start)?\(.*while/body", program)
    return {kind: found.count(kind) for kind in found}


if __name__ == "__main__":
    main(*sys.argv[1:])
