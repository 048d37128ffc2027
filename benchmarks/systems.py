"""The systems that `benchmarks/strategies.py` compares, as flags of `mmkp_jax.main`, and their runs."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
    "dyncot-inverse-half": ("--config.decision=inverse", *HALF),
    "dyncot-inverse_mode_free-half": ("--config.decision=inverse_mode_free", *HALF),
    "dyncot-random-half": ("--config.decision=random", "--config.gamma_share=0.5"),
    "dyncot-random_posts-half": ("--config.decision=random_posts", "--config.gamma_share=0.5"),
}
"""Flags of other decisions, and of controls; those named half put half of the posts on CoT, so that only which posts
these are differs between them; `decoupled` learns both targets of each, and its decision how to begin an answer."""

PAPERS = "dyncot-half"
"""The published rule, at the share with which other rules are compared at equal shares."""

INVERSE = "dyncot-inverse-half"
"""The control that comes out best on pocket, and so is compared with every other system, too."""

BASELINES = ("cmkp", "one2seq", "embeddings")
"""Baselines by the names of their configs; their flags are their configs' own."""

BY_STRATEGY = ("zeroshot", "sft", "cot", "multitask", OURS)
BY_GAMMA = ("dyncot-avg", "dyncot-ema", "dyncot-0.3", OURS, "dyncot-0.5", "dyncot-0.6")
BY_DECISION = (*BY_STRATEGY, *DECIDED)
AT_HALF = tuple(system for system in DECIDED if system.endswith("half"))
BY_BASELINE = (OURS, *BASELINES)
"""The systems of a table, in its order."""

ORDERLESS = ("zeroshot", "embeddings")
"""Systems that do not depend on the order of posts."""


def pocket_of(posts: int) -> str:
    """The folder of a pocket whose posts are of this seed, from the repository's root; by default it is 0."""
    return f"runs/pocket-{posts}" if posts else "runs/pocket"


class Job(NamedTuple):
    """One run."""

    system: str
    seed: int
    workdir: Path
    presets: str = ""
    """Presets of its config, as in `configs/dyncot.py:…`; pocket without any."""
    posts: int = 0
    """Seed of pocket's posts."""

    @property
    def name(self) -> str:
        """Its name on the terminal."""
        return self.workdir.name

    @property
    def complete(self) -> bool:
        """Whether it was trained to its end and evaluated."""
        return (self.workdir / "results.json").exists()

    def command(self) -> list[str]:
        """The command that starts or resumes it."""
        shared = ("--config.ablations=False", f"--config.seed={self.seed}")
        if self.posts:
            pocket = pocket_of(self.posts)
            shared += ("--config.make=", f"--config.data.path={pocket}/dataset")
            shared += (f"--config.data.kinds={pocket}/needs.jsonl",)
        if self.system in BASELINES:
            data = [each for each in self.presets.split(",") if each.startswith("data=")]
            run = ("mmkp_jax.main", f"--config={':'.join([f'configs/baselines/{self.system}.py', *data])}")
            return [sys.executable, "-m", *run, *shared, f"--workdir={self.workdir}"]
        shared = ("--config.pack_for=both", *shared)
        if self.system == STAGED:
            run = ("benchmarks.staged", f"--presets={self.presets}")
        else:
            config = f"configs/{self.system.partition('-')[0]}.py{f':{self.presets}' if self.presets else ''}"
            run = ("mmkp_jax.main", f"--config={config}")
        flags = (OVERRIDES | DECIDED)[self.system]
        return [sys.executable, "-m", *run, *shared, *flags, f"--workdir={self.workdir}"]


def jobs_of(
    seeds: int,
    runs: Path,
    presets: str = "",
    *,
    gammas: bool = False,
    decisions: bool = False,
    baselines: bool = False,
    posts: int = 0,
) -> list[Job]:
    """All runs of the paper's tables in order, or those of several γ, by decision, or of baselines.

    What does not depend on the order of posts is there once.
    """
    of_posts = f"-posts{posts}" if posts else ""
    tables = [BY_STRATEGY, set(BY_GAMMA) - {OURS}]
    asked = {BY_GAMMA: gammas, BY_DECISION: decisions, BY_BASELINE: baselines}
    if any(asked.values()):
        tables = [each for each, is_asked in asked.items() if is_asked]
    jobs = [
        Job(system, seed, runs / f"{system}{of_posts}-seed{seed}", presets, posts)
        for systems in tables
        for seed in range(seeds)
        for system in (*OVERRIDES, *DECIDED, *BASELINES)
        if system in systems and (system not in ORDERLESS or seed == 0)
    ]
    return list(dict.fromkeys(jobs))


def comparable(jobs: Sequence[Job]) -> list[Job]:
    """Runs of the seeds under which every run is complete; if there is none, the complete runs of the first."""
    broken = {job.seed for job in jobs if not job.complete}
    return [job for job in jobs if job.seed not in broken] or [job for job in jobs if job.complete and job.seed == 0]
