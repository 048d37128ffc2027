"""Pocket's test bed for decisions: a student that was pretrained on facts, and posts whose tags need them.

`world` holds some 600 facts in chains of two: a hint (a star, an emblem, a cue, a dish) leads to a middle (a show, a
club, an event, a town), and that to the tag of its people. `corpus` writes what the model is pretrained on, `posts` the
posts: tags of facts that training posts use, tags of facts that only the corpus holds, and habits that follow from no
fact. `make` writes the posts into a folder, with the pretrained model that `benchmarks/pocket_pretraining.py` makes.
"""
