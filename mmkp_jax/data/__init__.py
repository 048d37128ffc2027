"""From raw posts to packed batches: readers, dataset builders, prompts, images, the packing plan. No jax in here."""
