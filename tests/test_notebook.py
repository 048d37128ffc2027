"""The notebook from pocket to a card: its cells compile, its commands are accepted, and it runs."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.test_docs import check

NOTEBOOK = ROOT / "docs/pocket.ipynb"
CONTENT = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in CONTENT["cells"] if cell["cell_type"] == "code"]
SHELL = "!{sys.executable} "


def test_its_cells_compile_and_its_commands_are_accepted():
    commands = []
    for number, cell in enumerate(CELLS):
        lines = cell.splitlines()
        commands += [line.removeprefix(SHELL) for line in lines if line.startswith("!")]
        compile("\n".join("" if line.startswith("!") else line for line in lines), f"cell {number}", "exec")
    assert len(commands) == 2
    for command in commands:
        check(["python", *shlex.split(command)])


def test_it_is_stored_without_outputs():
    assert [cell for cell in CONTENT["cells"] if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.nightly
def test_it_runs_to_a_card(tmp_path, monkeypatch):
    if not (find_spec("nbclient") and find_spec("ipykernel")):
        pytest.skip("Jupyter is not installed: pip install -e '.[notebook]'")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    card = notebook.cells[-1].outputs[0]["data"]["text/markdown"]
    assert "mmkp_jax" in card and "F1@1" in card
    assert (Path(tmp_path) / "runs/notebook-model/model.safetensors").exists()
