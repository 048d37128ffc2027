"""Multi-modal keyphrase prediction with vision-language models, trained in JAX on TPU and GPU."""

from mmkp_jax.runtime.interrupts import while_importing

__version__ = "0.1.0"

while_importing()
