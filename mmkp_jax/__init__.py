"""Multi-modal keyphrase prediction with vision-language models, trained in JAX on TPU and GPU."""

__version__ = "0.1.0"
