"""The systems that `benchmarks/strategies.py` compares, as flags of `mmkp_jax.main`."""

from collections.abc import Mapping, Sequence

OURS = "dyncot-0.4"
"""The system that represents Dynamic CoT, as in the paper; the others are compared with it."""

STAGED = "staged"
"""SFT, then Fine-tune-CoT from its weights (`benchmarks/staged.py`)."""

OVERRIDES: Mapping[str, Sequence[str]] = {
    "zeroshot": (),
    "sft": (),
    OURS: ("--config.gamma=0.4",),
    "cot": (),
    "multitask": (),
    "dyncot-0.3": ("--config.gamma=0.3",),
    "dyncot-0.5": ("--config.gamma=0.5",),
    "dyncot-0.6": ("--config.gamma=0.6",),
    "dyncot-avg": ("--config.gamma_mode=mean",),
    "dyncot-ema": ("--config.gamma_mode=ema",),
}
"""Flags of each system of the paper's tables, whose name begins with its strategy's."""

HALF = ("--config.gamma_mode=quantile", "--config.gamma_share=0.5")

DECIDED: Mapping[str, Sequence[str]] = {
    STAGED: (),
    "dyncot-half": HALF,
    "dyncot-mode_free": ("--config.decision=mode_free", "--config.gamma=0.4"),
    "dyncot-mode_free-half": ("--config.decision=mode_free", *HALF),
    "dyncot-decoupled-half": ("--config.strategy=decoupled", "--config.decision=mode_free", *HALF),
    "dyncot-inverse-half": ("--config.decision=inverse_mode_free", *HALF),
    "dyncot-random-half": ("--config.decision=random", "--config.gamma_share=0.5"),
    "dyncot-random_posts-half": ("--config.decision=random_posts", "--config.gamma_share=0.5"),
}
"""Flags of other decisions, and of controls; those named half put half of the posts on CoT, so that only which posts
these are differs between them."""

BY_STRATEGY = ("zeroshot", "sft", "cot", "multitask", OURS)
BY_GAMMA = ("dyncot-avg", "dyncot-ema", "dyncot-0.3", OURS, "dyncot-0.5", "dyncot-0.6")
BY_DECISION = ("sft", "cot", "multitask", OURS, *DECIDED)
"""The systems of a table, in its order."""
