"""Pocket: a dataset and a pretrained model made by code, for a complete run on two cores without a download.

The model has Qwen2.5-VL's architecture and a few million parameters. Some 600 facts in chains of two (`world`) are in
its weights, which `benchmarks/pocket_pretraining.py` made from a corpus that states them (`corpus`) and which come with
the package. The tag of a post (`posts`) follows from a hint by two facts that other training posts use, or by two that
are stated apart from each other, in the corpus and in replayed posts, and lead to no training post's tag; or it is a
habit that follows from none, or a place that the text names: at the rates of MMKP's splits. `make` writes posts and
model into a folder; nothing else in mmkp_jax knows where they come from. `variants` makes small models of other
families, with random parameters, for the same posts.
"""
