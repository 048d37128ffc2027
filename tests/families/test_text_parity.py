"""Qwen2.5's and Llama's decoders, block by block, against transformers' of the same weights; and what must break it.

All float32 on CPU, to 1e-5 of the largest value, as in `test_parity.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmkp_jax.families import registry
from mmkp_jax.hf.names import published_tensors
from mmkp_jax.models.definition import define_from, flatten, unflatten
from mmkp_jax.models.model import Attend
from mmkp_jax.models.rope import Llama3Scaling, Rope
from mmkp_jax.ops.attention import DENSE
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, our_logits, relative_error
from tests.support.zoo import ZOO, forest_of, model_of, random_tree, reference_of, their_inputs, their_logits

TEXT = [
    pytest.param(name, geometry, id=f"{name}, {geometry}", marks=() if not number else pytest.mark.nightly)
    for name in ("qwen2", "llama")
    for number, geometry in enumerate(ZOO[name].geometries)
]


@pytest.mark.parametrize("name, geometry", TEXT)
def test_blocks_equal_transformers(name, geometry):
    """Embedding, a decoder layer and the last norm, each with transformers' own input; positions beyond 2,000."""
    model = model_of(name, geometry)
    tree = random_tree(7, model, text=2050, cot=0)
    forest = jax.tree.map(jnp.asarray, forest_of([[tree]], model))
    theirs = reference_of(name, geometry).model
    seen = {}

    def keep(block):
        def hook(_, args, kwargs, out):
            x = args[0] if args else kwargs["hidden_states"]
            seen[block] = tuple(np.asarray(t[0] if isinstance(t, tuple) else t) for t in (x, out))

        return hook

    blocks = {"layer": theirs.layers[1], "norm": theirs.norm, "embedding": theirs.embed_tokens}
    handles = [block.register_forward_hook(keep(kind), with_kwargs=True) for kind, block in blocks.items()]
    with needs_torch().no_grad():
        reference_of(name, geometry)(**their_inputs(model, tree, np.concatenate([tree.prompt, tree.sft[:-1]])))
    for handle in handles:
        handle.remove()
    ours = model.definition.bind(model.params)
    graph, state = nnx.split(ours.stack("layers"))
    layer = nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(leaf)[1], state))
    attend = Attend(DENSE.forest(forest.segment_BT, forest.branch_BT))
    found = {
        "embedding": ours.embed(forest, None, jnp.float32),
        "layer": layer(jnp.asarray(seen["layer"][0]), ours.rotation(forest.position_BTA), attend),
        "norm": ours.finish(jnp.asarray(seen["norm"][0])),
    }
    for block, x in found.items():
        assert relative_error(x, seen[block][1]) <= BOUND, block


@pytest.mark.parametrize("width, factor", [(64, 32.0), (128, 32.0), (128, 8.0)])
def test_llamas_scaled_frequencies_are_transformers_bit_by_bit(width, factor):
    needs_torch()
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 8192
    config = LlamaConfig(hidden_size=2 * width, num_attention_heads=2, head_dim=width, rope_parameters=rope)
    config.max_position_embeddings = 131_072
    theirs = LlamaRotaryEmbedding(config).inv_freq.numpy()
    ours = Rope(5e5, Llama3Scaling(factor, 1.0, 4.0, 8192)).frequencies(width)
    assert ours.dtype == np.float32 and np.array_equal(ours, theirs)
    plain, scaled = Rope(5e5).frequencies(width), ours
    assert (plain == scaled).any() and np.isclose(plain[-1], factor * scaled[-1])
    between = (plain != scaled) & ~np.isclose(plain, factor * scaled)
    assert between.any()  # so that all three parts of the rule are compared


def without_bias(model):
    flat = flatten(model.params)
    return unflatten({path: 0 * leaf if path.endswith(".bias") else leaf for path, leaf in flat.items()})


def with_rope(model, rope):
    return define_from(model.definition.family, dataclasses.replace(model.definition.config, rope=rope))


MUTATIONS = {
    "qwen2 without its biases": ("qwen2", lambda model: (model.definition, without_bias(model))),
    "llama without its scaling": ("llama", lambda model: (with_rope(model, Rope(5e5)), model.params)),
    "llama with the scaling of 11B-Vision": (
        "llama",
        lambda model: (with_rope(model, Rope(5e5, Llama3Scaling(8.0, 1.0, 4.0, 8192))), model.params),
    ),
}


@pytest.mark.parametrize("name, change", MUTATIONS.values(), ids=MUTATIONS)
def test_a_mistake_breaks_parity_by_a_hundred_times_its_bound(name, change):
    model = model_of(name)
    tree = random_tree(5, model, text=600, cot=0)
    theirs, forest = their_logits(model, tree, tree.sft), forest_of([[tree]], model)
    assert relative_error(our_logits(model.definition, model.params, forest)[0], theirs) <= BOUND
    assert relative_error(our_logits(*change(model), forest)[0], theirs) >= 100 * BOUND


SIZES = {
    "Qwen/Qwen2.5-3B-Instruct": (434, 3_085_938_688),
    "Qwen/Qwen2.5-7B-Instruct": (339, 7_615_616_512),
    "meta-llama/Llama-3.2-1B-Instruct": (146, 1_235_814_400),
    "meta-llama/Llama-3.2-3B-Instruct": (254, 3_212_749_824),
}
"""Tensors and parameters of the published files."""


@pytest.mark.parametrize("hub_id", SIZES)
def test_the_published_models_have_transformers_tensors(hub_id):
    """Names and shapes of a whole model on torch's meta device, without numbers; and the published counts."""
    torch = needs_torch()
    import transformers

    published = registry.known_config(hub_id)
    definition = registry.define(published)
    shapes = {path: leaf.shape for path, leaf in flatten(definition.shapes()).items()}
    parts = [part for of_path in published_tensors(shapes, definition.family.names).values() for part in of_path]
    ours = {part.name: part.shape for part in parts}
    assert (len(ours), sum(int(np.prod(shape)) for shape in ours.values())) == SIZES[hub_id]
    kind = getattr(transformers, definition.family.reference.model)
    with torch.device("meta"):
        theirs = kind(kind.config_class.from_dict(dict(published))).state_dict()
    if published["tie_word_embeddings"]:
        theirs.pop("lm_head.weight")
    assert ours == {name: tuple(tensor.shape) for name, tensor in theirs.items()}
