"""A wheel of the repository, installed in another folder, is the whole program."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "mmkp_jax", "configs")

SMALL = '''
"""A pocket of few posts, of the installed package; what --config.make names."""
from pathlib import Path

import mmkp_jax
from mmkp_jax.pocket.make import make_pocket, prepare_posts

def make():
    sizes, root = {"train": 24, "valid": 2, "test": 3}, Path("runs/pocket")
    make_pocket(root, sizes=sizes)
    prepare_posts(root, sizes)
'''

CALL = """
import runpy, sys
_, root, *sys.argv = sys.argv
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    status = end.code
files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
print(status, [file for file in files if file.startswith(root)])
"""

FLAGS = {
    "make": "small",
    "total_steps": 2,
    "warmup_steps": 1,
    "answer_tokens": 4,
    "eval_batch_size": 3,
    "ablations": False,
}


def pip(*arguments: str | Path, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:  # copied, as a build writes into its folder
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", ".", "./source", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def files_below(folder: Path) -> set[str]:
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_a_wheel_holds_every_file_of_the_package_and_the_experiments_once(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    held = [name.removeprefix("mmkp_jax/") for name in names if name.startswith("mmkp_jax/")]
    experiments = {f"configs/{name}" for name in files_below(ROOT / "configs")}
    assert sorted(held) == sorted(files_below(ROOT / "mmkp_jax") | experiments)
    assert {name.partition("/")[0] for name in names} == {"mmkp_jax", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}


def test_an_installed_wheel_runs_the_main_job_from_an_empty_folder(wheel, tmp_path):
    installed, folder = tmp_path / "installed", tmp_path / "empty"
    pip("install", "--no-deps", "--no-index", "--target", installed, wheel, cwd=tmp_path)
    folder.mkdir()
    (folder / "small.py").write_text(SMALL)
    flags = ["main", "--config=dyncot", *(f"--config.{name}={value}" for name, value in FLAGS.items())]
    environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", CALL, f"{ROOT}/", installed / "bin" / "mmkp", *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    (workdir,) = (folder / "runs").glob("dyncot-*")
    assert json.loads((workdir / "results.json").read_text())["all"]["n"] == 3
    assert "<html" in (workdir / "report.html").read_text()
