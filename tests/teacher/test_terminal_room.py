import subprocess
import sys

import pytest

COMMANDS = "import mmkp_jax.judge, mmkp_jax.predict, mmkp_jax.teach\n"
ROOM = (
    "import importlib, pkgutil, mmkp_jax.teacher\n"
    "for each in pkgutil.iter_modules(mmkp_jax.teacher.__path__):\n"
    "    importlib.import_module(f'mmkp_jax.teacher.{each.name}')\n"
)
JAX, EXTRA = ["jax", "jaxlib", "torch", "transformers"], ["openai", "tenacity", "aiolimiter"]


@pytest.mark.parametrize(("imports", "unwanted"), [(ROOM + COMMANDS, JAX), (COMMANDS, EXTRA)], ids=["jax", "extra"])
def test_commands_with_an_endpoint_load_no_jax_and_the_extra_only_for_calls(imports, unwanted):
    script = f"import sys\n{imports}print(*({{name.split('.')[0] for name in sys.modules}} & {set(unwanted)}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
