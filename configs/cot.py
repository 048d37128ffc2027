"""Fine-tune-CoT: the chain of thought alone.

python -m mmkp_jax.main --config=configs/cot.py
"""

from ml_collections import ConfigDict

from mmkp_jax.configs import base, presets


def get_config(arg: str = "") -> ConfigDict:
    """The experiment with the presets in `arg`."""
    c = base.get_config()
    c.strategy = "cot"
    presets.apply(c, arg)
    return c
