"""Fields of the strategy, of its decision and of γ; part of the table in `runtime/fields.py`."""

from mmkp_jax.runtime.field_types import OURS, PAPER, Field
from mmkp_jax.runtime.needs import COMPARED, DECIDES, DECOUPLED, DYNAMIC, FIXED, MOVING, TRAINS, WEIGHTED

STRATEGY = (
    Field(
        *("strategy", "dyncot"),
        "what an example is trained on",
        choices=("zeroshot", "sft", "cot", "multitask", "dyncot", "decoupled"),
    ),
    Field(
        *("multitask_weight", 0.5),
        "share of the SFT loss under multitask, of the keyphrases' loss in the content under decoupled",
        low=0,
        high=1,
        source=OURS,
        needs=(TRAINS, WEIGHTED),
    ),
    Field(
        *("mode_weight", 0.25),
        "weight of the choice between direct answer and thinking; about that of one of four labels",
        low=0,
        high=1e9,
        source=OURS,
        needs=(TRAINS, DECOUPLED),
        before=0.25,
    ),
    Field(
        *("decision", "paper"),
        "the posts on CoT: by their SFT loss, or without its first label's part; inverse and random are controls",
        choices=("paper", "mode_free", "inverse", "inverse_mode_free", "random", "random_posts"),
        source=PAPER,
        needs=(TRAINS, DECIDES),
        before="paper",
    ),
    Field(
        *("gamma_mode", "fixed"),
        'how γ moves: not at all, as the mean of all posts (the paper\'s "avg"), as a moving mean over steps, or to'
        " keep the share on CoT at gamma_share",
        choices=("fixed", "mean", "ema", "quantile"),
        needs=(TRAINS, DYNAMIC, COMPARED),
    ),
    Field(
        *("gamma", 0.4),
        "the threshold γ, nats a label; for fixed",
        low=0,
        high=1e9,
        source=PAPER,
        needs=(TRAINS, DYNAMIC, COMPARED, FIXED),
    ),
    Field(
        *("gamma_share", 0.5),
        "share on CoT of the posts with a chain of thought; for gamma_mode quantile and the random decisions",
        low=0,
        high=1,
        source=OURS,
        needs=(TRAINS, DECIDES),
        before=0.5,
    ),
    Field(
        *("gamma_ema_decay", 0.99),
        "decay of γ a step; for ema",
        low=0,
        below=1,
        source=OURS,
        needs=(TRAINS, DYNAMIC, COMPARED, MOVING),
    ),
)
