"""An exported folder compared with our model: logits and completions of transformers in float32. Needs PyTorch."""

import contextlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.forest import RowSize, Tree, pack_rows, tree_size
from mmkp_jax.data.images import decode
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.adapter import write_renamed
from mmkp_jax.hf.folder import CONFIG, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.preprocessor import named_settings
from mmkp_jax.hf.prompt_limits import read_prompt_limits
from mmkp_jax.hf.save import save_params
from mmkp_jax.hf.tensors import DTYPES, reason_of
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.family import Family

BOUND = 1e-5
"""Largest difference of logits, as a share of the largest logit. In float32 a layer adds a few 1e-7."""


class ReferenceOutput(NamedTuple):
    """The output of transformers for a post."""

    logits_MV: np.ndarray
    """float32: logits that predict each token of the target."""
    completion: str
    tokens: int
    """Tokens of the completion, without its stop token."""


def has_torch() -> bool:
    """Whether PyTorch is installed, so that transformers can load a model."""
    return importlib.util.find_spec("torch") is not None


def our_logits(definition: Definition, params: Params, trees: Sequence[Tree]) -> Iterator[np.ndarray]:
    """Logits of each tree that predict the tokens of its SFT target, float32 [M, V]."""
    sizes = [tree_size(tree, definition.processor).slots() for tree in trees]
    size = RowSize.from_slots({name: max(each[name] for each in sizes) for name in sizes[0]})

    @jax.jit
    def run(params: Params, forest) -> jax.Array:
        model = definition.bind(params)
        hidden_BTD = model(forest, jnp.float32)
        hidden_BMD = jnp.take_along_axis(hidden_BTD, forest.label_slot_BM[..., None], axis=1)
        return jnp.einsum("bmd,vd->bmv", hidden_BMD, model.head.astype(jnp.float32))

    with jax.default_matmul_precision("highest"):  # otherwise a TPU multiplies in bf16
        for tree in trees:
            forest = pack_rows([[tree]], size, definition.processor)
            yield np.asarray(run(params, forest)[0, : len(tree.sft)])


def reference_outputs(
    family: Family,
    folder: Path,
    trees: Sequence[Tree],
    images: Sequence[bytes],
    answer_tokens: int,
    adapter: Path | None = None,
) -> Iterator[ReferenceOutput]:
    """Loads the folder in transformers, on the CPU, and runs it on the prompts and SFT targets of `trees`.

    Args:
        images: the file of each tree's image, empty without one: the folder's own image processor reads it.
        answer_tokens: most tokens of a greedy completion.
        adapter: folder of an adapter that PEFT adds to the model.

    Raises:
        InputError: transformers or PEFT cannot load the folder, or PEFT is not installed.
    """
    import torch
    import transformers
    from transformers import AutoTokenizer

    reference = family.reference
    limits = read_prompt_limits(adapter) if adapter is not None else None
    of_images = (limits.images if limits else None) or {}
    try:
        with _quiet(), _loadable(family, folder, adapter, of_images) as (loadable, loadable_adapter):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            kind = reference.image_processor
            settings = {} if family.reference.converted else named_settings(family, of_images)
            processor = kind and getattr(transformers, kind).from_pretrained(
                loadable, local_files_only=True, **settings
            )
            model = getattr(transformers, reference.model).from_pretrained(
                loadable, dtype=torch.float32, local_files_only=True
            )
            model = model if adapter is None else adapted(model, loadable_adapter)
    except InputError:
        raise
    except Exception as error:  # from values in the base's files that only transformers reads
        what = f"transformers cannot load the export ({reason_of(error)})"
        raise InputError(what, str(folder), "check the base's generation_config.json and config.json") from None
    model.eval()
    reference.adjust(model)
    greedy = {"max_new_tokens": answer_tokens, "do_sample": False, "repetition_penalty": 1.0}
    for tree, image in zip(trees, images, strict=True):
        seen = dict(processor([decode(image)], **reference.options, return_tensors="pt")) if tree.layouts else {}

        def inputs(tokens: np.ndarray, seen=seen) -> dict[str, torch.Tensor]:
            ids = torch.from_numpy(tokens.astype(np.int64))[None]
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            further = {**seen, **reference.of_images(ids, seen, model.config)} if seen else {}
            taken = {name: values for name, values in further.items() if name not in reference.dropped}
            return {**given, **reference.inputs(ids, model.config), **taken}

        prompt = tree.prompt
        with torch.no_grad():
            logits = model(**inputs(np.concatenate([prompt, tree.sft[:-1]])), logits_to_keep=len(tree.sft)).logits[0]
            written = model.generate(**inputs(prompt), **greedy)[0, len(prompt) :].tolist()
        named = model.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
        completion = next((written[:i] for i, token in enumerate(written) if token in ends), written)
        yield ReferenceOutput(logits.numpy(), tokenizer.decode(completion, skip_special_tokens=False), len(completion))


def adapted(model: Any, adapter: Path) -> Any:
    """transformers' model with an adapter's tensors in it, by PEFT, which itself only warns of what it does not find.

    Raises:
        InputError: PEFT is not installed, or the adapter is not one of this model.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError("peft is not installed", "--verify", "pip install -e '.[parity]', or leave out --verify")
    import peft

    try:
        model = peft.get_peft_model(model, peft.PeftConfig.from_pretrained(str(adapter)))
        found = peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(adapter), device="cpu"))
    except Exception as error:  # whatever PEFT raises
        what = f"PEFT cannot load the adapter ({reason_of(error)})"
        raise InputError(what, str(adapter), "do not use it, and report this") from None
    missing = [name for name in found.missing_keys if ".lora_" in name or ".modules_to_save." in name]
    if missing or found.unexpected_keys:
        what = f"PEFT misses {len(missing)} tensors of it, and does not know {len(found.unexpected_keys)}"
        raise InputError(what, str(adapter), "do not use it, and report this")
    return model.get_base_model()


@contextlib.contextmanager
def _loadable(
    family: Family, folder: Path, adapter: Path | None, of_images: Mapping[str, int]
) -> Iterator[tuple[Path, Path | None]]:
    """The folder and the adapter, or temporary ones with their numbers in the layout that transformers loads.

    Args:
        of_images: settings of images, in the place of the folder's.
    """
    if family.reference.converted is None:
        yield folder, adapter
        return
    opened = open_folder(str(folder))
    definition = define(opened.config, opened.config_file)
    dtype = np.result_type(*(DTYPES[tensor.dtype] for tensor in opened.tensors.values()))
    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), definition.shapes())
    files = dict(family.reference.converted({**opened.config, **named_settings(family, of_images)}))
    with tempfile.TemporaryDirectory() as made:
        for name, content in files.items():
            (Path(made) / name).write_text(json.dumps(content), encoding="utf-8")
        save_params(load_params(opened, structs), files[CONFIG], Path(made))
        if adapter is None:
            yield Path(made), None
            return
        renamed = Path(made) / "adapter"
        renamed.mkdir()
        write_renamed(adapter, definition, define(files[CONFIG]), renamed)
        yield Path(made), renamed


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turns off transformers' progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
