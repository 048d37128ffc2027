"""The package is built in rooms: each imports only rooms below it, and no file is misplaced or too long."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import pytest

from tests.support.paths import ROOT

PACKAGE = "mmkp_jax"

LEVELS = (
    ("commands",),
    ("experiment",),
    ("serving",),
    ("pocket",),
    ("pages",),
    ("planning",),
    ("inference",),
    ("baselines",),
    ("training",),
    ("judging",),
    ("teacher",),
    ("evaluation",),
    ("decoding",),
    ("hf",),
    ("families",),
    ("models",),
    ("ops",),
    ("data",),
    ("configs",),
    ("runtime",),
    ("errors",),
)
"""The rooms from the top; those of one level do not import each other, so that no circle of rooms can be."""

LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

COMMANDS = (
    *("main", "prepare", "describe", "teach", "predict", "score"),
    *("report", "judge", "export", "plan", "serve", "__main__"),
)
"""Files of the root that are commands."""

ROOM_OF_FILE = {**dict.fromkeys(COMMANDS, "commands"), "errors": "errors", "__init__": "runtime"}
"""Files of the root. Python runs `__init__` before any module of the package, so it imports no more than runtime."""

NAME_A_FAMILY = {"families", "pocket"}
"""Rooms that may import a family's own modules; the others have it from the registry."""

NOT_ROOMS = {"support", "fuzz", "golden", "launch", "benchmarks"}
"""Folders of tests that mirror no room."""

OF_ALL_FAMILIES = {f"{PACKAGE}.families.registry", f"{PACKAGE}.families.known"}
"""Modules of the families' room that are for all families."""

MOST_LINES = 350

JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}


class Import(NamedTuple):
    """One module that a file imports, wherever in it: at the top, in a function, or for type checkers alone."""

    file: str
    """Below the package's folder."""
    module: str
    """As `import` names it, dots and all."""
    at_top: bool = True
    """Whether it happens when the file is imported."""


def imports_of(file: str, source: str, modules: Iterable[str] = ()) -> list[Import]:
    """The imports of a file's source, relative ones resolved.

    Args:
        modules: dotted names of the package, which tell a module that `from` imports from a name in one.
    """
    tree, known = ast.parse(source), set(modules)
    delayed = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_type_checkers(node)
        for each in ast.walk(node)
    }
    return [
        Import(file, module, id(node) not in delayed)
        for node in ast.walk(tree)
        for module in _modules_of(node, f"{PACKAGE}/{file}".split("/")[:-1], known)
    ]


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def _modules_of(node: ast.AST, folder: list[str], known: set[str]) -> Iterator[str]:
    """The modules that a statement, or a call of `importlib.import_module` with a plain name, imports."""
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = folder[: len(folder) - node.level + 1] if node.level else []
        source = ".".join([*above, *filter(None, [node.module])])
        inner = [f"{source}.{each.name}" for each in node.names]
        yield from ([each for each in inner if each in known or source == PACKAGE] or [source])
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from (each.value for each in node.args[:1] if isinstance(each, ast.Constant))


def room_of(file: str) -> str:
    """The room of a file below the package's folder; the file's own name where the root should not hold it."""
    first, _, rest = file.partition("/")
    name = first.removesuffix(".py")
    return first if rest else ROOM_OF_FILE.get(name, name)


def room_of_module(module: str) -> str | None:
    """The room of a module of the package; None for another's module, and for names of the package itself."""
    package, *names = module.split(".")
    if package != PACKAGE or not names or (len(names) == 1 and names[0].startswith("__") and names[0] != "__main__"):
        return None
    return names[0] if names[0] in LEVEL_OF else ROOM_OF_FILE.get(names[0], names[0])


def arrows_up(imports: Iterable[Import]) -> list[str]:
    """Complaints about imports of another room that is not below the importing file's own."""
    wrong = []
    for file, module, _ in imports:
        ours, theirs = room_of(file), room_of_module(module)
        if theirs in (None, ours):
            continue
        if ours not in LEVEL_OF or theirs not in LEVEL_OF:
            wrong.append(f"{file} imports {module}: no level is known of {theirs if ours in LEVEL_OF else ours}")
        elif LEVEL_OF[theirs] <= LEVEL_OF[ours]:
            wrong.append(f"{file} imports {module}: {theirs} is not below {ours}")
    return wrong


def of_a_family(imports: Iterable[Import]) -> list[str]:
    """Complaints about imports of one family's modules by rooms that are for all families."""
    own = [
        each
        for each in imports
        if each.module.startswith(f"{PACKAGE}.families.") and each.module not in OF_ALL_FAMILIES
    ]
    return [f"{file} imports {module}" for file, module, _ in own if room_of(file) not in NAME_A_FAMILY]


def misplaced(files: Iterable[str]) -> list[str]:
    """Files that are in no room, and files of the root that are no command."""
    return [
        file for file in files if (room_of(file) if "/" in file else ROOM_OF_FILE.get(file[:-3], "")) not in LEVEL_OF
    ]


def needs_jax(files: Iterable[str], imports: Iterable[Import]) -> list[str]:
    """Complaints about those of the files that import jax or what brings it: anywhere in them, or by importing others.

    Imports inside the functions of other files do not count: they happen when those are called.
    """
    imports = list(imports)
    modules: dict[str, set[str]] = {}
    for file, module, at_top in imports:
        if at_top:
            modules.setdefault(name_of(file), set()).add(module)
    wrong = []
    for file in files:
        to_see, seen = [module for each, module, _ in imports if each == file], set()
        while to_see:
            module = to_see.pop()
            if module.partition(".")[0] in JAX:
                wrong.append(f"{file} imports {module}")
                break
            parents = module.split(".")
            for end in range(1, len(parents) + 1):
                if (each := ".".join(parents[:end])) not in seen:
                    seen.add(each)
                    to_see += modules.get(each, ())
    return wrong


def name_of(file: str) -> str:
    """The dotted name of a file below the package's folder."""
    return f"{PACKAGE}/{file}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_free_of_jax(file: str) -> bool:
    """Whether a file belongs to those that may not import jax: all of data, and each family's processor."""
    return file.startswith("data/") or file.endswith("/processor.py")


@pytest.fixture(scope="module")
def sources() -> Mapping[str, str]:
    """The text of each Python file of the package, by its place below the package's folder."""
    root = ROOT / PACKAGE
    return {file.relative_to(root).as_posix(): file.read_text("utf-8") for file in sorted(root.rglob("*.py"))}


@pytest.fixture(scope="module")
def imports(sources) -> list[Import]:
    modules = [name_of(file) for file in sources]
    return [each for file, source in sources.items() for each in imports_of(file, source, modules)]


def test_a_room_imports_only_rooms_below_it(imports):
    assert not arrows_up(imports)


def test_only_families_and_pocket_import_a_familys_own_modules(imports):
    assert not of_a_family(imports)


def test_every_file_is_in_a_room_and_the_root_holds_only_commands(sources):
    assert not misplaced(sources)


def test_no_file_is_too_long_for_a_head(sources):
    lengths = {file: source.count("\n") for file, source in sources.items()}
    assert not {file: lines for file, lines in lengths.items() if lines > MOST_LINES}


def test_data_and_processors_never_import_jax(sources, imports):
    assert not needs_jax(filter(is_free_of_jax, sources), imports)


def test_every_room_says_what_is_in_it(sources):
    assert not [
        file for file in sources if file.endswith("__init__.py") and not ast.get_docstring(ast.parse(sources[file]))
    ]


def test_folders_of_tests_mirror_the_rooms():
    folders = {each.name for each in (ROOT / "tests").iterdir() if each.is_dir() and not each.name.startswith("__")}
    assert not folders - LEVEL_OF.keys() - NOT_ROOMS
    assert not {each.name for each in (ROOT / PACKAGE).iterdir() if each.is_dir()} & NOT_ROOMS


BAD = {
    "data/reader.py": "from mmkp_jax.hf.folder import CONFIG",
    "hf/folder.py": "from mmkp_jax.data import reader",
    "models/layers.py": "def build():\n    from mmkp_jax.families.registry import family_of",
    "ops/kernel.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mmkp_jax.models.layers",
    "runtime/files.py": "import importlib\nimportlib.import_module('mmkp_jax.data.reader')",
    "training/loop.py": "from mmkp_jax import baselines, __version__\nfrom ..inference import run\nfrom . import step",
    "evaluation/score.py": "import mmkp_jax.report, os\nfrom mmkp_jax.attic.old import thing",
    "errors.py": "import mmkp_jax.runtime.files as files",
}


def test_a_graph_of_imports_back_up_is_refused_arrow_by_arrow():
    modules = [name_of(file) for file in BAD]
    found = arrows_up(each for file, source in BAD.items() for each in imports_of(file, source, modules))
    assert found == [
        "data/reader.py imports mmkp_jax.hf.folder: hf is not below data",
        "models/layers.py imports mmkp_jax.families.registry: families is not below models",
        "ops/kernel.py imports mmkp_jax.models.layers: models is not below ops",
        "runtime/files.py imports mmkp_jax.data.reader: data is not below runtime",
        "training/loop.py imports mmkp_jax.baselines: baselines is not below training",
        "training/loop.py imports mmkp_jax.inference: inference is not below training",
        "evaluation/score.py imports mmkp_jax.report: commands is not below evaluation",
        "evaluation/score.py imports mmkp_jax.attic.old: no level is known of attic",
        "errors.py imports mmkp_jax.runtime.files: runtime is not below errors",
    ]


def test_a_file_in_no_room_is_refused():
    files = [
        "main.py",
        "errors.py",
        "__main__.py",
        "helpers.py",
        "data.py",
        "attic/old.py",
        "hf/load.py",
        "__init__.py",
    ]
    assert misplaced(files) == ["helpers.py", "data.py", "attic/old.py"]


def test_a_family_that_is_named_above_the_seam_is_refused():
    line = "from mmkp_jax.families.registry import define\nfrom mmkp_jax.families.someone.model import Someone"
    files = "decoding/cache.py", "pocket/model.py", "families/registry.py"
    found = of_a_family(each for file in files for each in imports_of(file, line))
    assert found == ["decoding/cache.py imports mmkp_jax.families.someone.model"]


def test_jax_is_found_behind_other_modules():
    sources = {
        "data/near.py": "def late():\n    import jax.numpy",
        "data/far.py": "from mmkp_jax.data.between import name",
        "data/between.py": "import mmkp_jax.ops.kernel",
        "ops/__init__.py": "import optax",
        "data/fine.py": "from mmkp_jax.runtime.files import read",
        "runtime/files.py": "def hosts():\n    import jax",
    }
    found = needs_jax(sources, [each for file, source in sources.items() for each in imports_of(file, source)])
    assert found == [
        "data/near.py imports jax.numpy",
        "data/far.py imports optax",
        "data/between.py imports optax",
        "ops/__init__.py imports optax",
        "runtime/files.py imports jax",
    ]
