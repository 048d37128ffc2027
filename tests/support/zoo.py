"""The zoo: every family in tiny sizes, for the suites that hold for all of them.

A suite is parametrised by the names in `ZOO` and asks for what it needs: `model_of` (definition and parameters, every
tensor away from its initial value), `random_tree`, `forest_of`, `reference_of` (transformers' model of the same
numbers), `their_logits`, `write_folder` (a whole model folder in the published layout).

To add a family, write a `Member` (`zoo_member.py`) in a file of its own and a row of `ZOO` here.
"""

import functools
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows, tree_size
from mmkp_jax.data.processor import Processor
from mmkp_jax.families.registry import define
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import Definition, Params, flatten, unflatten
from mmkp_jax.pocket.tokenizer import train_tokenizer
from tests.support import zoo_internvl, zoo_llama, zoo_mllama, zoo_qwen2, zoo_qwen2_5_vl
from tests.support.needs_torch import needs_torch
from tests.support.zoo_member import PLAIN_TOKENS, TEXT_TOKENS, Member

if TYPE_CHECKING:
    import torch

ZOO: Mapping[str, Member] = {
    "qwen2_5_vl": zoo_qwen2_5_vl.MEMBER,
    "qwen2": zoo_qwen2.MEMBER,
    "llama": zoo_llama.MEMBER,
    "internvl": zoo_internvl.MEMBER,
    "internvl_chat": zoo_internvl.CHAT,
    "mllama": zoo_mllama.MEMBER,
}
"""Members by name: that of a family, or of a layout where a family has several."""

SENTENCES = (
    "Keyphrase prediction for social media posts with images.",
    "The model predicts the keyphrases of the post: the present ones, and those absent from the text.",
)
"""What the tiny tokenizers are trained on."""


class TinyModel(NamedTuple):
    """A member in one geometry."""

    name: str
    geometry: str
    published: Mapping[str, Any]
    definition: Definition
    params: Params

    @property
    def member(self) -> Member:
        """The member."""
        return ZOO[self.name]

    @property
    def processor(self) -> Processor:
        """The processor with the family's default settings."""
        return self.definition.processor


def first_geometries(*names: str, layouts: bool = False, default: Sequence[str] = ()) -> list[Any]:
    """(name, geometry) of each model, or of those named, in its first geometry: parameters of a default test.

    With `layouts`, also of further layouts of a model that is there; with `default`, others than these are nightly.
    """
    names = names or [name for name, member in ZOO.items() if layouts or not member.layout_of]
    return [
        pytest.param(
            *(name, next(iter(ZOO[name].geometries))),
            id=name,
            marks=() if not default or name in default else pytest.mark.nightly,
        )
        for name in names
    ]


def all_geometries(default: bool = True) -> list[Any]:
    """(name, geometry) of everything; all but the first of each member, or with `default=False` all, is nightly."""
    return [
        pytest.param(
            name, geometry, id=f"{name}, {geometry}", marks=() if default and not number else pytest.mark.nightly
        )
        for name, member in ZOO.items()
        if not member.layout_of
        for number, geometry in enumerate(member.geometries)
    ]


@functools.lru_cache(maxsize=32)
def model_of(name: str, geometry: str = "") -> TinyModel:
    """The member's model in a geometry, else in its first, with random parameters."""
    member = ZOO[name]
    geometry = geometry or next(iter(member.geometries))
    published = member.geometries[geometry]
    definition = define(published)
    return TinyModel(name, geometry, published, definition, random_params(definition, member))


def random_params(definition: Definition, member: Member, seed: int = 0) -> Params:
    """Random float32 parameters with which activations stay around 1.

    Biases lie around 0 and norm scales around 1, none of them there.
    """
    random = np.random.default_rng(seed)
    axes = flatten(definition.logical_axes())

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if (numbers := member.draw(path, shape, random)) is not None:
            return numbers.astype(np.float32)
        numbers = random.standard_normal(shape, np.float32)
        if path.endswith(".scale"):
            return 1 + np.float32(0.2) * numbers
        if path.endswith(".bias"):
            return np.float32(0.1) * numbers
        fan_in = math.prod(shape[2 if axes[path][0] == "layers" else 1 :])
        return numbers * np.float32(fan_in**-0.5)

    return unflatten({path: draw(path, leaf.shape) for path, leaf in flatten(definition.shapes()).items()})


def random_tree(
    seed: int, model: TinyModel, *, images: Sequence[int] = (0,), text: int = 9, sft: int = 4, cot: int = 7
) -> Tree:
    """A prompt of a few tokens, each image with a few more behind it, `text` tokens; targets of given lengths.

    Args:
        images: numbers of `Member.sizes`; a family without images has none of them.
    """
    random, processor = np.random.default_rng(seed), model.processor

    def draw(n: int) -> np.ndarray:
        return random.integers(0, TEXT_TOKENS, n).astype(np.int32)

    parts, layouts, pixels = [draw(3)], [], []
    for number in images if model.member.sizes else ():
        size = model.member.sizes[number]
        layouts.append(processor.layout(*size))
        parts += [processor.placeholder(layouts[-1]), draw(2)]
        pixels.append(processor.pixels(Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)), layouts[-1]))
    return Tree(np.concatenate([*parts, draw(text)]), draw(sft), draw(cot), tuple(layouts), tuple(pixels))


def row_size(rows: Sequence[Sequence[Tree]], processor: Processor, spare: int = 0) -> RowSize:
    """The smallest slots that hold every row, and `spare` more of each (four times as many for images)."""
    sizes = [[tree_size(tree, processor).slots() for tree in trees] for trees in rows]

    def most(name: str) -> int:
        return max(sum(size[name] for size in row) for row in sizes)

    images = {kind: most(kind) + 4 * spare for kind in processor.slots}
    return RowSize(*(most(name) + spare for name in ("tokens", "labels", "examples")), images)


def forest_of(rows: Sequence[Sequence[Tree]], model: TinyModel, spare: int = 0) -> Forest:
    """The rows packed into as little room as they need, and `spare` slots of padding."""
    return pack_rows(rows, row_size(rows, model.processor, spare), model.processor)


@functools.lru_cache(maxsize=4)
def reference_of(name: str, geometry: str = "") -> "torch.nn.Module":
    """transformers' model of `model_of`'s numbers, in float32, for inference."""
    torch = needs_torch()
    import transformers

    model = model_of(name, geometry)
    config = model.member.reference_config(model.published)
    kind = getattr(transformers, define(config).family.reference.model)
    with tempfile.TemporaryDirectory() as folder:
        save_params(model.params, config, Path(folder))
        loaded, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return loaded.eval()


def their_inputs(model: TinyModel, tree: Tree, tokens: np.ndarray) -> "dict[str, torch.Tensor]":
    """transformers' inputs for a sequence that begins with the tree's prompt."""
    torch = needs_torch()
    ids = torch.from_numpy(np.asarray(tokens, np.int64))[None]
    further = model.definition.family.reference.inputs(ids, reference_of(model.name, model.geometry).config)
    images = model.member.image_inputs(tree, ids, model.definition) if tree.layouts else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **further, **images}


def their_logits(model: TinyModel, tree: Tree, target: np.ndarray) -> np.ndarray:
    """Logits of the prompt and of all but the last token of a target, as a plain sequence: float32 [T, V]."""
    inputs = their_inputs(model, tree, np.concatenate([tree.prompt, target[:-1]]))
    with needs_torch().no_grad():
        return reference_of(model.name, model.geometry)(**inputs).logits[0].float().numpy()


def write_folder(folder: Path, model: TinyModel, **how: Any) -> Path:
    """Writes a model folder: weights and config, and `write_others`; `how` goes to `save_params`."""
    save_params(model.params, model.published, folder, **how)
    write_others(folder, model)
    return folder


def write_others(folder: Path, model: TinyModel) -> None:
    """Writes the tokenizer and the JSON files next to weights and config."""
    member = model.member
    tokenizer = train_tokenizer(SENTENCES, member.vocabulary, PLAIN_TOKENS)
    assert tokenizer.convert_tokens_to_ids(member.vocabulary.special_tokens[0]) == PLAIN_TOKENS
    tokenizer.save_pretrained(folder)
    for name, content in member.files(model.published).items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for name, text in member.texts.items():
        (folder / name).write_text(text, encoding="utf-8")
