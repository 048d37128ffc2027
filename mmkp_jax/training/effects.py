"""Settings that have no effect in a run, or not the stated one; all are reported before its first step."""

import operator
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from mmkp_jax.runtime.field_types import Field
from mmkp_jax.runtime.fields import FIELDS, field_named
from mmkp_jax.runtime.needs import COMPARED, DECIDES
from mmkp_jax.training.optimizer import warmup_length

DECIDED = ("decision", "gamma_mode", "gamma", "gamma_share", "gamma_ema_decay")
"""Fields that only a decision depends on."""


def without_effect(config: ConfigDict, steps: int, *, first: int = 1, profiled: range = range(0)) -> list[str]:
    """A line for each setting that has no effect, or not the stated one.

    Args:
        steps: length of the run; 0 for zero-shot, which trains nothing.
        first: the step that the run starts or resumes at.
        profiled: steps to trace.
    """
    held = list(_held(config))
    by_length = [*_length(config, steps), *_beyond(config, steps), *_profile(steps, first, profiled)] if steps else []
    return [*by_length, *held, *needs_without_effect(config), *_share(config), *_decided(config)]


def lines_without_effect(config: ConfigDict, steps: int, *, first: int = 1, profiled: range = range(0)) -> str:
    """The lines of `without_effect`, each marked as a note; empty where there is none."""
    found = without_effect(config, steps, first=first, profiled=profiled)
    return "".join(f"note: {line}\n" for line in found)


def _length(config: ConfigDict, steps: int) -> Iterator[str]:
    if config.total_steps and config.num_epochs:
        yield f"num_epochs={config.num_epochs:g} has no effect: total_steps={config.total_steps} decides the length"
    warmup = warmup_length(config.warmup_steps, steps)
    if warmup != config.warmup_steps:
        yield f"warmup_steps={config.warmup_steps} is as long as the run of {steps:,} steps: shortened to {warmup:,}"


def _beyond(config: ConfigDict, steps: int) -> Iterator[str]:
    run = f"is beyond the run's {steps:,} steps"
    if config.eval_every > steps:
        yield f"eval_every={config.eval_every} {run}: valid is evaluated at the end alone"
    if config.eval_every and config.export_every * config.eval_every > steps:
        each = f"export_every={config.export_every}, times eval_every={config.eval_every},"
        yield f"{each} {run}: only the best is exported"
    if config.checkpoint_every > steps:
        yield f"checkpoint_every={config.checkpoint_every} {run}: only its end or a stop is saved"
    if config.log_every > steps:
        yield f"log_every={config.log_every} {run}: the progress line shows no figures"
    if config.max_nonfinite > steps:
        yield f"max_nonfinite={config.max_nonfinite} {run}: no number of steps that are not finite ends it"


def _profile(steps: int, first: int, profiled: range) -> Iterator[str]:
    if not profiled:
        return
    flag = f"--profile_steps={profiled.start}:{profiled.stop - 1}"
    if profiled.start > steps:
        yield f"{flag} is beyond the run's {steps:,} steps: nothing is traced"
    elif profiled.stop <= first:
        yield f"{flag} is before step {first:,}, at which the run resumes: nothing is traced"
    elif profiled.stop - 1 > steps or profiled.start < first:
        yield f"{flag} is cut to the steps that are run: {max(profiled.start, first)}:{min(profiled.stop - 1, steps)}"


def _held(config: ConfigDict) -> Iterator[str]:
    if (
        config.lora_rank
        and config.strategy != "zeroshot"
        and (config.lora_base, config.frozen_dtype) == ("bf16", "float32")
    ):
        yield f"lora_base=bf16: frozen_dtype={config.frozen_dtype} holds the base in {config.frozen_dtype}"


def _share(config: ConfigDict) -> Iterator[str]:
    """The share of posts on CoT, which has an effect by either of two fields."""
    compares = config.strategy in DECIDES.only and COMPARED.holds(config.decision)
    if compares and config.gamma_mode != "quantile" and config.gamma_share != field_named("gamma_share").default:
        why = f"gamma_mode={config.gamma_mode}, and decision {config.decision} is not random"
        yield f"gamma_share={config.gamma_share} has no effect: {why}"


def _decided(config: ConfigDict) -> Iterator[str]:
    """A decision that nothing is learned from, or that is the same for every post."""
    if config.strategy == "decoupled" and not config.mode_weight:
        for name in DECIDED:
            if config[name] != field_named(name).default:
                yield f"{name}={config[name]} has no effect: mode_weight=0, so no choice of a mode is learned"
    if config.strategy != "dyncot":
        return
    is_random = not COMPARED.holds(config.decision)
    if is_random and config.gamma_share in (0, 1):
        setting, none = f"gamma_share={config.gamma_share:g}", config.gamma_share == 0
    elif not is_random and config.gamma_mode == "fixed" and config.gamma == 0:
        setting, none = "gamma=0", not config.decision.startswith("inverse")
    else:
        return
    yield f"{setting}: " + (
        "no post is put on CoT, as under strategy=sft" if none else "every post with a chain is on CoT"
    )


def needs_without_effect(config: ConfigDict, fields: Sequence[Field] = FIELDS) -> Iterator[str]:
    """A line for each field that another field switches off; those at their default are skipped."""
    for field in fields:
        value = operator.attrgetter(field.name)(config)
        for need in field.needs if value != field.default else ():
            setting = operator.attrgetter(need.setting)(config)
            if not need.holds(setting):
                yield f"{field.name}={value} has no effect: {need.reason.format(setting)}"
                break
