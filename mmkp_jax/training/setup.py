"""Setup of a run: from a config to a sharded state and its compiled step."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.adapter import load_adapter
from mmkp_jax.hf.folder import Folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import Definition, Params, as_dtype, define_from, flatten, unflatten
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import first_adapters, is_adapter, lora_of
from mmkp_jax.models.sharding import (
    batch_sharding,
    make_mesh,
    optimizer_shardings,
    param_shardings,
    param_structs,
    replicated,
)
from mmkp_jax.ops.backends import RowAttention, backend_name
from mmkp_jax.runtime.field_checks import check_settings
from mmkp_jax.training.batches import image_processor
from mmkp_jax.training.decisions import decision_named
from mmkp_jax.training.gamma import GammaSchedule, gamma_schedule, init_gamma
from mmkp_jax.training.objectives import objective
from mmkp_jax.training.optimizer import adamw, learning_rate
from mmkp_jax.training.step import State, Step, init_state, make_train_step

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Plan(NamedTuple):
    """A run before its weights are read: enough to compile, load or restore it.

    The step is called as `with jax.set_mesh(plan.mesh): state, metrics, outcomes = plan.step(state, batch)` and donates
    the state; its batch is [accumulation steps, rows, ...] (`models.sharding.place_batch`).
    """

    definition: Definition
    mesh: Mesh
    optimizer: optax.GradientTransformation
    gamma_schedule: GammaSchedule
    state: State
    """The state as `jax.ShapeDtypeStruct`s with shardings."""
    step: Step
    seed: int
    """Of the adapters' first numbers."""
    adapter: str = ""
    """Folder of the adapter that training starts from."""


def plan_training(
    config: ConfigDict,
    published: Mapping[str, Any],
    where: str = "config.json",
    devices: Sequence[jax.Device] | None = None,
    total_steps: int | None = None,
) -> Plan:
    """The run that `config` (fields: `docs/config.md`) describes, for a model's published `config.json`.

    Args:
        where: the file that `published` was read from, for messages.
        devices: devices of the mesh; None means all that JAX sees.
        total_steps: number of optimizer steps, where the config counts epochs.

    Raises:
        InputError: a setting, or the model, cannot be used.
    """
    check_settings(config)
    train = objective(
        config.strategy,
        decision=config.decision,
        multitask_weight=config.multitask_weight,
        mode_weight=config.mode_weight,
    )
    schedule = schedule_of(config)
    mesh = make_mesh(config.mesh, devices)
    definition = _define_for_rows(config, mesh, published, where)
    _check_batch(config, mesh)
    rate = learning_rate(
        config.learning_rate, warmup_steps=config.warmup_steps, total_steps=total_steps or config.total_steps
    )
    optimizer = adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        moments_dtype=dtype_of(config, "moments_dtype"),
    )
    state = _abstract_state(config, definition, mesh, optimizer, schedule)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(
        definition,
        optimizer,
        train,
        schedule,
        examples=config.row.examples,
        dtype=dtype_of(config, "compute_dtype"),
        seed=config.seed,
    )
    step = jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh), batch_sharding(mesh)),
        donate_argnums=0,
    )
    return Plan(definition, mesh, optimizer, schedule, state, step, config.seed, config.lora_adapter)


def schedule_of(config: ConfigDict) -> GammaSchedule:
    """The schedule of γ; under a random decision, γ is the share of posts on CoT.

    Raises:
        InputError: a setting cannot be used.
    """
    decision, tracks_share = decision_named(config.decision), config.strategy == "decoupled"
    if decision.is_random:
        return gamma_schedule("fixed", config.gamma_share, tracks_share=tracks_share)
    return gamma_schedule(
        *(config.gamma_mode, config.gamma, config.gamma_ema_decay),
        share_below=1 - config.gamma_share if decision.above else config.gamma_share,
        tracks_share=tracks_share,
    )


def plan_untrained(config: ConfigDict, folder: Folder, where: str) -> tuple[Definition, Params]:
    """The untrained model, and its parameters as `jax.ShapeDtypeStruct`s over the config's mesh, in `frozen_dtype`.

    Raises:
        InputError: a setting, or the model, cannot be used.
    """
    check_settings(config)
    mesh, dtype = make_mesh(config.mesh), dtype_of(config, "frozen_dtype")
    definition = define_on(mesh, folder.config, where, attention=config.attention, remat=config.remat)
    return definition, param_structs(definition, mesh, config.sharding_rules, dtype)


def define_on(
    mesh: Mesh, published: Mapping[str, Any], where: str, *, attention: str = "auto", **options: Any
) -> Definition:
    """The model of a published `config.json` (read at `where`), with the attention backend for the mesh's devices.

    Raises:
        InputError: the model is not implemented, or there is no such backend.
    """
    backend = backend_name(attention, mesh.devices.flat[0].platform)
    return define(published, where, attention=RowAttention(backend), **options)


def _define_for_rows(config: ConfigDict, mesh: Mesh, published: Mapping[str, Any], where: str) -> Definition:
    """The model with the attention of training rows, whose trees and images have limits."""
    definition = define(published, where)
    lora = lora_of(config)
    attention = RowAttention(
        backend_name(config.attention, mesh.devices.flat[0].platform),
        longest_tree=config.row.tree_tokens or None,
        longest_image=image_processor(config, definition).longest_image or None,
    )
    return define_from(definition.family, definition.config, attention=attention, remat=config.remat, lora=lora)


def load_state(plan: Plan, folder: Folder) -> State:
    """The state before the first step, with the folder's weights, sharded as planned.

    Raises:
        InputError: the folder's tensors are not those of the model, or an adapter to start from does not fit.
    """
    trainable, frozen = flatten(plan.state["trainable"]), flatten(plan.state["frozen"])
    structs = trainable | frozen
    params = flatten(load_params(folder, unflatten({path: structs[path] for path in structs if not is_adapter(path)})))
    if adapters := {path: struct for path, struct in structs.items() if is_adapter(path)}:
        if plan.adapter:
            params |= flatten(load_adapter(plan.definition, plan.adapter, plan.state["trainable"]))
        else:
            params |= first_adapters(adapters, plan.seed)
    start = jax.jit(
        lambda trainable, frozen: init_state(trainable, frozen, plan.optimizer, plan.gamma_schedule),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, plan.state),
        donate_argnums=(0, 1),
    )
    parts = (unflatten({path: params[path] for path in part}) for part in (trainable, frozen))
    return start(*parts)


def load_frozen(plan: Plan, folder: Folder) -> Params:
    """The frozen parameters, which no checkpoint holds, from the folder.

    Raises:
        InputError: the folder's tensors are not those of the model.
    """
    return load_params(folder, plan.state["frozen"], every=plan.definition.base_shapes())


def _abstract_state(
    config: ConfigDict,
    definition: Definition,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    schedule: GammaSchedule,
) -> State:
    """Shapes, dtypes and shardings of the state."""
    trainable, frozen = split_trained(definition, definition.shapes(), config.freeze)
    frozen = as_dtype(frozen, dtype_of(config, "frozen_dtype"))
    of_params = param_shardings(definition, mesh, config.sharding_rules)
    of_trainable, of_frozen = split_trained(definition, of_params, config.freeze)
    shardings = {
        "step": replicated(mesh),
        "trainable": of_trainable,
        "frozen": of_frozen,
        "optimizer": optimizer_shardings(optimizer, trainable, of_trainable, mesh, config.moments_memory),
        "gamma": dict.fromkeys(init_gamma(schedule), replicated(mesh)),
    }
    shapes = jax.eval_shape(lambda t, f: init_state(t, f, optimizer, schedule), trainable, frozen)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def _check_batch(config: ConfigDict, mesh: Mesh) -> None:
    rows, steps, shards = config.global_batch_size, config.accumulation_steps, mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % (steps * shards):
        raise InputError(
            f"{rows} rows do not divide into {steps} micro-batches over {shards} devices (data x fsdp)",
            "config.global_batch_size",
            f"give a multiple of {steps * shards}",
        )
    _check_processes(config, mesh)


def _check_processes(config: ConfigDict, mesh: Mesh) -> None:
    """Checks that each process has devices, and that no two processes hold parts of the same rows."""
    process_DFT = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
    processes = len(np.unique(process_DFT))
    if processes < jax.process_count():
        what = f"it has devices of {processes} of {jax.process_count()} processes"
        raise InputError(what, "config.mesh", "make the product of the sizes the number of all devices")
    if (process_DFT != process_DFT[..., :1]).any():
        what = f"{mesh.shape['tensor']} devices that see the same rows belong to several processes"
        raise InputError(what, "config.mesh.tensor", "give a size that divides the devices of a process")
    if config.global_batch_size % (processes * config.accumulation_steps):
        what = f"{config.global_batch_size} rows do not divide among {processes} processes"
        hint = f"give a multiple of {processes * config.accumulation_steps}"
        raise InputError(what, "config.global_batch_size", hint)


def dtype_of(config: ConfigDict, field: str) -> jnp.dtype:
    """The dtype that a field names."""
    return DTYPES[config[field]]
