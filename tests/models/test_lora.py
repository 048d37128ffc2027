"""Adapters: which linears get one, that they change nothing at first, dropout, FLOPs; and a base in 4 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import define_from, flatten, unflatten
from mmkp_jax.models.family import Work
from mmkp_jax.models.flops import products_of, step_flops
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.layers import Linear
from mmkp_jax.models.lora import Adapter, Lora, is_adapter, with_dropout
from mmkp_jax.models.nf4 import dequantise, quantise
from tests.support import toy_family
from tests.support.lora import with_adapters
from tests.support.parity import our_logits
from tests.support.tiny import tiny_config, write_model
from tests.support.trees import forest_of, random_tree

CONFIG = tiny_config()
ATTENTION = {f"decoder.layers.{name}" for name in "qkvo"}
MLP = {f"decoder.layers.mlp.{name}" for name in ("gate", "up", "down")}
PROJECTOR = {"visual.merger.up", "visual.merger.down"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_model(path, CONFIG)
    return open_folder(str(path))


def adapted(**fields):
    return define_from(FAMILY, CONFIG, lora=Lora(4, 8.0, **fields))


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({}, ATTENTION | MLP | PROJECTOR),
        ({"projector": "full"}, ATTENTION | MLP),
        ({"projector": "frozen", "targets": ("q_proj", "self_attn.v_proj")}, {"decoder.layers.q", "decoder.layers.v"}),
        ({"projector": "frozen", "targets": ("up_proj",)}, {"decoder.layers.mlp.up", "visual.blocks.mlp.up"}),
        (  # the pattern of PEFT's users that keeps the tower out
            {
                "projector": "frozen",
                "targets": (r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",),
            },
            ATTENTION | MLP,
        ),
        ({"targets": ("qkv",)}, {"visual.blocks.qkv"} | PROJECTOR),
    ],
    ids=["decoder", "projector in full", "names", "a name of the tower too", "regex", "tower"],
)
def test_targets_are_matched_as_peft_matches_them(fields, paths):
    definition = adapted(**fields)
    assert set(definition.adapters) == paths
    trained, frozen = split_trained(definition, definition.shapes(), ("tower",))
    of_projector = {path for path in flatten(trained) if not is_adapter(path)}
    assert of_projector == {path for path in flatten(frozen | trained) if path in of_projector}
    assert bool(of_projector) == (fields.get("projector") == "full")
    assert all(path.startswith("visual.merger.") for path in of_projector)
    base = flatten(define_from(FAMILY, CONFIG).shapes())
    assert {path: leaf.shape for path, leaf in flatten(definition.base_shapes()).items()} == {
        path: leaf.shape for path, leaf in base.items()
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ("q_prj",)}, r"'q_prj' matches no linear \(did you mean 'q_proj'\?\)"),
        ({"targets": ("q_proj", "lm_head")}, "'lm_head' matches no linear"),
        (
            {"targets": (r"mlp\.[02]",), "projector": "frozen"},
            r"outside the projector \(config.lora_projector=frozen\)",
        ),
        ({"targets": (r"(q_proj",)}, "is no regex"),
        ({"targets": (r".*layers\.[01]\..*q_proj",)}, r"2 of the 3 layers of model.language_model.layers.\*"),
        ({"base": "nf4"}, "decoder.layers.mlp.down has 96 inputs, which are no multiple of 64"),
    ],
)
def test_what_no_adapter_fits_is_refused_in_one_line(fields, message):
    with pytest.raises(InputError, match=message) as raised:
        adapted(**fields)
    assert "\n" not in str(raised.value) and "config.lora_" in str(raised.value)


def test_a_family_without_a_projector_takes_no_setting_of_one():
    config = toy_family.ToyConfig(50, 2, tie_embeddings=True)
    assert define_from(toy_family.FAMILY, config, lora=Lora(2, 4.0)).adapters
    with pytest.raises(InputError, match=r"config.lora_projector: 'full', and toy has no projector; leave it out"):
        define_from(toy_family.FAMILY, config, lora=Lora(2, 4.0, projector="full"))


def test_adapters_before_the_first_step_give_the_base_bit_by_bit(folder):
    """A is within ±1 / sqrt(in), and B zero; once B is not, all logits are others."""
    forest = forest_of([[random_tree(0, CONFIG, grids=[(4, 6)])]], CONFIG)
    definition, params = with_adapters(folder, Lora(4, 8.0), seed=None)
    base = define_from(FAMILY, CONFIG)
    ours = our_logits(definition, params, forest)
    assert ours.tobytes() == our_logits(base, load_params(folder, base.shapes()), forest).tobytes()
    for path, leaf in flatten(params).items():
        if path.endswith(".lora.a"):
            bound = leaf.shape[-1] ** -0.5
            assert 0.9 * bound < np.abs(leaf).max() <= bound and np.std(leaf) == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not path.endswith(".lora.b") or not np.any(leaf)
    _, moved = with_adapters(folder, Lora(4, 8.0), seed=0)
    assert np.abs(our_logits(definition, moved, forest) - ours).max() > 0.1


def linear_with(lora, layers=None):
    linear = Linear((6, 200), ("heads", "embed"), bias=False, layers=layers, rngs=nnx.Rngs(0))
    linear.lora = Adapter(linear, lora, "name", None)
    for n, each in enumerate((linear.lora.a, linear.lora.b)):
        each[...] = jax.random.normal(jax.random.key(n), each.shape)
    return linear


def test_dropout_drops_its_share_of_an_adapters_inputs_and_keeps_their_mean():
    x = jnp.ones((400, 200))
    linear = linear_with(Lora(200, 200.0, dropout=0.3))
    linear.lora.a[...] = jnp.eye(200)  # the adapter is B alone
    whole = linear.lora(x)
    with_dropout(linear, jax.random.key(0))
    seen = linear.lora(x)
    again = with_dropout(linear, jax.random.key(0)).lora(x)
    other = with_dropout(linear, jax.random.key(1)).lora(x)
    assert np.array_equal(seen, again) and not np.array_equal(seen, other)
    # the mean of 400 rows of sums of 200 terms b / 0.7 with probability 0.7
    spread = np.sqrt(np.sum(np.square(linear.lora.b[...]), axis=1) * (0.3 / 0.7) / 400)
    assert np.all(np.abs(np.mean(seen - whole, axis=0)) < 5 * spread)
    linear.lora.b[...] = jnp.zeros((6, 200)).at[0].set(1.0)
    kept = np.asarray(linear.lora(x)[:, 0]) * 0.7 / 200  # share of the inputs of each row that were kept
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / (400 * 200))
    assert kept.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 200), rel=0.2)
    assert linear_with(Lora(4, 8.0)).lora(x).shape == (400, 6)


def test_each_layer_and_each_linear_drops_inputs_of_its_own():
    stack = linear_with(Lora(4, 8.0, dropout=0.5), layers=3)
    keys = np.asarray(jax.random.key_data(with_dropout(stack, jax.random.key(0)).lora.key[...]))
    assert len(np.unique(keys, axis=0)) == 3
    stack.lora.name = "another"
    others = np.asarray(jax.random.key_data(with_dropout(stack, jax.random.key(0)).lora.key[...]))
    assert not np.isin(others, keys).all(axis=1).any()


def test_parts_of_one_published_tensor_share_one_adapter():
    """Queries, keys and values of the toy family are one tensor in its files: one A for the three, and a B by rows."""
    lora = Lora(2, 4.0, targets=("in",))
    definition = define_from(toy_family.FAMILY, toy_family.ToyConfig(50, 5, tie_embeddings=True), lora=lora)
    assert set(definition.adapters) == {f"{stack}.{name}" for stack in ("even", "odd") for name in "qkv"}
    shapes = {path: leaf.shape for path, leaf in flatten(definition.shapes()).items() if is_adapter(path)}
    assert sorted(shapes) == sorted(
        [f"{stack}.{path}" for stack in ("even", "odd") for path in ("k.lora.a", *(f"{n}.lora.b" for n in "qkv"))]
    )
    assert shapes["even.k.lora.a"] == (3, 2, 16) and shapes["odd.v.lora.b"] == (2, 16, 2)
    names = definition.adapter_names.published
    assert {names[path].name for path in shapes if path.endswith(".a")} == {"block.{}.in.lora_A.weight"}
    assert names["odd.v.lora.b"].part == (2, 3) and names["odd.v.lora.b"].number(1) == 3
    random = np.random.default_rng(0)
    params = unflatten(
        {path: random.standard_normal(leaf.shape, np.float32) for path, leaf in flatten(definition.shapes()).items()}
    )
    x, layer = jnp.ones((4, 16)), params["even"]
    graph, state = nnx.split(definition.bind(params).even)
    one = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[1], state))
    for each in "qkv":
        a, b, weight = layer["k"]["lora"]["a"][1], layer[each]["lora"]["b"][1], layer[each]["weight"][1]
        np.testing.assert_allclose(getattr(one, each)(x), x @ weight.T + 2 * x @ a.T @ b.T, rtol=1e-5)


def test_flops_know_what_lora_saves():
    """Forward as ever plus the adapters; backward once through every matrix, and again for those of adapters alone."""
    work = Work(100.0, 10.0, 5000.0, {"patches": 64.0, "merged": 16.0, "image_pairs": 4096.0, "window_pairs": 4096.0})
    definition, full = adapted(), define_from(FAMILY, CONFIG)
    sizes = {path: leaf.size for path, leaf in flatten(definition.shapes()).items()}
    both = {each.matrix: each.flops for each in products_of(definition, work) if each.matrix}
    assert {path for path in both if is_adapter(path)} == {path for path in sizes if is_adapter(path)}
    assert both["decoder.layers.q.lora.a"] == 2 * 100 * sizes["decoder.layers.q.lora.a"]
    assert both["visual.merger.down.lora.b"] == 2 * 16 * sizes["visual.merger.down.lora.b"]
    of_full, of_lora = step_flops(full, ("tower",), work), step_flops(definition, ("tower",), work)
    adapters = sum(flops for path, flops in both.items() if is_adapter(path) and path.startswith("decoder."))
    attention = 4 * CONFIG.num_layers * CONFIG.num_heads * CONFIG.head_dim * 5000
    matrices = of_full["decoder"].forward - attention
    assert of_lora["decoder"].forward == pytest.approx(of_full["decoder"].forward + adapters)
    assert of_full["decoder"].backward == pytest.approx(2 * matrices + 2 * attention)
    assert of_lora["decoder"].backward == pytest.approx(matrices + 2 * attention + 2 * adapters)
    assert of_lora["tower"].backward == 0 and of_lora["head"].total == of_full["head"].forward * 2


def test_a_base_in_4_bits_computes_with_the_matrices_that_its_codes_stand_for(tmp_path):
    """Codes are those of the folder's matrices; only the decoder's; and logits are those of the values, bit by bit."""
    config = tiny_config(intermediate_size=128, num_layers=2)
    write_model(tmp_path / "model", config)
    folder = open_folder(str(tmp_path / "model"))
    definition = define_from(FAMILY, config, lora=Lora(4, 8.0, base="nf4"))
    plain, whole = with_adapters(folder, Lora(4, 8.0))
    whole = flatten(whole)
    structs = {path: leaf for path, leaf in flatten(definition.shapes()).items() if not is_adapter(path)}
    held = flatten(load_params(folder, unflatten(structs)))
    matrices = {path.removesuffix(".codes") for path in held if path.endswith(".codes")}
    assert matrices == {f"{path}.weight" for path in ATTENTION | MLP}
    for path in matrices:
        codes, absmax = quantise(whole[path])
        assert np.array_equal(codes, held[f"{path}.codes"]) and np.array_equal(absmax, held[f"{path}.absmax"])
    values = {path: dequantise(held[f"{path}.codes"], held[f"{path}.absmax"], jnp.float32) for path in matrices}
    adapters = {path: leaf for path, leaf in whole.items() if is_adapter(path)}
    forest = forest_of([[random_tree(0, config)]], config)
    ours = our_logits(definition, unflatten(held | adapters), forest)
    assert ours.tobytes() == our_logits(plain, unflatten(whole | values), forest).tobytes()
    assert not np.array_equal(ours, our_logits(plain, unflatten(whole), forest))
    size = sum(leaf.nbytes for path, leaf in held.items() if path.rpartition(".")[0] in matrices)
    assert size / sum(whole[path].size for path in matrices) == 0.5625  # bytes a number
