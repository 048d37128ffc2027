"""The defaults of an experiment, which configs and presets override.

`docs/config.md` lists every field with its unit and range, whether it may differ on resume, and whether its default is
the paper's or ours; `python -m mmkp_jax.main --help` prints them. The table itself is in `mmkp_jax/runtime/fields.py`.
"""

from ml_collections import ConfigDict

from mmkp_jax.runtime.config import default_config


def get_config() -> ConfigDict:
    """Dynamic CoT as the paper trains Qwen2.5-VL-3B."""
    return default_config()
