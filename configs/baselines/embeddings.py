"""Hidden states of a frozen model: a linear classifier over training keyphrases, the nearest posts, and their blend.

python -m mmkp_jax.main --config=configs/baselines/embeddings.py
"""

from ml_collections import ConfigDict
from mmkp_jax.configs.baselines import base


def get_config(arg: str = "") -> ConfigDict:
    """The experiment with the preset in `arg`; pocket's model, or a published one on other data."""
    c = base.get_config("embeddings", arg)
    c.model.path = "runs/pocket/model" if c.make else "Qwen/Qwen2.5-VL-3B-Instruct"
    c.eval_batch_size = 8
    return c
