"""What a run prints at its end, for runs that leave a model and for those that do not."""

import importlib
import shlex
from pathlib import Path

import pytest

from mmkp_jax.experiment.afterwards import next_commands
from mmkp_jax.runtime.config import read_config


@pytest.mark.parametrize(
    "config, commands",
    [
        ("dyncot", ["predict", "serve", "main", "report", "export"]),
        ("sft", ["predict", "serve", "main", "report", "export"]),
        ("zeroshot", ["predict", "serve", "main", "report"]),
        ("cmkp", ["predict"]),
    ],
)
def test_only_what_can_be_done_with_a_run_is_named(config, commands):
    experiment = [f"--config={config}", "--config.seed=3"]
    lines = next_commands(Path("runs/it's"), read_config(config, tasks=("vlm", "baseline")), experiment)
    named = [shlex.split(line) for line in lines if line.startswith("  ")]
    assert [words[2].removeprefix("mmkp_jax.") for words in named] == commands
    parsed = {
        words[2]: importlib.import_module(words[2]).parser().parse_with_overrides(words[3:])[0] for words in named
    }
    model = "runs/pocket/model" if config == "zeroshot" else "runs/it's"
    assert parsed["mmkp_jax.predict"].model == model and parsed["mmkp_jax.predict"].zero_shot == (config == "zeroshot")
    if "main" in commands:
        other = f"runs/it's-{'dyncot' if config == 'sft' else 'sft'}"
        assert parsed["mmkp_jax.main"].workdir == parsed["mmkp_jax.report"].runs[1] == Path(other)
