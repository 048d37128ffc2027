"""Fields of LoRA: a section of the table in `fields.py`."""

from mmkp_jax.runtime.field_types import CONTENT, OURS, Field
from mmkp_jax.runtime.needs import ADAPTED, TRAINS

LORA = (
    Field(
        *("lora_rank", 0),
        "rank of the adapters that train instead of the base's weights, which are then frozen; 0: no adapters",
        low=0,
        source=OURS,
        needs=(TRAINS,),
        before=0,
    ),
    Field(
        *("lora_alpha", 32.0),
        "an adapter's product is multiplied by lora_alpha / lora_rank",
        low=1e-6,
        source=OURS,
        needs=(TRAINS, ADAPTED),
        before=32.0,
    ),
    Field(
        *("lora_dropout", 0.0),
        "share of an adapter's inputs that a train step drops",
        low=0,
        below=1,
        source=OURS,
        needs=(TRAINS, ADAPTED),
        before=0.0,
    ),
    Field(
        *("lora_targets", ()),
        "linears with an adapter, as in PEFT: ends of transformers' module names (q_proj), or regexes of whole ones; "
        "empty: all of the decoder",
        source=OURS,
        needs=(TRAINS, ADAPTED),
        before=(),
    ),
    Field(
        *("lora_rs", False),
        "divide lora_alpha by the root of the rank instead (rsLoRA)",
        source=OURS,
        needs=(TRAINS, ADAPTED),
        before=False,
    ),
    Field(
        *("lora_base", "bf16"),
        "how the decoder's frozen matrices are held: as all frozen parameters (frozen_dtype), or in 4 bits (QLoRA)",
        choices=("bf16", "nf4"),
        source=OURS,
        needs=(TRAINS, ADAPTED),
        before="bf16",
    ),
    Field(
        *("lora_projector", "lora"),
        "the projector: adapters too, or trained in full, or frozen",
        choices=("lora", "full", "frozen"),
        source=OURS,
        needs=(TRAINS, ADAPTED),
        before="lora",
    ),
    Field(
        *("lora_adapter", ""),
        "folder of a PEFT adapter that training starts from; empty: adapters that change nothing yet",
        resume=CONTENT,
        needs=(TRAINS, ADAPTED),
        before="",
    ),
)
