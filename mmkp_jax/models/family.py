"""A model family: everything that the rest of the code needs of one. `families.registry` has them by name."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from flax import nnx

from mmkp_jax.data.processor import Processor

PARTS = ("tower", "projector", "decoder", "head")
"""Parts of a model that FLOPs are grouped by and `config.freeze` may name; a family may lack some."""

TEMPLATE_TOKENS = 64
"""Upper bound of a prompt's tokens without its image and the post's text, in most families."""


class Source(NamedTuple):
    """Where a parameter is published, if not simply as one tensor, or as one for each layer 0, 1, 2, …"""

    name: str
    """As in `Names.published`; several stacks or parts may share one."""
    number: Callable[[int], int] = lambda index: index
    """Published layer number of the layer with this index in its stack: where stacks interleave."""
    part: tuple[int, int] = (0, 1)
    """(i, n): our parameter is the i-th of n equal parts of the published tensor's rows."""


class Names(NamedTuple):
    """Paths in our parameters against published tensor names: one table, read in both directions."""

    published: Mapping[str, str | Source]
    """Published name by our path; `{}` in a name is the layer number, and the leading axis of our parameter."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Prefixes that other releases of transformers write, and the published prefixes that they stand for."""
    tied: Mapping[str, str] = MappingProxyType({})
    """Paths of parameters that a tied checkpoint lacks or repeats, to the paths of what they repeat."""


class Stage(NamedTuple):
    """A stage of a forward pass; a family lists them in order."""

    path: str
    """Prefix of its parameters' paths."""
    part: str
    """The part of the model that it belongs to, in tables and in `config.freeze`: one of `PARTS`."""
    scanned: bool = False
    """Whether its layers are recomputed in the backward pass with `config.remat`."""
    last: str = ""
    """Ending of the path of a layer's last matrix, whose product the backward pass does not need again."""
    first: str = ""
    """Ending of the path of its first matrix where it has several, after a norm and no other parameters."""


class Work(NamedTuple):
    """The amount of computation for some rows; sums over all of them."""

    tokens: float
    labels: float
    token_pairs: float
    """(query, key) pairs that the attention rule of the forest allows, including a token with itself."""
    images: Mapping[str, float]
    """Quantities of images, by the family's own names (`Processor.work`)."""

    def times(self, factor: float) -> "Work":
        """The work multiplied by `factor`."""
        tokens, labels, pairs = (factor * each for each in self[:3])
        return Work(tokens, labels, pairs, {name: factor * each for name, each in self.images.items()})


class Product(NamedTuple):
    """Matrix products of a forward pass: those of all layers with one matrix, or all of attention."""

    stage: str
    """Path of the stage."""
    matrix: str
    """Path of the matrix; "" for attention."""
    flops: float


class Preprocessor(NamedTuple):
    """What a model folder's image preprocessor file may contain."""

    kinds: tuple[str, ...]
    """Names, over releases of transformers, of the one implemented image processor; the current one first."""
    supported: Callable[[Any], Mapping[str, Any]]
    """The implemented values by field, for a model's config; equal to transformers' defaults."""
    settings: Mapping[str, tuple[str, str | None]]
    """Names in the file of each setting of `config.data.images`: at the top, which counts first, and in `size`."""
    required: tuple[str, ...] = ()
    """Supported fields without which transformers would take other values."""
    settings_in: str | None = None
    """The file that gives the settings, where the preprocessor's own does not: `config.json`."""
    limits_training: bool = True
    """Whether a run whose config gives no settings takes those of the file; else the family's own."""


class Snippets(NamedTuple):
    """A card's own code for a family that the general code does not suit, with `string.Template`'s placeholders."""

    needs: str
    """Sentence on what has to be installed."""
    transformers: str
    vllm: str


class Reference(NamedTuple):
    """How transformers loads a model of the family and takes its inputs: for `export --verify` and the model card."""

    model: str
    """Name of the model's class."""
    image_processor: str | None
    """Name of the image processor's class, which needs no PyTorch."""
    inputs: Callable[[Any, Any], Mapping[str, Any]]
    """Further inputs for a prompt's token numbers (a PyTorch tensor [1, T]), given transformers' config."""
    expand: str
    """Code for the card: repeats the one image token of `prompt` as `inputs` require."""
    extra: str
    """Code for the card: adds the further `inputs` for `ids`."""
    images: str
    """Sentence for the card on how images are resized, with `{setting}` of `config.data.images`."""
    end: str = "<|im_end|>"
    """A special token, as an example for the card."""
    is_dated: bool = False
    """Whether the chat template writes a date, which code for the card then gives (`data.prompts.DATE`)."""
    options: Mapping[str, Any] = MappingProxyType({})
    """Options of the image processor's call, where its own defaults are others."""
    dropped: tuple[str, ...] = ()
    """Outputs of the image processor that the model does not take."""
    of_images: Callable[[Any, Any, Any], Mapping[str, Any]] = lambda ids, seen, config: {}
    """Further inputs of a prompt with images, for its token numbers (a PyTorch tensor [1, T]) and all outputs of the
    image processor, given transformers' config."""
    adjust: Callable[[Any], None] = lambda model: None
    """Makes a model that transformers has loaded compute what the published one was trained to."""
    adjusting: str = ""
    """Code for the card: the same for `model`."""
    vllm_note: str = ""
    """Sentence for the card on the releases of vLLM that have the family, if not all do."""
    vllm_lora: bool = True
    """Whether vLLM has LoRA for the family."""
    converted: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]] | None = None
    """(content of `config.json`) -> the JSON files, by name, of the same model in a layout that transformers loads;
    None where it loads the family's own without code of the folder."""
    snippets: Snippets | None = None
    """Code for the card, in the place of what the fields above give."""
    peft_task: str | None = "CAUSAL_LM"
    """PEFT's task of an adapter; None where the model's class leaves generation to a part of it: PEFT's class for that
    task then cannot be made."""


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Everything that defines a model family."""

    name: str
    """The `model_type` of its `config.json`."""
    read_config: Callable[[Mapping[str, Any], str], Any]
    """Reads the content of a `config.json` (and its path, for messages). The result has at least `vocab_size`,
    `hidden_size`, `num_layers` and `tie_embeddings`. The last is None where the content leaves it to the files: then a
    folder that holds no head is tied (`tie_word_embeddings` at the top of `Folder.config`).

    Raises:
        InputError: a field is missing, of another type, at odds with another, or asks for what is not implemented.
    """
    build: Callable[..., nnx.Module]
    """The module (`models.model.Model`) of a config, with `remat`, `attention` and `rngs` by name."""
    names: Names
    processor: Callable[[Any, Mapping[str, int]], Processor]
    """Makes the processor of a config, with the settings of `config.data.images`.

    Raises:
        InputError: a setting is unknown or out of its range.
    """
    stages: tuple[Stage, ...]
    products: Callable[[Any, Mapping[str, int], Work], list[Product]]
    """(config, sizes of parameters by path, work) -> the products of a forward pass."""
    saved_by_layers: Callable[[Any, Mapping[str, int]], Mapping[str, int]]
    """(config, slots of a row) -> numbers that layers save with `config.remat`, by path of the scanned stage."""
    reference: Reference
    true_share: Callable[[Any], float] = lambda _: 1.0
    """(config) -> the share of executions in which a conditional of the compiled program is true."""
    attended: tuple[str, ...] = ()
    """Names in `Work.images` that attention kernels compute, which skip what is masked: pairs of slots of the first
    kind."""
    attended_elsewhere: tuple[str, ...] = ()
    """Further such names: a program that computes what is masked, too, has those of `Processor.work_of_slots`."""
    preprocessor: Preprocessor | None = None
    """Supported preprocessor files; None in a family without images."""
    published: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """The `config.json` of published models that are known without network access, by hub id."""
    typical_post: Mapping[str, float] | Callable[[Processor], Mapping[str, float]] = dataclasses.field(
        default_factory=dict
    )
    """Slots of CMKP's mean post under the published tokenizer: `trunk`, `sft`, `cot`, and the family's own; by the
    processor where its settings change them."""
    unembedded: tuple[str, ...] = ()
    """Tokens of the published tokenizer without an embedding, which no prompt may have."""
    template_tokens: int = TEMPLATE_TOKENS
    """Upper bound of a prompt's tokens without its image and the post's text."""
    embedding_rows: Callable[[Any], int] = lambda config: config.vocab_size
    """(config) -> rows of the embedding: tokens that a prompt may have."""

    def paths(self, freeze: Sequence[str]) -> tuple[str, ...]:
        """Patterns of parameter paths for `config.freeze`, in which parts of the model may be named."""
        parts = dict.fromkeys(PARTS, ()) | self.parts()
        return tuple(path for pattern in freeze for path in parts.get(pattern, (pattern,)))

    def typical(self, processor: Processor) -> Mapping[str, float]:
        """`typical_post` under a processor's settings."""
        return self.typical_post(processor) if callable(self.typical_post) else self.typical_post

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Prefixes of parameter paths, by part of the model."""
        parts: dict[str, tuple[str, ...]] = {}
        for stage in self.stages:
            parts[stage.part] = (*parts.get(stage.part, ()), stage.path)
        return parts
