"""Fields of PEFT's `adapter_config.json` (0.21) with which an adapter is plain LoRA: W + s B A on the base's own W.

Others give other numbers from the same tensors; so a field is refused unless it is known to do no harm.
"""

from typing import Any

from mmkp_jax.runtime.json_files import Fields

READ = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "modules_to_save"})
"""Fields that `hf.adapter.read_lora` reads."""

HARMLESS = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
        *("target_modules", "exclude_modules"),  # the tensors' names say which modules have an adapter
        *("lora_dropout", "runtime_config"),  # of training, and of loading
        *("megatron_core", "qalora_group_size"),  # without effect unless another field is not plain
    }
)
"""Fields that may have any value."""

PLAIN: dict[str, Any] = {
    "bias": "none",
    "init_lora_weights": True,
    "use_dora": False,
    "use_qalora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "ensure_weight_tying": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "loftq_config": {},
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "velora_config": None,
    "monteclora_config": None,
    "kasa_config": None,
    "arrow_config": None,
    "megatron_config": None,
    "use_bdlora": None,
    "layers_to_transform": None,
    "layers_pattern": None,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
}
"""PEFT's default of each field that may ask for more."""

_DRAWN = ("gaussian",)
"""Initialisations, besides true and false, that only draw A and B: others (PiSSA, OLoRA, …) change the base, too."""

_CONVERT = (
    "have PEFT convert it to plain LoRA (save_pretrained: path_initial_model_for_weight_conversion), or use another"
)


def check_plain(fields: Fields) -> None:
    """Refuses, with `InputError`, a field that asks for more than plain LoRA, or may: an unknown one that is not off.

    Args:
        fields: the content of an `adapter_config.json`.
    """
    for name, value in fields.content.items():
        if name in READ or name in HARMLESS or _is_off(value):
            continue
        if name not in PLAIN:
            fields.refuse(name, "null: an unknown field may ask for more than plain LoRA, which is all there is here")
        if name == "init_lora_weights":
            if value is not True and value not in _DRAWN:
                fields._replace(hint=_CONVERT).refuse(name, 'true, false or "gaussian", which leave the base as it is')
        elif value != PLAIN[name]:
            fields.refuse(name, f"{PLAIN[name]!r}, which is all that is implemented")


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ({}, [])
