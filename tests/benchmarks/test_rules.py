"""What a rule costs: no rule adds operations to a step that count."""

import pytest

from benchmarks.rules import RULES, main


@pytest.mark.nightly
def test_every_rule_has_the_operations_of_the_published_one(capsys):
    main(["--steps=1"])
    added = {
        name: float(line.rsplit(",", 1)[1].rstrip("%"))
        for line in capsys.readouterr().out.splitlines()
        for name in RULES
        if "MFLOP a step" in line and line.split("MFLOP")[0].rsplit(None, 1)[0].strip() == name
    }
    assert added.keys() == RULES.keys() and max(map(abs, added.values())) < 0.01


def test_no_steps_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--steps=0"])
    assert "--steps is at least 1" in capsys.readouterr().err
