"""A model family: all that the rest of the code asks of one, in one value. `families.registry` has them by name."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from flax import nnx

from mmkp_jax.data.processor import Processor

PARTS = ("tower", "projector", "decoder", "head")
"""Parts of a model by which stages are counted, and that `config.freeze` may name; a family may lack some."""


class Names(NamedTuple):
    """Published tensor names against paths in our parameters: one table, read in both directions."""

    ours: Mapping[str, str]
    """Our path by published name; `{}` in a name is the layer number there, and the front axis here."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Prefixes of names that other releases of transformers write, and what is published in their place."""
    tied: Mapping[str, str] = MappingProxyType({})
    """Our path of what a tied checkpoint lacks, or carries over again, to the path that it repeats."""


class Stage(NamedTuple):
    """A part of a forward pass, in its order."""

    path: str
    """The beginning of its parameters' paths."""
    part: str
    """The part of the model that it counts to, in tables and in `config.freeze`: tower, projector, decoder or head."""
    scanned: bool = False
    """Whether its layers are computed again in the backward pass, with `config.remat`."""


class Work(NamedTuple):
    """What there is to compute of some rows; sums over all of them."""

    tokens: float
    labels: float
    token_pairs: float
    """(query, key) that the rule of the forest lets see each other, a token and itself among them."""
    images: Mapping[str, float]
    """Of images, by the family's own names (`Processor.work`)."""

    def times(self, factor: float) -> "Work":
        """So many times as much."""
        tokens, labels, pairs = (factor * each for each in self[:3])
        return Work(tokens, labels, pairs, {name: factor * each for name, each in self.images.items()})


class Product(NamedTuple):
    """Products of a forward pass: all layers' with one matrix, or all those of attention."""

    stage: str
    """Path of the stage."""
    matrix: str
    """The matrix's path; "" for attention."""
    flops: float


class Preprocessor(NamedTuple):
    """What a model folder's image preprocessor may say."""

    kinds: tuple[str, ...]
    """transformers' names, over its releases, for the one image processor that is implemented; the first is today's."""
    supported: Callable[[Any], Mapping[str, Any]]
    """The values that are implemented, by field, for a model's config: as transformers' own defaults."""
    settings: Mapping[str, tuple[str, str]]
    """Names of each setting of `config.data.images` in the file: at the top, where it counts first, and in `size`."""


class Reference(NamedTuple):
    """How transformers loads and is fed a model of the family: for `export --verify` and the model card."""

    model: str
    """The class, by name."""
    image_processor: str | None
    """Likewise; it needs no PyTorch."""
    inputs: Callable[[Any, Any], Mapping[str, Any]]
    """What a prompt's token numbers (a PyTorch tensor [1, T]) need next to them, for transformers' config."""
    expand: str
    """Code of the card: makes `prompt`'s one image token those of `inputs`."""
    extra: str
    """Code of the card: adds what `inputs` needs next to `ids`."""
    images: str
    """A sentence of the card on how images are resized, with `{setting}` of `config.data.images`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A model family."""

    name: str
    """The `model_type` of its `config.json`."""
    read_config: Callable[[Mapping[str, Any], str], Any]
    """The config in a `config.json` (read at a place, for messages). It has at least `vocab_size`, `hidden_size`,
    `num_layers` and `tie_embeddings`.

    Raises:
        InputError: a field is missing, of another type, at odds with another, or asks for what is not implemented.
    """
    build: Callable[..., nnx.Module]
    """The module (`models.model.Model`) of a config, with `remat`, `attention` and `rngs` by name."""
    names: Names
    processor: Callable[[Any, Mapping[str, int]], Processor]
    """Of a config, with the settings of `config.data.images`.

    Raises:
        InputError: a setting is unknown or out of its range.
    """
    stages: tuple[Stage, ...]
    products: Callable[[Any, Mapping[str, int], Work], list[Product]]
    """Of a config, the parameters' sizes by path, and the work: the products of a forward pass."""
    saved_inputs: Callable[[Any, Mapping[str, int]], Mapping[str, int]]
    """Of a config and a row's slots: numbers in the layers' inputs, by the scanned stage's path."""
    true_share: Callable[[Any], float] = lambda _: 1.0
    """Of a config: the share of runs in which a conditional of the compiled program is true."""
    attended: tuple[str, ...] = ()
    """The work of images that attention kernels do, which skip what no token may see."""
    preprocessor: Preprocessor | None = None
    """None in a family without images."""
    reference: Reference | None = None
    published: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """The `config.json` of published models that are known without asking the hub, by hub id."""
    typical_post: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The mean post of CMKP under the published tokenizer, in slots: `trunk`, `sft`, `cot`, and the family's own."""

    def paths(self, freeze: Sequence[str]) -> tuple[str, ...]:
        """Patterns of parameter paths, for those of a config in which parts of the model may be named."""
        parts = dict.fromkeys(PARTS, ()) | self.parts()
        return tuple(path for pattern in freeze for path in parts.get(pattern, (pattern,)))

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Beginnings of parameter paths, by the part of the model."""
        parts: dict[str, tuple[str, ...]] = {}
        for stage in self.stages:
            parts[stage.part] = (*parts.get(stage.part, ()), stage.path)
        return parts
