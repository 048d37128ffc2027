"""From outputs to scores: keyphrases in a model's outputs, CMKP's metric, baselines, tables. Imports no jax."""
