"""Whether pocket can tell decisions apart: gates that must hold before a comparison on it is evidence.

`benchmarks.strategies` asks the models of its runs for each fact of the world, and prints these gates above its tables.
Where one does not hold, or is not known yet, it says that no comparison of decisions is evidence.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.jobs import ROOT
from benchmarks.modes import read_modes
from benchmarks.recall import digest_of, weights_of
from benchmarks.systems import OURS
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.modes import Modes
from mmkp_jax.pages.tables import Table, as_text
from mmkp_jax.pocket.make import FACTS, POCKET
from mmkp_jax.runtime.json_files import Fields, read_object

if TYPE_CHECKING:
    from benchmarks.scored import Result

WITHOUT = "NOT EVIDENCE about decisions: only pocket's own model is pretrained"
"""The line about runs of pocket's models of other families."""

MODEL = ROOT / POCKET / "model"
QUESTIONS = ROOT / POCKET / FACTS

NOTHING = "–"

TUNED = ("sft", "cot", "multitask", OURS)
"""Systems whose models are asked for facts."""


class Measured(NamedTuple):
    """What the gates are about, as fractions; None for what was not measured."""

    recall: float | None = None
    """Share of the world's facts that the pretrained model knows (`benchmarks/recall.py`)."""
    recall_after: float | None = None
    """The same after fine-tuning: the lowest of the fine-tuned models."""
    cot_recall: float | None = None
    """The same of Fine-tune-CoT: the lowest of its models, on which its chains rest."""
    zeroshot: float | None = None
    """F1@1 of the pretrained model on all posts."""
    sft_unseen: float | None = None
    """F1@1 of SFT on the tags of unseen facts."""
    cot_unseen: float | None = None
    """The same of Fine-tune-CoT."""
    sft_habit: float | None = None
    """F1@1 of SFT on habits."""
    cot_habit: float | None = None
    """The same of Fine-tune-CoT."""
    oracle_gain: float | None = None
    """Of multi-task training: F1@1 of the better answer for each post, minus that of the better mode for all."""


class Gate(NamedTuple):
    """One condition."""

    name: str
    asked: str
    """The condition in words."""
    value: float | None
    holds: bool
    """False where the value is not known."""


RECALL = 0.95
"""Least share of the facts that the pretrained model knows."""

CHANCE = 1 / 36
"""Share of right guesses among the tags of the kind of hint that has the fewest."""


def gates_of(measured: Measured) -> list[Gate]:
    """The gates, in the order in which they are met."""
    m = measured
    product = None if m.cot_recall is None else m.cot_recall**2
    short = None if None in (m.cot_unseen, product) else product - m.cot_unseen
    worse = None if None in (m.sft_habit, m.cot_habit) else m.sft_habit - m.cot_habit

    def gate(name: str, asked: str, value: float | None, low: float = -np.inf, high: float = np.inf) -> Gate:
        return Gate(name, asked, value, value is not None and low <= value <= high)

    return [
        gate("facts recalled after pretraining", "at least 95%", m.recall, low=RECALL),
        gate("facts recalled after fine-tuning", "at least 90%", m.recall_after, low=0.90),
        gate("zero-shot F1@1", "above 0", m.zeroshot, low=1e-9),
        gate(
            "SFT on unseen facts, F1@1", f"near chance: at most {100 * 2 * CHANCE:.1f}", m.sft_unseen, high=2 * CHANCE
        ),
        gate("chains on unseen facts below the product of two recalls", "at most 10 points", short, high=0.10),
        gate("SFT minus chains on habits", "at least 5 points", worse, low=0.05),
        gate("multi-task: oracle minus the better mode", "at least 5 points", m.oracle_gain, low=0.05),
    ]


def gates_table(gates: Sequence[Gate]) -> Table:
    """The gates, and whether a comparison is evidence."""
    rows = [
        (gate.name, NOTHING if gate.value is None else f"{100 * gate.value:.1f}", gate.asked, _verdict(gate))
        for gate in gates
    ]
    return Table("Gates (percent, points)", ("", "measured", "asked", ""), rows, (verdict(gates),), words=(2, 3))


def text_of(presets: str, runs: Path, by_strategy: Mapping[str, "Result"]) -> str:
    """The gates of runs with these presets in a folder, or why there are none; empty for published models."""
    if not is_pocket(presets):
        return WITHOUT if _model(presets).startswith("model=pocket_") else ""
    return f"\n{as_text(gates_table(gates_of(measure(runs, by_strategy))))}"


def is_pocket(presets: str) -> bool:
    """Whether runs with these presets begin with the pretrained model."""
    return _model(presets) == "model=pocket"


def _model(presets: str) -> str:
    return next((each for each in presets.split(",") if each.startswith("model=")), "model=pocket")


def verdict(gates: Sequence[Gate]) -> str:
    """One line: whether comparisons of decisions on these runs are evidence."""
    failing = [gate.name for gate in gates if not gate.holds]
    if not failing:
        return "every gate holds: a comparison of decisions on these runs is evidence"
    return f"NOT EVIDENCE about decisions: {len(failing)} of {len(gates)} gates fail ({'; '.join(failing)})"


class RecallJob(NamedTuple):
    """What a model knows of the world's facts."""

    model: str
    """As `predict` takes it."""
    file: Path
    """What `benchmarks.recall` writes."""
    questions: Path
    """What `pocket.make` wrote as `FACTS`."""

    @property
    def name(self) -> str:
        """Its name on the terminal."""
        return f"facts of {self.model}"

    @property
    def workdir(self) -> Path:
        """The file without its ending, by which its log is named."""
        return self.file.with_suffix("")

    @property
    def complete(self) -> bool:
        """Whether every question that is asked now is answered, by the weights that are there now, in a whole file."""
        if not self.file.exists():
            return False
        try:
            found = _read(self.file)
            found.number("recall")
        except InputError:
            return False  # damaged: it is asked again
        asked = digest_of(self.questions)
        return (found.content.get("weights"), found.content.get("questions")) == (weights_of(self.model), asked)

    def command(self) -> list[str]:
        """The command that starts it."""
        flags = (f"--model={self.model}", f"--questions={self.questions}", f"--out={self.file}")
        return [sys.executable, "-m", "benchmarks.recall", *flags]


def recall_of(job: RecallJob) -> float:
    """Share of the world's facts that the model of a complete job knows."""
    return _read(job.file).number("recall")


def _read(file: Path) -> Fields:
    return read_object(file, "remove it: the model is asked again")


def recall_jobs(runs: Path, results: Mapping[str, "Result"]) -> list[RecallJob]:
    """What must be asked for the gates: the pretrained model, then those of each of `TUNED`."""
    return [pretrained_job(runs), *(job for system in TUNED for job in tuned_jobs(results.get(system)))]


def tuned_jobs(result: "Result | None") -> list[RecallJob]:
    """The questions for a system's models."""
    return [
        RecallJob(f"{run.path}@{run.step}", run.path / "predictions" / f"facts-{run.step}.json", QUESTIONS)
        for run in (result.runs if result else ())
    ]


def pretrained_job(runs: Path) -> RecallJob:
    """The questions for the pretrained model."""
    return RecallJob(str(MODEL), runs / "facts-pretrained.json", QUESTIONS)


def measure(runs: Path, results: Mapping[str, "Result"]) -> Measured:
    """What is known so far: means over runs, and the lowest recall of them."""
    sft, cot, zeroshot, multitask = (results.get(system) for system in ("sft", "cot", "zeroshot", "multitask"))
    before, *after = recall_jobs(runs, results)
    return Measured(
        recall=lowest_recall([before]),
        recall_after=lowest_recall(after),
        cot_recall=lowest_recall(tuned_jobs(cot)),
        zeroshot=zeroshot and float(np.mean(list(zeroshot.f1("all").values()))) / 100,
        sft_unseen=kind_f1(sft, "unseen_fact"),
        cot_unseen=kind_f1(cot, "unseen_fact"),
        sft_habit=kind_f1(sft, "habit"),
        cot_habit=kind_f1(cot, "habit"),
        oracle_gain=multitask and oracle_gain(read_modes(multitask)),
    )


def lowest_recall(jobs: Sequence[RecallJob]) -> float | None:
    """The lowest share of facts known of these models; None while one was not asked, or without any."""
    return min(map(recall_of, jobs), default=None) if all(job.complete for job in jobs) else None


def oracle_gain(modes: Modes | None) -> float | None:
    """The oracle's gain over the better mode, of all posts."""
    if not modes or modes["all"] is None:
        return None
    scores = modes["all"].scores
    return scores["oracle"]["f1@1"] - max(scores[mode]["f1@1"] for mode in ("direct", "think"))


def kind_f1(result: "Result | None", kind: str) -> float | None:
    """Mean F1@1 of a system's runs on a kind of keyphrases; None if it was not measured."""
    found = [own_scores(run.comparisons).get(kind) for run in result.runs] if result else []
    return float(np.mean([each["f1@1"] for each in found])) if found and all(found) else None


def own_scores(comparisons: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The scores by kind of a run's own model, which is named by its step."""
    return next((scores for who, scores in comparisons.get("by_kind", {}).items() if ", step " in who), {})


def _verdict(gate: Gate) -> str:
    return "holds" if gate.holds else "not known" if gate.value is None else "FAILS"
