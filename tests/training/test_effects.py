"""Settings without effect in a run are reported; others are not."""

import pytest

from configs import dyncot, sft, zeroshot
from mmkp_jax.training.effects import lines_without_effect, without_effect


def config_of(module=dyncot, **fields):
    config = module.get_config("model=qwen2_5_vl_3b")
    config.update({"num_epochs": 0, "total_steps": 5_000} | fields)
    return config


def test_no_note_is_printed_when_every_setting_has_an_effect():
    assert lines_without_effect(config_of(), 5_000) == ""
    for fields in ({"gamma_mode": "quantile"}, {"decision": "random"}, {"decision": "random_posts"}):
        assert without_effect(config_of(gamma_share=0.3, **fields), 5_000) == []
    apart = {"strategy": "decoupled", "decision": "mode_free", "mode_weight": 0.1, "multitask_weight": 0.4}
    assert without_effect(config_of(**apart), 5_000) == []
    full = {"eval_every": 1_000, "export_every": 2, "valid_posts": 10, "gamma_mode": "ema", "gamma_ema_decay": 0.9}
    assert without_effect(config_of(**full), 5_000, profiled=range(10, 12)) == []


@pytest.mark.parametrize(
    "fields, line",
    [
        ({"num_epochs": 4}, "num_epochs=4 has no effect: total_steps=5000 decides the length"),
        ({"warmup_steps": 30}, "warmup_steps=30 is as long as the run of 30 steps: shortened to 3"),
        (
            {"eval_every": 1000},
            "eval_every=1000 is beyond the run's 30 steps: valid is evaluated at the end alone",
        ),
        (
            {"checkpoint_every": 500},
            "checkpoint_every=500 is beyond the run's 30 steps: only its end or a stop is saved",
        ),
        ({"log_every": 100}, "log_every=100 is beyond the run's 30 steps: the progress line shows no figures"),
        (
            {"eval_every": 10, "export_every": 4},
            "export_every=4, times eval_every=10, is beyond the run's 30 steps: only the best is exported",
        ),
        ({"export_every": 1}, "export_every=1 has no effect: eval_every=0"),
        ({"valid_posts": 16}, "valid_posts=16 has no effect: eval_every=0"),
        ({"best_metric": "valid/words"}, "best_metric=valid/words has no effect: eval_every=0"),
        ({"multitask_weight": 0.3}, "multitask_weight=0.3 has no effect: strategy dyncot has no such weight"),
        ({"gamma_ema_decay": 0.5}, "gamma_ema_decay=0.5 has no effect: gamma_mode=fixed"),
        ({"gamma_mode": "mean", "gamma": 0.3}, "gamma=0.3 has no effect: gamma_mode=mean"),
        ({"gamma_mode": "quantile", "gamma": 0.3}, "gamma=0.3 has no effect: gamma_mode=quantile"),
        (
            {"gamma_share": 0.3, "decision": "mode_free"},
            "gamma_share=0.3 has no effect: gamma_mode=fixed, and decision mode_free is not random",
        ),
        ({"decision": "random", "gamma": 0.3}, "gamma=0.3 has no effect: decision random has no γ"),
        ({"decision": "random", "gamma_mode": "mean"}, "gamma_mode=mean has no effect: decision random has no γ"),
        ({"mode_weight": 1.0}, "mode_weight=1.0 has no effect: strategy dyncot has no mode of its own"),
        (
            {"strategy": "decoupled", "mode_weight": 0.0, "decision": "inverse"},
            "decision=inverse has no effect: mode_weight=0, so no choice of a mode is learned",
        ),
        ({"gamma": 0.0}, "gamma=0: no post is put on CoT, as under strategy=sft"),
        ({"gamma": 0.0, "decision": "inverse"}, "gamma=0: every post with a chain is on CoT"),
        (
            {"gamma_share": 0.0, "decision": "random"},
            "gamma_share=0: no post is put on CoT, as under strategy=sft",
        ),
        ({"gamma_share": 1.0, "decision": "random_posts"}, "gamma_share=1: every post with a chain is on CoT"),
    ],
)
def test_a_setting_without_effect_is_reported(fields, line):
    quiet = {"warmup_steps": 2, "checkpoint_every": 10}
    assert without_effect(config_of(**quiet | fields), 30) == [line]


def test_settings_of_gamma_are_reported_for_a_strategy_without_it():
    assert without_effect(config_of(sft, gamma=0.3, gamma_mode="mean", gamma_share=0.3, decision="random"), 5_000) == [
        "decision=random has no effect: strategy sft makes no decision",
        "gamma_mode=mean has no effect: strategy sft has no γ",
        "gamma=0.3 has no effect: strategy sft has no γ",
        "gamma_share=0.3 has no effect: strategy sft makes no decision",
    ]


def test_zero_shot_reports_every_training_setting():
    assert without_effect(config_of(zeroshot, eval_every=10), 0) == [
        "total_steps=5000 has no effect: strategy zeroshot trains nothing",
        "eval_every=10 has no effect: strategy zeroshot trains nothing",
    ]


@pytest.mark.parametrize(
    "profiled, first, line",
    [
        (range(40, 51), 1, "--profile_steps=40:50 is beyond the run's 30 steps: nothing is traced"),
        (range(4, 7), 9, "--profile_steps=4:6 is before step 9, at which the run resumes: nothing is traced"),
        (range(8, 41), 9, "--profile_steps=8:40 is cut to the steps that are run: 9:30"),
    ],
)
def test_steps_that_cannot_be_traced_are_reported(profiled, first, line):
    quiet = config_of(warmup_steps=2, checkpoint_every=10)
    assert without_effect(quiet, 30, first=first, profiled=profiled) == [line]
