"""Configs of adapters: plain LoRA is read, and what would be other numbers is refused in one line."""

import json

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.hf.plain_lora import HARMLESS, PLAIN, READ, check_plain
from mmkp_jax.runtime.json_files import Fields
from tests.support.needs_torch import needs_torch

NOT_PLAIN = [
    *(("init_lora_weights", value) for value in ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "eva", "mica")),
    *(("init_lora_weights", value) for value in ("orthogonal", "lora_ga", 1, ["gaussian"])),
    *((name, True) for name in ("use_dora", "use_qalora", "fan_in_fan_out", "lora_bias", "ensure_weight_tying")),
    *((f"{name}_config", {"a": 1}) for name in ("kasa", "velora", "monteclora", "lora_ga", "corda", "loftq", "eva")),
    ("layer_replication", [[0, 2], [1, 4]]),
    ("alora_invocation_tokens", [1, 2]),
    ("trainable_token_indices", [3]),
    ("target_parameters", ["mlp.weight"]),
    ("rank_pattern", {"q_proj": 8}),
    ("bias", "all"),
    ("a_field_of_tomorrow", "on"),
    ("a_field_of_tomorrow", 0.5),
    ("a_field_of_tomorrow", 0),
]


def checked(**content):
    check_plain(Fields(content, "adapter_config.json"))


@pytest.mark.parametrize(("name", "value"), NOT_PLAIN, ids=str)
def test_what_is_more_than_plain_lora_is_refused_by_its_name(name, value):
    with pytest.raises(InputError) as raised:
        checked(peft_type="LORA", r=4, **{name: value})
    assert str(raised.value).startswith(f"adapter_config.json: '{name}' is ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [None, False, {}, []], ids=str)
def test_a_field_that_is_off_is_plain_even_an_unknown_one(value):
    checked(a_field_of_tomorrow=value, **dict.fromkeys(PLAIN, value))


def test_plain_lora_is_read_however_it_was_drawn():
    checked(**PLAIN, **dict.fromkeys(READ | HARMLESS, "anything"))
    for value in (True, False, "gaussian", None):
        checked(init_lora_weights=value)


@pytest.mark.nightly
def test_the_plain_values_are_pefts_own_defaults_and_no_field_of_peft_is_unknown(tmp_path):
    needs_torch()
    from peft import LoraConfig

    LoraConfig(target_modules=["q_proj"]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    check_plain(Fields(content, "adapter_config.json"))
    assert content.keys() <= READ | HARMLESS | PLAIN.keys() and PLAIN.keys() <= content.keys()
    assert {name: content[name] for name in PLAIN} == PLAIN
