import subprocess
import sys


def test_no_module_of_the_room_loads_jax():
    script = (
        "import importlib, pkgutil, sys, mmkp_jax.teacher, mmkp_jax.teach, mmkp_jax.judge\n"
        "for each in pkgutil.iter_modules(mmkp_jax.teacher.__path__):\n"
        "    importlib.import_module(f'mmkp_jax.teacher.{each.name}')\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('jax', 'jaxlib', 'torch', 'transformers')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
