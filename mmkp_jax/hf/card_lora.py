"""What a model card says of LoRA, and the code that loads an adapter."""

import json
from collections.abc import Mapping
from typing import Any

from mmkp_jax.hf.preprocessor import named_settings
from mmkp_jax.models.family import Family
from mmkp_jax.models.lora import FULL, LORA
from mmkp_jax.runtime.escape import for_terminal

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's max_lora_rank (`vllm/config/lora.py`)."""

CONNECTOR = """\
The adapter is not only on the decoder: vLLM takes the rest with `enable_tower_connector_lora`, which not every release
has, nor every family, and which was not tried here. Where vLLM refuses it, or ignores some of it, merge it first."""

NOT_SERVED = "# vLLM cannot serve this adapter: {}. Merge it first.\n"


def frozen(c: Mapping[str, Any]) -> str:
    """What did not train under a run's config."""
    if c.get("lora_rank"):
        return "all of the base" + ", except for the projector" * (c["lora_projector"] == "full")
    return ", ".join(map(as_code, c["freeze"])) or "nothing"


def adapters(c: Mapping[str, Any]) -> str:
    """A run's LoRA in words; empty without."""
    if not c.get("lora_rank"):
        return ""
    where = ", ".join(map(as_code, c["lora_targets"])) or "all linears of the decoder"
    where += " and of the projector" * (c["lora_projector"] == "lora")
    scale = f"α = {c['lora_alpha']:g}{' over the root of the rank (rsLoRA)' * bool(c['lora_rs'])}"
    dropout = f", dropout {c['lora_dropout']:g}" * bool(c["lora_dropout"])
    held = "; the decoder's base in 4 bits (NF4) in training, in its own dtype here" * (c["lora_base"] == "nf4")
    return f"LoRA of rank {c['lora_rank']}, {scale}{dropout}, on {where}{held}"


def not_served(rank: int, projector: str, family: Family) -> str:
    """Why vLLM cannot serve an adapter; empty where it can, by its documentation."""
    if not family.reference.vllm_lora:
        return "it has no LoRA for this family"
    if projector == FULL and _has_projector(family):
        return "it holds the whole projector (modules_to_save)"
    return "" if rank <= VLLM_RANKS[-1] else f"its rank is above {VLLM_RANKS[-1]}"


def beyond_decoder(c: Mapping[str, Any], family: Family) -> bool:
    """Whether a run's adapters are, or may be, on modules that are not the decoder's."""
    return _has_projector(family) and (c["lora_projector"] == LORA or bool(c["lora_targets"]))


def _has_projector(family: Family) -> bool:
    return bool(family.parts().get("projector"))


def adapter_code(base: str, here: str, c: Mapping[str, Any], family: Family) -> dict[str, str]:
    """What an adapter adds to the code of a whole model.

    The base's folder has other settings of images, so the code gives the run's.

    Args:
        base: where the base is loaded from; empty for a whole model.
        here: the adapter's folder.
        c: the run's config.
    """
    name, comment = json.dumps(here), "# this folder, or its name on the hub"
    if not base:
        return {"folder_is": comment} | dict.fromkeys(
            ("peft", "adapted", "vllm_peft", "vllm_adapter", "vllm_request"), ""
        )
    return {
        "folder_is": "# the base",
        "peft": "from peft import PeftModel\n",
        "adapted": f"model = PeftModel.from_pretrained(model, {name}).eval()  {comment}\n",
        "vllm_peft": "from vllm.lora.request import LoRARequest\n",
        "vllm_adapter": _vllm_options(c, family),
        "vllm_request": f', lora_request=LoRARequest("adapter", 1, {name})',
    }


def _vllm_options(c: Mapping[str, Any], family: Family) -> str:
    rank = next((each for each in VLLM_RANKS if each >= c["lora_rank"]), VLLM_RANKS[-1])
    images = named_settings(family, c["data"]["images"])
    options = f", enable_lora=True, max_lora_rank={rank}"
    options += ", enable_tower_connector_lora=True" * beyond_decoder(c, family)
    return options + f", mm_processor_kwargs={images}" * bool(images)


def as_code(text: str) -> str:
    """Text of unknown origin as a code span."""
    return f"`{for_terminal(text).replace('`', '')}`"
