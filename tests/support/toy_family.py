"""A family of its own for tests: text only, one square layer in two stacks that alternate, its own names."""

import dataclasses

import jax
from flax import nnx

from mmkp_jax.data.processor import TextProcessor
from mmkp_jax.models.family import Family, Names, Product, Reference, Source, Stage
from mmkp_jax.models.flops import with_matrices
from mmkp_jax.models.layers import Linear, RMSNorm, parameter, rotate, rotation_by
from mmkp_jax.models.model import Layer, attend_by
from mmkp_jax.models.rope import rotary_frequencies
from mmkp_jax.ops.backends import ANY_ROWS
from mmkp_jax.runtime.json_files import Fields

HEADS, WIDTH_A_HEAD, THETA = 2, 8, 10_000.0


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    vocab_size: int
    num_layers: int
    hidden_size: int = HEADS * WIDTH_A_HEAD
    tie_embeddings: bool | None = None


class ToyLayer(nnx.Module):
    """Attention, then a product; there are no others."""

    def __init__(self, *, layers: int, rngs):
        D = HEADS * WIDTH_A_HEAD
        self.norm = RMSNorm(D, "embed", eps=1e-6, layers=layers, rngs=rngs)
        self.q, self.k, self.v = (
            Linear((D, D), ("heads", "embed"), bias=False, layers=layers, rngs=rngs) for _ in range(3)
        )
        self.mix = Linear((D, D), ("embed", "heads"), bias=False, layers=layers, rngs=rngs)

    def __call__(self, x_BTD, rotation, attend):
        B, T, _ = x_BTD.shape
        h_BTD = self.norm(x_BTD)
        q, k, v = (each(h_BTD).reshape(B, T, HEADS, WIDTH_A_HEAD) for each in (self.q, self.k, self.v))
        return x_BTD + self.mix(attend.own(rotate(q, rotation), rotate(k, rotation), v).reshape(B, T, -1))


class Toy(nnx.Module):
    def __init__(self, config: ToyConfig, *, remat: bool = False, attention=ANY_ROWS, rngs):
        self.config, self.attention = config, attention
        self.words = parameter(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), None)
        self.even = ToyLayer(layers=-(-config.num_layers // 2), rngs=rngs)
        self.odd = ToyLayer(layers=config.num_layers // 2, rngs=rngs)
        self.last = RMSNorm(config.hidden_size, "embed", eps=1e-6, layers=None, rngs=rngs)
        if not config.tie_embeddings:
            self.out = parameter(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), None)

    def __call__(self, forest, dtype):
        return self.decode(forest, None, dtype)

    def encode(self, images, dtype):
        return None

    def memory(self, forest, features, dtype):
        return None

    def embed(self, forest, features, dtype):
        return self.embed_text(forest.token_BT, dtype)

    def embed_text(self, token_BT, dtype):
        return self.words[...][token_BT].astype(dtype)

    def decode(self, forest, features, dtype):
        attend = attend_by(self.attention, forest, self.memory(forest, features, dtype))
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
        return (self.words if self.config.tie_embeddings else self.out)[...]


def read_config(published, where):
    fields = Fields(published, where, "take another")
    tied = fields.flag("tie_word_embeddings", False) if "tie_word_embeddings" in published else None
    return ToyConfig(fields.integer("words"), fields.integer("depth"), tie_embeddings=tied)


def products(config, sizes, work):
    head = "out" if "out" in sizes else "words"
    return [
        *with_matrices(sizes, "even", work.tokens),
        *with_matrices(sizes, "odd", work.tokens),
        Product("even", "", 4 * config.hidden_size * config.num_layers * work.token_pairs),
        Product(head, head, 2 * work.labels * sizes[head]),
    ]


def published(index, kind):
    """Layers 0, 2, 4, … are the stack `even`; queries, keys and values are one tensor."""

    def number(i):
        return 2 * i + index

    parts = {f"{kind}.{each}.weight": Source("block.{}.in", number, (i, 3)) for i, each in enumerate("qkv")}
    return parts | {
        f"{kind}.norm.scale": Source("block.{}.scale", number),
        f"{kind}.mix.weight": Source("block.{}.out", number),
    }


FAMILY = Family(
    name="toy",
    read_config=read_config,
    build=Toy,
    names=Names(
        {"words": "dictionary", "last.scale": "end.scale", "out": "speech"}
        | published(0, "even")
        | published(1, "odd"),
        tied={"out": "words"},
    ),
    processor=lambda config, settings: TextProcessor(),
    stages=(
        *(Stage(path, "decoder") for path in ("even", "odd", "last")),
        Stage("words", "head"),
        Stage("out", "head"),
    ),
    products=products,
    saved_by_layers=lambda config, slots: {},
    reference=Reference("AutoModelForCausalLM", None, lambda ids, config: {}, "", "", ""),
    typical_post={"trunk": 40.0, "sft": 5.0, "cot": 40.0},
)
