"""Loads a model to predict with, and its inputs' settings, from a run's checkpoint or a Hugging Face folder."""

import sys
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from mmkp_jax.data.examples import Recipe
from mmkp_jax.errors import InputError
from mmkp_jax.hf.adapter import load_adapter, read_lora
from mmkp_jax.hf.folder import CONFIG, Folder, load_tokenizer, open_folder, stop_tokens
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.preprocessor import PREPROCESSOR, processor_of, read_settings
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, PromptLimits, read_prompt_limits
from mmkp_jax.inference.base import open_base
from mmkp_jax.inference.run_config import holds_run, run_config
from mmkp_jax.models.definition import Definition, Params, as_dtype
from mmkp_jax.models.digest import digests_of
from mmkp_jax.models.freezing import join_params, split_trained
from mmkp_jax.models.lora import lora_of
from mmkp_jax.models.sharding import DEFAULT_RULES, make_mesh, param_structs
from mmkp_jax.runtime.checksums import find_damage, has_checksums
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.fields import field_named
from mmkp_jax.training.batches import recipe_of
from mmkp_jax.training.checkpoint import BASE, metadata_of, no_checksums_message
from mmkp_jax.training.frozen import check_frozen
from mmkp_jax.training.setup import DTYPES, define_on

MAX_TEXT_TOKENS, BATCH_SIZE, ANSWER_TOKENS = (
    field_named(field).default for field in ("data.max_text_tokens", "eval_batch_size", "answer_tokens")
)
"""Defaults for a model folder that does not name them."""

_BY_TENSOR = {"F32": jnp.float32, "BF16": jnp.bfloat16, "F16": jnp.bfloat16}

MESH = {"data": 1, "fsdp": -1, "tensor": 1}
"""A mesh on which every device holds a part of the parameters and of the completions."""


class LoadedModel(NamedTuple):
    """A model with its parameters on the devices, and all that prediction needs."""

    definition: Definition
    params: Params
    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    stop_tokens: frozenset[int]
    """The tokens that end a completion."""
    dtype: jnp.dtype
    """The dtype that it computes in."""
    batch_size: int
    answer_tokens: int


def load_model(model: str, *, adapter: str = "", zero_shot: bool = False, verified: bool = False) -> LoadedModel:
    """Loads a work directory's checkpoint (`DIR`, `DIR@STEP`, `DIR@best`), a Hugging Face folder, or a hub id.

    A run's model takes its inputs, and computes, as its config says. A folder's pixel limits are those that
    transformers reads, and an exported folder has the limits of its run's inputs (`hf.prompt_limits`), an adapter's
    also those of images; other values are those of docs/config.md. A folder's model computes in its own dtype.

    Args:
        adapter: folder of a PEFT adapter of a folder's model; empty for none.
        zero_shot: whether the prompt describes the output's format; a zero-shot run's prompt always does.
        verified: whether the checkpoint's checksums were verified already.

    Raises:
        InputError: there is no such model or checkpoint, or it cannot be used.
    """
    path, at, step = (model, "", "latest") if Path(model).is_dir() else model.partition("@")
    if holds_run(Path(path)):
        if adapter:
            raise InputError("a run's model has its own adapters", f"--adapter={adapter}", "give the run alone")
        return open_run(Path(path), step or "latest", run_config(Path(path)), zero_shot, verified)
    if at:
        raise InputError(f"there is no run here with a step {at + step}", path, "give a run's work directory")
    return _open_folder(open_folder(path), adapter, zero_shot)


def load_folder(folder: Folder, adapter: str, mesh: Mesh, dtype: jnp.dtype) -> tuple[Definition, Params]:
    """The model of a folder, with an adapter (its parameters in float32) where that is not empty.

    Raises:
        InputError: the folder's tensors are not the model's, or the adapter is not one of this model.
    """
    if not adapter:
        definition = define_on(mesh, folder.config, folder.config_file)
        return definition, load_params(folder, param_structs(definition, mesh, DEFAULT_RULES, dtype))
    lora = read_lora(Path(adapter).expanduser(), folder.family)
    try:
        definition = define_on(mesh, folder.config, folder.config_file, lora=lora)
    except InputError as error:  # its modules are not the model's
        raise InputError(error.what, adapter, f"give an adapter of {folder.path}") from None
    trained, others = split_trained(definition, param_structs(definition, mesh, DEFAULT_RULES, dtype), ())
    params = load_adapter(definition, adapter, as_dtype(trained, jnp.float32))
    return definition, join_params(params, load_params(folder, others, every=definition.base_shapes()))


def _open_folder(folder: Folder, adapter: str, zero_shot: bool) -> LoadedModel:
    dtype = _dtype_of(folder)
    definition, params = load_folder(folder, adapter, make_mesh(MESH), dtype)
    tokenizer = load_tokenizer(folder)
    own = Path(adapter).expanduser() if adapter else folder.path
    limits = read_prompt_limits(own) or PromptLimits(MAX_TEXT_TOKENS, ANSWER_TOKENS)
    if adapter and limits.images is not None:
        file = own / PROMPT_LIMITS
        processor = processor_of(definition.family, definition.config, limits.images, file, "export the adapter again")
    else:
        of_images = own if (own / PREPROCESSOR).is_file() else folder.path
        settings = read_settings(of_images, definition.family, definition.config)
        processor = definition.family.processor(definition.config, settings)
    recipe = Recipe(
        template=processor.template(tokenizer),
        processor=processor,
        max_text_tokens=limits.max_text_tokens,
        zero_shot=zero_shot,
    )
    stops = stop_tokens(folder, recipe.template.end_token)
    return LoadedModel(definition, params, recipe, tokenizer, stops, dtype, BATCH_SIZE, limits.answer_tokens)


def _dtype_of(folder: Folder) -> jnp.dtype:
    """The dtype that a folder's model computes in: the one that its config names, else that of its first tensor."""
    whole = folder.config
    parts = [part for part in (whole, whole.get("text_config")) if part]
    named = [part[name] for part in parts for name in ("dtype", "torch_dtype") if part.get(name) is not None]
    if not named:
        return _BY_TENSOR.get(next(iter(folder.tensors.values())).dtype, jnp.bfloat16)
    name = str(named[0]).removeprefix("torch.")
    if name == "float16":
        print(f"{folder.path / CONFIG}: it names float16; the model computes in bfloat16", file=sys.stderr)
        return jnp.bfloat16
    if name not in DTYPES:
        what = f"its dtype {for_terminal(name[:40])!r} is not one of {', '.join(DTYPES)}, float16"
        raise InputError(what, folder.config_file, "use the config.json published with the weights")
    return DTYPES[name]


def open_run(
    workdir: Path, step: str, config: ConfigDict, zero_shot: bool = False, verified: bool = False
) -> LoadedModel:
    """As `load_model`, of a work directory whose config was read already."""
    trained = config.strategy != "zeroshot"
    if not trained and step != "latest":
        raise InputError("a zero-shot run has no steps", str(workdir), f"leave out @{step}")
    checkpoint = checkpoint_of(workdir, step) if trained else None
    folder = open_base(workdir, config)
    try:
        mesh = make_mesh(config.mesh)
    except InputError:  # the run had other devices
        mesh = make_mesh(MESH)
    definition = define_on(mesh, folder.config, folder.config_file, lora=lora_of(config))
    structs = param_structs(definition, mesh, config.sharding_rules, jnp.float32)
    trainable, frozen = split_trained(definition, structs, config.freeze)
    frozen = as_dtype(frozen, DTYPES[config.frozen_dtype])
    if checkpoint is None:
        params = load_params(folder, join_params(trainable, frozen))
    else:
        if not verified:
            verify_checkpoint(checkpoint)
        saved = metadata_of(checkpoint).get(BASE)  # None in checkpoints of earlier versions, which hold all parameters
        restored = restored_state(
            checkpoint, {"trainable": trainable, **({} if saved is not None else {"frozen": frozen})}
        )
        if saved is not None:
            frozen = load_params(folder, frozen, every=definition.base_shapes())
            check_frozen(digests_of(frozen), saved, folder)
            restored["frozen"] = frozen
        params = join_params(*restored.values())
    tokenizer = load_tokenizer(folder)
    if zero_shot and trained:
        config.strategy = "zeroshot"  # which changes only the prompt here
    recipe = recipe_of(config, definition, tokenizer)
    dtype = DTYPES[config.compute_dtype]
    stops = stop_tokens(folder, recipe.template.end_token)
    sizes = config.eval_batch_size, config.answer_tokens
    return LoadedModel(definition, params, recipe, tokenizer, stops, dtype, *sizes)


def checkpoint_of(workdir: Path, step: str) -> Path:
    """The folder of a run's checkpoint at a step, the `latest`, or the `best` on valid.

    Raises:
        InputError: there is no such checkpoint.
    """
    folder = workdir / ("best" if step == "best" else "checkpoints")
    steps = sorted(int(each.name) for each in folder.glob("*") if each.name.isdigit())
    if not steps and step == "best":
        hint = "give a step or latest; config.eval_every makes runs choose a best step"
        raise InputError("the run has no best step", str(workdir), hint)
    if not steps:
        raise InputError("the run has no checkpoint", str(workdir), "let it run until it saves one")
    if step not in ("latest", "best", *map(str, steps)):
        hint = f"give one of the steps {', '.join(map(str, steps))}, latest or best"
        raise InputError(f"there is no checkpoint {step!r}", str(workdir), hint)
    return folder / (step if step.isdigit() else str(steps[-1]))


def verify_checkpoint(checkpoint: Path) -> None:
    """Compares a checkpoint's files with their checksums; a note on stderr reports a checkpoint without them.

    Raises:
        InputError: they differ.
    """
    if not has_checksums(checkpoint):
        print(no_checksums_message(checkpoint), file=sys.stderr)
    elif found := find_damage(checkpoint):
        raise InputError(f"the checkpoint is damaged ({found})", str(checkpoint), "give another step")


def restored_state(checkpoint: Path, state: dict[str, Params]) -> dict[str, Params]:
    """Parts of the state in a checkpoint, sharded like `state`; nothing else is read."""
    structs = {part: params for part, params in state.items() if params}
    args = ocp.args.PyTreeRestore(
        item=structs,
        restore_args=ocp.checkpoint_utils.construct_restore_args(structs),
        partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            return checkpointer.restore((checkpoint / "state").absolute(), args=args)
        except Exception as error:  # damaged files raise any kind of error
            reason = " ".join(str(error).split())
            raise InputError(
                f"the checkpoint cannot be read ({reason})", str(checkpoint), "give another step"
            ) from None
