"""Dynamic CoT: the chain of thought where the keyphrases' loss is below γ = 0.4.

python -m mmkp_jax.main --config=configs/dyncot.py
"""

from ml_collections import ConfigDict

from mmkp_jax.configs import base, presets


def get_config(arg: str = "") -> ConfigDict:
    """The experiment with the presets in `arg`."""
    c = base.get_config()
    c.strategy = "dyncot"
    presets.apply(c, arg)
    return c
