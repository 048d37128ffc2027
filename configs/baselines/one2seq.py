"""ONE2SEQ: a pointer-generator on texts alone, where each keyphrase of a post is a target of its own.

python -m mmkp_jax.main --config=configs/baselines/one2seq.py
"""

from ml_collections import ConfigDict
from mmkp_jax.configs.baselines import base


def get_config(arg: str = "") -> ConfigDict:
    """The experiment with the preset in `arg`."""
    return base.get_config("one2seq", arg)
