"""What a rule costs: no rule adds operations to a step that count."""

import pytest

from benchmarks import rules

MOST = 0.01
"""Percent of a step's operations."""


def added(capsys) -> dict[str, float]:
    """The operations that each rule adds to the published one's step, in percent, as the script prints them."""
    rules.main(["--steps=1"])
    return {
        name: float(line.rsplit(",", 1)[1].rstrip("%"))
        for line in capsys.readouterr().out.splitlines()
        for name in rules.RULES
        if "MFLOP a step" in line and line.split("MFLOP")[0].rsplit(None, 1)[0].strip() == name
    }


def test_the_mode_free_rule_has_the_operations_of_the_published_one(capsys, monkeypatch):
    monkeypatch.setattr(rules, "RULES", {name: rules.RULES[name] for name in ("ours", "mode_free")})
    found = added(capsys)
    assert found.keys() == {"ours", "mode_free"} and max(map(abs, found.values())) < MOST


@pytest.mark.nightly
def test_every_rule_has_the_operations_of_the_published_one(capsys):
    found = added(capsys)
    assert found.keys() == rules.RULES.keys() and max(map(abs, found.values())) < MOST


def test_no_steps_are_refused(capsys):
    with pytest.raises(SystemExit):
        rules.main(["--steps=0"])
    assert "--steps is at least 1" in capsys.readouterr().err
