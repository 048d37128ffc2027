"""What a model card says of LoRA, and the code that loads an adapter."""

import json
from collections.abc import Mapping
from typing import Any

from mmkp_jax.runtime.escape import for_terminal

VLLM_RANK = 16
"""The largest rank that vLLM takes unless its max_lora_rank is larger."""


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


def adapter_code(base: str, here: str, c: Mapping[str, Any]) -> dict[str, str]:
    """What an adapter adds to the code of a whole model; `here` is its folder, and `base` empty for a whole model."""
    name, comment = json.dumps(here), "# this folder, or its name on the hub"
    if not base:
        return {"folder_is": comment} | dict.fromkeys(("peft", "adapted", "vllm_peft", "vllm_rank", "vllm_request"), "")
    return {
        "folder_is": "# the base",
        "peft": "from peft import PeftModel\n",
        "adapted": f"model = PeftModel.from_pretrained(model, {name}).eval()  {comment}\n",
        "vllm_peft": "from vllm.lora.request import LoRARequest\n",
        "vllm_rank": f", enable_lora=True, max_lora_rank={max(VLLM_RANK, c['lora_rank'])}",
        "vllm_request": f', lora_request=LoRARequest("adapter", 1, {name})',
    }


def as_code(text: str) -> str:
    """Text of unknown origin as a code span."""
    return f"`{for_terminal(text).replace('`', '')}`"
