"""Cross-attention to images: packed trees are alone with theirs, and decoding keeps the keys of a prompt's images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import RowSize, Tree, pack_rows
from mmkp_jax.decoding.cache import Static
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.decoding.prompts import pack_trunks, prompt_of
from mmkp_jax.models.definition import define_from, random_params
from mmkp_jax.models.sharding import make_mesh
from mmkp_jax.training.step import forest_losses
from tests.support.toy_cross import FAMILY, IMAGE, KEYS, VALUES
from tests.support.toy_family import ToyConfig

WORDS, ANSWER = 300, 12
NOTHING = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def model():
    definition = define_from(FAMILY, ToyConfig(WORDS, 5, tie_embeddings=True))
    return definition, random_params(definition, seed=4, spread=0.6)


def tree(seed, tiles, sft=0, cot=0):
    """A prompt with an image of some tiles, or with none; its length depends on the seed."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(10, WORDS, 5 + 7 * seed % 19)
    layouts, pixels = [], []
    if tiles:
        prompt[2] = IMAGE
        layouts = [FAMILY.processor(None, {}).layout(1, tiles)]
        pixels = [np.random.default_rng([seed, tiles]).integers(0, 256, (tiles, KEYS, VALUES)).astype(np.uint8)]
    return Tree(prompt, rng.integers(10, WORDS, sft), rng.integers(10, WORDS, cot), layouts, pixels)


TILES = (2, 0, 1, 3, 0, 1, 2, 1, 3, 0)


def test_a_packed_tree_sees_its_own_images_and_none_of_its_neighbours(model):
    definition, params = model
    trees = [tree(seed, tiles, 4, 6) for seed, tiles in enumerate(TILES[:4])]

    def losses(rows):
        packed = pack_rows(rows, RowSize(128, 48, 4, {"tiles": 8}), definition.processor)
        return forest_losses(definition, params, packed, examples=4, dtype=jnp.float32)

    together, alone = losses([trees]), losses([[each] for each in trees])
    np.testing.assert_allclose(together.sft_BS[0], alone.sft_BS[:, 0], rtol=1e-5)
    np.testing.assert_allclose(together.cot_BS[0], alone.cot_BS[:, 0], rtol=1e-5)
    others = [tree(seed, tiles, 4, 6) for seed, tiles in enumerate((2, 0, 2, 3))]  # the third has another image
    same = np.asarray(losses([others]).sft_BS[0]) == np.asarray(together.sft_BS[0])
    assert same.tolist() == [True, True, False, True]


def uncached(definition, params, prompt):
    """The greedy completion by whole forward passes; equal images are laid anew for each token."""

    @jax.jit
    def next_token(params, row, last):
        model = definition.bind(params)
        return (model.head @ model(row, jnp.float32)[0, last]).argmax()

    found = []
    for _ in range(ANSWER):
        trunk = Tree([*prompt.prompt, *found, 0], NOTHING, NOTHING, prompt.layouts, prompt.pixels)
        row = pack_trunks([trunk], RowSize(40, 0, 1, {"tiles": 3}), definition.processor)
        found.append(int(next_token(params, row, len(trunk.prompt) - 2)))
    return found


def test_decoding_with_static_keys_equals_whole_forward_passes(model):
    definition, params = model
    trees = [tree(seed, tiles) for seed, tiles in enumerate(TILES)]
    prompts = [prompt_of(str(i), each, definition.processor) for i, each in enumerate(trees)]
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    settings = dict(slots=4, answer_tokens=ANSWER, stop_tokens=[], dtype=jnp.float32)  # fewer slots than prompts
    generator = Generator(definition, mesh, **settings)
    found = {each.prompt: each.tokens for each in generator(params, prompts, trees.__getitem__)}
    assert found == {i: uncached(definition, params, each) for i, each in enumerate(trees)}
    assert len({tuple(tokens) for tokens in found.values()}) == len(trees)
    blind = [Tree(each.prompt, NOTHING, NOTHING, each.layouts, [0 * p for p in each.pixels]) for each in trees]
    without = {each.prompt: each.tokens for each in generator(params, prompts, blind.__getitem__)}
    assert [i for i, tiles in enumerate(TILES) if (found[i] == without[i]) != (tiles == 0)] == []


def test_prompts_without_images_need_no_room_for_keys(model):
    definition, params = model
    trees = [tree(seed, 0) for seed in range(5)]
    prompts = [prompt_of(str(i), each, definition.processor) for i, each in enumerate(trees)]
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    generator = Generator(definition, mesh, slots=2, answer_tokens=ANSWER, stop_tokens=[], dtype=jnp.float32)
    found = {each.prompt: each.tokens for each in generator(params, prompts, trees.__getitem__)}
    assert found == {i: uncached(definition, params, each) for i, each in enumerate(trees)}


def test_the_lowered_programs_hold_the_static_keys(model):
    definition, params = model
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    generator = Generator(definition, mesh, slots=4, answer_tokens=ANSWER, stop_tokens=[], dtype=jnp.float32)
    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    counted, meshes = generator._keys, []
    generator._keys = lambda size: meshes.append(jax.sharding.get_abstract_mesh().axis_names) or counted(size)
    programs = generator.lower(structs, RowSize(24, 0, 1, {"tiles": 3}))
    cache, *_ = programs["decode"].out_info
    static = [layer for layer in cache if isinstance(layer, Static)]
    assert [layer.seen_BE.shape for layer in static] == [(4, KEYS * 3)] * 2
    assert meshes == [()]  # a mesh does not divide the one row that they are counted in
