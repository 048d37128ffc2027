"""Multi-modal keyphrase prediction with vision-language models, trained in JAX on TPU and GPU."""

from mmkp_jax.runtime.signals import guard_imports

__version__ = "0.1.0"

guard_imports()
