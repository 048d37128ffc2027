"""Results of the paper, arXiv 2510.09358: F1@1 in percent of Qwen2.5-VL-3B and -7B, and words generated."""

from pathlib import Path

NAMES = {
    "zeroshot": "zero-shot",
    "sft": "SFT",
    "cot": "Fine-tune-CoT",
    "multitask": "multi-task",
    "dyncot": "Dynamic CoT",
}
"""The paper's names of its strategies, in the tables' order."""


def dataset_of(path: str) -> str | None:
    """The paper's dataset that a folder is of by its name: MMKP-V2, MMKP, or None for other data.

    MMKP-V2 is drawn anew from MMKP by whoever prepares it, so the number of its posts does not show it.
    """
    name = Path(path.split(",")[0].rpartition(":")[0] or path.split(",")[0]).name.lower()
    if not any(each in name for each in ("mmkp", "tw_mm")) or "360k" in name:
        return None
    return "MMKP-V2" if "v2" in name else "MMKP"


STRATEGY_SETTINGS = ("3B, MMKP", "3B, MMKP-V2", "7B, MMKP", "7B, MMKP-V2")
STRATEGY_GROUPS = ("all", "seen", "unseen")
BY_STRATEGY = {
    "zeroshot": ((4.48, 5.26, 12.16), (4.50, 4.42, 4.37), (6.61, 8.70, 13.51), (7.75, 11.22, 8.38)),
    "sft": ((60.33, 61.26, 12.16), (29.89, 55.88, 8.79), (60.83, 61.60, 13.51), (30.49, 58.45, 7.90)),
    "cot": ((56.99, 57.94, 9.46), (31.88, 53.79, 13.57), (61.97, 62.55, 12.16), (33.53, 57.46, 13.42)),
    "multitask": ((60.87, 61.75, 9.46), (31.53, 57.96, 10.26), (62.29, 63.09, 13.51), (31.87, 59.74, 9.48)),
    "dyncot": ((61.27, 61.83, 14.87), (33.14, 57.14, 12.48), (63.58, 64.22, 13.51), (33.56, 58.56, 12.24)),
}
"""Table 4: F1@1 of `STRATEGY_GROUPS` for each of `STRATEGY_SETTINGS`."""

TRADITIONAL = {
    "VGG": ("image", 15.69),
    "BUTD": ("image", 20.02),
    "ONE2SEQ": ("text", 38.05),
    "ONE2SET": ("text", 36.36),
    "TOPIC": ("text", 43.17),
    "CO-ATT": ("text and image", 42.12),
    "M3H-ATT": ("text and image, with attributes and OCR", 47.06),
    "MM-MKP": ("text and image", 48.19),
}
"""Table 3: what each traditional model reads, and its F1@1 on MMKP."""

BUILT = {"ONE2SEQ": "configs/baselines/one2seq.py", "CO-ATT": "configs/baselines/cmkp.py --config.fusion=coatt"} | {
    "M3H-ATT": "configs/baselines/cmkp.py"
}
"""Configs of those that can be trained here; the others are figures alone."""

GAMMA_GROUPS = ("all", "absent", "unseen")
BY_GAMMA = {
    "avg": (32.22, 19.50, 13.26),
    "0.3": (33.07, 20.51, 12.14),
    "0.4": (33.14, 20.19, 12.48),
    "0.5": (32.65, 19.91, 12.26),
    "0.6": (32.59, 19.65, 12.40),
}
"""Table 5: F1@1 of `GAMMA_GROUPS` by γ; Dynamic CoT, 3B, MMKP-V2. `avg` is γ_mode `mean` here."""

WORDS = {"sft": 1.89, "cot": 157.37, "dyncot": 96.82}
"""Table 7: words generated for a post by the 3B model on MMKP-V2."""
