"""Lines on what a run makes of its posts: updates compared with the paper's, and posts with a chain of thought."""

PAPER_POSTS, PAPER_EPOCHS = 34_515, 5
"""Training posts of MMKP-V2, and the epochs of the 2B and 3B models (arXiv 2510.09358); the batch size is 1."""

USES_COT = ("cot", "multitask", "dyncot", "decoupled")
"""Strategies that learn from chains of thought."""

FEW = 0.5
"""Share of posts with a chain of thought below which a warning is printed."""


def updates_line(steps: float, posts_per_step: float) -> str:
    """The updates of a run and the posts of each, next to the paper's."""
    paper = f"{PAPER_EPOCHS * PAPER_POSTS:,} updates of 1 post ({PAPER_EPOCHS} epochs of MMKP-V2 at batch size 1)"
    posts = f"{posts_per_step:,.1f}".removesuffix(".0")
    each = "post" if posts == "1" else "posts"
    return f"{steps:,.0f} updates of {posts} {each}; the paper: {paper}"


def chains_line(strategy: str, posts: int, with_cot: int) -> str:
    """How many training posts have a chain of thought, as a warning where few have; empty where none is needed."""
    if strategy not in USES_COT or not posts:
        return ""
    some = f"{with_cot:,} of {posts:,} training posts ({with_cot / posts:.1%})"
    if not with_cot:
        effect = {
            "cot": "so nothing is trained",
            "multitask": "so multi-task trains as SFT does",
            "decoupled": "so it trains as SFT does",
        }
        what = effect.get(strategy, "so Dynamic CoT trains as SFT does, whatever γ is")
        return f"WARNING: none of {posts:,} training posts has a chain of thought, {what}"
    if strategy == "cot":
        return f"with a chain of thought: {some}; the others are not trained on"
    warning = "WARNING: few posts have a chain of thought: " if with_cot < FEW * posts else "with a chain of thought: "
    return f"{warning}{some}; the others train on their keyphrases"
