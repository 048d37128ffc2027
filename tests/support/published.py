"""The published geometries."""

from mmkp_jax.families.qwen2_5_vl.config import config_from_hf
from mmkp_jax.families.qwen2_5_vl.published import PUBLISHED

QWEN2_5_VL_3B, QWEN2_5_VL_7B = map(config_from_hf, PUBLISHED.values())
