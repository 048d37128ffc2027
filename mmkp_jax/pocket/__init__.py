"""Pocket: a dataset and a model made by code from a seed, for a complete run on two cores without a download.

The posts describe a closed world (`world`): clubs known by the shape and the colour of their emblem, events known from
words that do not name them, places that the text names. So some keyphrases need the image, some the text and some
both, at the rates of MMKP-V2 (`rates`). The model has Qwen2.5-VL's architecture with a few million random parameters,
saved as a Hugging Face folder; `make.make_pocket` writes both, and nothing else in mmkp_jax knows where they come from.
`variants` makes small models of other families for the same posts.
"""
