"""Multi-modal keyphrase prediction with vision-language models, trained in JAX on TPU and GPU."""

import os

from mmkp_jax.runtime.interrupts import while_importing

__version__ = "0.1.0"

while_importing()
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # such as that torch is absent
