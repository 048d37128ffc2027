"""One file of constraints for every Python; torch comes through one helper, which skips where there may be none."""

import ast
import re
import sys

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.needs_torch import needs_torch
from tests.support.paths import ROOT

LINES = (ROOT / "requirements/tested.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line) for line in LINES if not line.startswith("#")]
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_package_has_one_release_for_each_python(python):
    names = [pin.name for pin in PINS if not pin.marker or pin.marker.evaluate({"python_version": python})]
    assert sorted(names) == sorted({pin.name for pin in PINS})
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in PINS)


def test_github_tests_the_oldest_and_the_newest_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == [PYTHONS[0], PYTHONS[-1]]
    assert any(step.get("run") == "bash .ci/run" for step in job["steps"])


@pytest.mark.parametrize("python, outcome", [((3, 11), ImportError), ((3, 13), pytest.skip.Exception)])
def test_without_torch_tests_fail_on_python_3_11_and_skip_on_newer_ones(monkeypatch, python, outcome):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("tests.support.needs_torch.sys.version_info", python)
    with pytest.raises(outcome, match="torch"):
        needs_torch()


def test_torch_is_imported_by_the_helper_alone():
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert [file for file in files if imports_torch(ast.parse(file.read_text(encoding="utf-8")))] == []


def imports_torch(tree: ast.Module) -> bool:
    for_types = {node for branch in ast.walk(tree) if is_for_types(branch) for node in ast.walk(branch)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import) and node not in for_types]
    return "torch" in {name.name.partition(".")[0] for node in imports for name in node.names}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
