"""Multi-task: keyphrases and chain of thought, half and half.

python -m mmkp_jax.main --config=configs/multitask.py
"""

from ml_collections import ConfigDict

from mmkp_jax.configs import base, presets


def get_config(arg: str = "") -> ConfigDict:
    """The experiment with the presets in `arg`."""
    c = base.get_config()
    c.strategy = "multitask"
    presets.apply(c, arg)
    return c
