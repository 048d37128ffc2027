"""Settings without which fields have no effect."""

from mmkp_jax.runtime.field_types import Need

TRAINS = Need("strategy", "strategy {} trains nothing", never=("zeroshot",))
DYNAMIC = Need("strategy", "strategy {} has no γ", only=("dyncot", "decoupled"))
DECIDES = Need("strategy", "strategy {} makes no decision", only=("dyncot", "decoupled"))
DECOUPLED = Need("strategy", "strategy {} has no mode of its own", only=("decoupled",))
WEIGHTED = Need("strategy", "strategy {} has no such weight", only=("multitask", "decoupled"))
COMPARED = Need("decision", "decision {} has no γ", never=("random", "random_posts"))
FIXED = Need("gamma_mode", "gamma_mode={}", only=("fixed",))
MOVING = Need("gamma_mode", "gamma_mode={}", only=("ema",))
ADAPTED = Need("lora_rank", "lora_rank={} adds no adapters", never=(0,))
UNADAPTED = Need("lora_rank", "lora_rank={} freezes all of the base's weights", only=(0,))
VALIDATED = Need("eval_every", "eval_every={}", never=(0,))
