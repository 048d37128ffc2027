"""Strategy, decision and γ in words, for a model card."""

from collections.abc import Mapping
from typing import Any

STRATEGIES = {
    "sft": "SFT: the target is the keyphrases",
    "cot": "Fine-tune-CoT: the target is a chain of thought, then the keyphrases",
    "multitask": "multi-task: the loss is a weighted mean of that of the keyphrases and that of the chain of thought",
    "dyncot": "Dynamic CoT: the target is the keyphrases, after a chain of thought where their own loss is below γ",
    "decoupled": "decoupled: both targets' contents, and the choice between them, which a decision labels",
}

DECISIONS = {
    "paper": "a post's SFT loss is below γ",
    "mode_free": "a post's loss of the keyphrases given a direct answer is below γ",
    "inverse": "a post's SFT loss is γ or more (a control)",
    "inverse_mode_free": "a post's loss of the keyphrases given a direct answer is γ or more (a control)",
    "random": "chance says so, in each step anew (a control)",
    "random_posts": "chance says so, once for each post (a control)",
}
"""When a decision chooses a chain of thought."""


def strategy_rows(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Facts of the strategy by name; None for those that it does not have."""
    strategy, w = config["strategy"], config["multitask_weight"]
    decision = config["decision"] if strategy in ("dyncot", "decoupled") else "paper"
    weights = {
        "multitask": f"SFT loss {w:g}, CoT loss {1 - w:g}",
        "decoupled": f"keyphrases {w:g}, chain of thought {1 - w:g}, choice {config['mode_weight']:g}",
    }
    return {
        "chain of thought where": None if decision == "paper" else DECISIONS[decision],
        "γ": _gamma(config) if strategy in ("dyncot", "decoupled") else None,
        "weights": weights.get(strategy),
    }


def _gamma(config: Mapping[str, Any]) -> str:
    decision, mode, share = config["decision"], config["gamma_mode"], f"{config['gamma_share']:.0%}"
    if decision.startswith("random"):
        return f"none: chance puts {share} of the posts with a chain of thought on it"
    if mode == "fixed":
        return f"{config['gamma']:g} nats a label"
    if mode == "quantile":
        return f"moved so that {share} of the posts with a chain of thought are on it"
    return f"{mode} of earlier {'SFT' if decision in ('paper', 'inverse') else 'keyphrase'} losses"
