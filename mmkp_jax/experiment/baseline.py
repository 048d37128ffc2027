"""The experiment of a baseline: its posts, training, evaluation and report, in a work directory like every other."""

import functools
import json
import signal
from pathlib import Path

import jax
from ml_collections import ConfigDict

from mmkp_jax.baselines.fit import Fit
from mmkp_jax.baselines.model import initial_params, parameter_count
from mmkp_jax.baselines.predictor import KeyphrasePredictor
from mmkp_jax.baselines.setup import (
    class_words_of,
    data_of,
    fuses,
    open_posts,
    predictor_of,
    sidecars_of,
    sizes_of,
)
from mmkp_jax.baselines.vocabulary import save_vocabulary
from mmkp_jax.errors import InputError
from mmkp_jax.experiment.afterwards import finish, is_over, report_line
from mmkp_jax.experiment.embeddings import fit_states
from mmkp_jax.experiment.run import raise_stopped
from mmkp_jax.inference.evaluate import Evaluation
from mmkp_jax.inference.hidden_states import StatePredictor
from mmkp_jax.inference.tower_regions import FOLDER, TowerRegions
from mmkp_jax.models.compilation_cache import keep_compiled
from mmkp_jax.models.definition import Params
from mmkp_jax.pages.report.page import write_report
from mmkp_jax.runtime.baseline_fields import BASELINE_FIELDS
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.field_checks import check_settings
from mmkp_jax.runtime.hosts import is_multi_host
from mmkp_jax.runtime.lock import Lock
from mmkp_jax.training.batches import make_data
from mmkp_jax.training.contents import check_contents, check_put_aside, contents_of, same_content, write_contents
from mmkp_jax.training.effects import needs_without_effect
from mmkp_jax.training.watchdog import Watchdog
from mmkp_jax.training.workdir import check_claim, claim, write_environment


def run_baseline(config: ConfigDict, workdir: Path, lock: Lock, *, extend: bool = False) -> None:
    """Runs the experiment of a baseline, on one host.

    Args:
        lock: the work directory's lock; the caller releases it.
        extend: a run in the work directory may have been shorter.

    Raises:
        InputError: something that the user gave cannot be used.
        BusyError: another host is writing this run.
        Stopped: the run was asked to stop; it resumes from its last finished epoch.
    """
    check_settings(config, BASELINE_FIELDS)
    if is_multi_host():
        raise InputError("a baseline trains on one host", "config.task=baseline", "start it on one")
    given = json.loads(config.to_json_best_effort())
    if is_over(workdir, given):
        return
    make_data(config)
    with Watchdog(workdir, config.hang_seconds, jax.process_index()) as watchdog:
        evaluated = config.copy_and_resolve_references()
        if config.strategy == "embeddings":  # nothing is chosen on valid
            evaluated.eval_every = 0
        evaluation = Evaluation(evaluated, watchdog)
        fields = config.to_dict()
        check_put_aside(workdir, config)
        check_claim(workdir, fields, extend=extend, same=functools.partial(same_content, workdir, contents_of(config)))
        tested = _run(config, workdir, lock, extend, watchdog, evaluation)
    write_report([workdir], workdir / "report.html")
    finish(workdir, given)
    print(tested, report_line(workdir), sep="\n\n")


def _run(
    config: ConfigDict, workdir: Path, lock: Lock, extend: bool, watchdog: Watchdog, evaluation: Evaluation
) -> str:
    """Trains and evaluates; returns the tables for the terminal."""
    if config.strategy == "embeddings":
        predictor, step = fit_states(config, workdir, lambda: _claimed(config, workdir, lock, extend), watchdog)
        return _tested(workdir, evaluation, predictor, step)
    posts = open_posts(config)
    sidecars = sidecars_of(config, posts, lambda model: TowerRegions(model, workdir / FOLDER, keep=True))
    vocabulary, data = data_of(config, posts, sidecars)
    sizes = sizes_of(config, vocabulary, sidecars)
    predictor = predictor_of(config, sizes, vocabulary, sidecars, {})
    _claimed(config, workdir, lock, extend)
    save_vocabulary(vocabulary, workdir)
    params = initial_params(sizes, config.seed)
    print(
        f"{parameter_count(params):,} parameters; {len(vocabulary.words):,} words, "
        f"{len(vocabulary.keyphrases):,} keyphrases; {len(data.train):,} posts are {len(data.train_pairs):,} pairs"
    )

    def validate(params: Params, joint: bool) -> dict[str, float]:
        return evaluation.validate(predictor.with_params(params, joint=joint))

    fit = Fit(predictor.definition, config, data, class_words_of(config, vocabulary))
    step, params, joint = fit.train(params, workdir, validate if config.eval_every else None, watchdog)
    return _tested(workdir, evaluation, predictor.with_params(params, joint=joint), step)


def _claimed(config: ConfigDict, workdir: Path, lock: Lock, extend: bool) -> None:
    lock.acquire()
    contents = contents_of(config)
    check_contents(workdir, contents, sorted(contents))
    same = functools.partial(same_content, workdir, contents)
    resumed = claim(workdir, config.to_dict(), extend=extend, same=same)
    write_contents(workdir, contents)
    write_environment(workdir)
    keep_compiled(workdir / "compiled")
    print(for_terminal(f"{'resuming in' if resumed else 'work directory:'} {workdir}"))
    for line in needs_without_effect(config, BASELINE_FIELDS):
        print(f"note: {line}")
    if config.fusion == "coatt" and config.strategy == "cmkp" and not fuses(config):
        print("note: fusion has no effect: data.image_features and data.attributes are empty")


def _tested(workdir: Path, evaluation: Evaluation, predictor: KeyphrasePredictor | StatePredictor, step: int) -> str:
    signal.signal(signal.SIGTERM, raise_stopped)
    return evaluation.test(predictor, workdir, step)
