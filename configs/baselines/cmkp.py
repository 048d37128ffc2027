"""CMKP: a classifier over training keyphrases and a pointer-generator on one encoder (Wang et al., EMNLP 2020).

python -m mmkp_jax.main --config=configs/baselines/cmkp.py
"""

from ml_collections import ConfigDict
from mmkp_jax.configs.baselines import base


def get_config(arg: str = "") -> ConfigDict:
    """The experiment with the preset in `arg`."""
    return base.get_config("cmkp", arg)
