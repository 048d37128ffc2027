"""From outputs to scores: keyphrases out of what a model wrote, CMKP's metric, baselines, tables. No jax in here."""
