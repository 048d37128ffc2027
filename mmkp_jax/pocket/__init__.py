"""Pocket: a dataset and a model made by code from a seed, for a whole run on two cores without a download.

The posts tell of a closed world (`world`): clubs known by the shape and the colour of their emblem, events known from
words that do not name them, places that the text names. So some keyphrases need the picture, some the text and some
both, at the rates of MMKP-V2 (`rates`). The model is Qwen2.5-VL's whole architecture at a few million random numbers,
saved as a Hugging Face folder; `make.make_pocket` writes both, and nothing else in mmkp_jax knows where they come from.
"""
