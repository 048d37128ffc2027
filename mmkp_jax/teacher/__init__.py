"""Any OpenAI-compatible endpoint as a teacher, a judge, or a model to compare with. Nothing here imports JAX."""
