"""A family of its own for tests: text only, one square layer in two kinds that alternate, its own names."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.data.processor import TextProcessor
from mmkp_jax.models.family import Family, Names, Product, Reference, Stage
from mmkp_jax.models.flops import with_matrices
from mmkp_jax.models.layers import Linear, RMSNorm, parameter, rotary_frequencies, rotate, rotation_by
from mmkp_jax.models.model import Layer
from mmkp_jax.ops.backends import BACKENDS
from mmkp_jax.runtime.json_files import Fields

HEADS, WIDTH_A_HEAD, THETA = 2, 8, 10_000.0


class ToyConfig(NamedTuple):
    vocab_size: int
    num_layers: int
    hidden_size: int = HEADS * WIDTH_A_HEAD
    tie_embeddings: bool = True


class ToyLayer(nnx.Module):
    """Attention, then a product; there are no others."""

    def __init__(self, *, layers: int, rngs):
        D = HEADS * WIDTH_A_HEAD
        self.norm = RMSNorm(D, "embed", eps=1e-6, layers=layers, rngs=rngs)
        self.qkv = Linear((3 * D, D), ("heads", "embed"), bias=False, layers=layers, rngs=rngs)
        self.mix = Linear((D, D), ("embed", "heads"), bias=False, layers=layers, rngs=rngs)

    def __call__(self, x_BTD, rotation, attend):
        B, T, _ = x_BTD.shape
        q, k, v = jnp.moveaxis(self.qkv(self.norm(x_BTD)).reshape(B, T, 3, HEADS, WIDTH_A_HEAD), 2, 0)
        return x_BTD + self.mix(attend(rotate(q, rotation), rotate(k, rotation), v).reshape(B, T, -1))


class Toy(nnx.Module):
    def __init__(self, config: ToyConfig, *, remat: bool = False, attention: str = "dense", rngs):
        self.config, self.attention = config, attention
        self.words = parameter(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), None)
        self.even = ToyLayer(layers=-(-config.num_layers // 2), rngs=rngs)
        self.odd = ToyLayer(layers=config.num_layers // 2, rngs=rngs)
        self.last = RMSNorm(config.hidden_size, "embed", eps=1e-6, layers=None, rngs=rngs)

    def __call__(self, forest, dtype):
        return self.decode(forest, None, dtype)

    def encode(self, images, dtype):
        return None

    def embed(self, forest, features, dtype):
        return self.embed_text(forest.token_BT, dtype)

    def embed_text(self, token_BT, dtype):
        return self.words[...][token_BT].astype(dtype)

    def decode(self, forest, features, dtype):
        attend = BACKENDS[self.attention].forest(forest.segment_BT, forest.branch_BT)
        x_BTD, rotation = self.embed(forest, features, dtype), self.rotation(forest.position_BTA)
        for layer in self.layers():
            graph, state = nnx.split(self.stack(layer.stack))
            one = jax.tree.map(lambda leaf, layer=layer: leaf[layer.index], state)
            x_BTD = nnx.merge(graph, one)(x_BTD, rotation, attend)
        return self.finish(x_BTD)

    def rotation(self, position_BTA):
        return rotation_by(position_BTA[..., :1] * rotary_frequencies(WIDTH_A_HEAD, THETA))

    def layers(self):
        names = ("even", "odd")
        return tuple(Layer(names[i % 2], i // 2, HEADS, WIDTH_A_HEAD) for i in range(self.config.num_layers))

    def stack(self, name):
        return getattr(self, name)

    def finish(self, x_BTD):
        return self.last(x_BTD)

    @property
    def head(self):
        return self.words[...]


def read_config(published, where):
    fields = Fields(published, where, "take another")
    return ToyConfig(fields.integer("words"), fields.integer("depth"))


def products(config, sizes, work):
    return [
        *with_matrices(sizes, "even", work.tokens),
        *with_matrices(sizes, "odd", work.tokens),
        Product("even", "", 4 * config.hidden_size * config.num_layers * work.token_pairs),
        Product("words", "words", 2 * work.labels * sizes["words"]),
    ]


LAYER = {"scale": "norm.scale", "in": "qkv.weight", "out": "mix.weight"}

FAMILY = Family(
    name="toy",
    read_config=read_config,
    build=Toy,
    names=Names(
        {"dictionary": "words", "end.scale": "last.scale"}
        | {f"{kind}.{{}}.{theirs}": f"{kind}.{ours}" for kind in ("even", "odd") for theirs, ours in LAYER.items()}
    ),
    processor=lambda config, settings: TextProcessor(),
    stages=(Stage("even", "decoder"), Stage("odd", "decoder"), Stage("last", "decoder"), Stage("words", "head")),
    products=products,
    saved_inputs=lambda config, slots: {},
    reference=Reference("AutoModelForCausalLM", None, lambda ids, config: {}, "", "", ""),
    typical_post={"trunk": 40.0, "sft": 5.0, "cot": 40.0},
)
