"""README is short, leads to every page, and its commands are the ones that are tested."""

import re

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")


def block_of(title: str) -> list[str]:
    """The lines of the first block of commands in a section."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    block, *_ = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return block.splitlines()


def test_it_is_short():
    assert len(README.splitlines()) < 150


def test_it_installs_what_ci_installs_and_runs_the_default_experiment():
    install, run = block_of("Run it")
    assert install.rpartition("pip install ")[2] in CI
    assert run == "python -m mmkp_jax.main --config=configs/dyncot.py"


def test_the_test_command_is_the_one_that_ci_runs():
    assert block_of("Test it")[0] in CI.splitlines()


def test_it_leads_to_every_page():
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages <= set(re.findall(r"\]\(([^)]+)\)", README))


def test_the_claims_that_it_shows_are_those_of_the_whole_table():
    shown = re.findall(r"^\| .* \| `(?:tests|benchmarks)/[\w/]+\.py` \|$", README, re.MULTILINE)
    table = (ROOT / "docs/measured.md").read_text(encoding="utf-8").replace("](../", "](").splitlines()
    assert len(shown) >= 5 and [line for line in shown if line not in table] == []
