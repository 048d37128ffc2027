"""What README and docs/ tell people to type is accepted, the files that they name exist, and their code runs."""

import ast
import functools
import importlib
import itertools
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import configs.base
from mmkp_jax.__main__ import commands
from mmkp_jax.runtime import limits
from mmkp_jax.runtime.baseline_fields import BASELINE_FIELDS, TASKS
from mmkp_jax.runtime.config import read_config
from mmkp_jax.runtime.fields import FIELDS, field_named
from tests.support.paths import ROOT
from tests.support.tiny import write_model
from tests.test_rooms import LEVELS

PAGES = {page.name: page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
FOLDER_OF = {name: ROOT if name == "README.md" else ROOT / "docs" for name in PAGES}
UNCHECKED = "# not checked"
"""The end of a line that no test can check: it downloads, say."""

FOLDERS = r"\.ci|benchmarks|configs|docs|launch|mmkp_jax|requirements|tests"
"""Folders whose files are named by their path from the root."""

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")


def prose_of(text: str) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text)


def spans_of(text: str) -> list[str]:
    """What a page has in backticks, outside blocks of code."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose_of(text))]


def commands_of(text: str) -> list[str]:
    """What a page says to type, a line each: in blocks, and in a sentence where it begins with `python` or `mmkp`."""
    typed = [
        line.strip() for language, block in FENCE.findall(text) if language == "bash" for line in block.splitlines()
    ]
    starts = ("python ", "mmkp ", "bash ", "launch/")
    spans = [span for span in spans_of(text) if span.startswith(starts) and " " in span and "COMMAND" not in span]
    return typed + spans


COMMANDS = sorted({line for text in PAGES.values() for line in commands_of(text)})


def words_of(line: str) -> list[list[str]]:
    """The words of each command of a line, in which `&&` joins them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&>")
    lexer.whitespace_split = True
    return [list(words) for is_and, words in itertools.groupby(lexer, lambda word: word == "&&") if not is_and]


def check(words: list[str]) -> None:
    """Fails unless a command is known and takes its flags."""
    match words:
        case ["python", "-m", "pytest", *flags]:
            tier = ["-m", "nightly"]
            plain = flags[2:] if flags[:2] == tier else flags
            assert not plain or shlex.join(["python", "-m", "pytest", *plain]) in CI.splitlines()
        case ["python", "-m", module, ">", file]:
            assert importlib.util.find_spec(module) and (ROOT / file).exists()
        case ["python", "-m", module, *flags] if module.startswith("mmkp_jax."):
            check_flags(module.removeprefix("mmkp_jax."), flags)
        case ["python", "-m", "sphinx", *flags]:
            assert "-W" in flags and (ROOT / flags[flags.index("-c") + 1] / "conf.py").exists()
        case ["python", "-m", module]:
            assert importlib.util.find_spec(module)
        case ["mmkp", command, *flags]:
            check_flags(command, flags)
        case [launcher, *flags] if launcher.startswith("launch/"):
            check_launch(launcher, flags)
        case ["pip", "install", *flags]:
            check_install(flags)
        case ["pip", "wheel", *_]:
            assert '"wheel", "--no-deps"' in (ROOT / "tests/test_wheel.py").read_text(encoding="utf-8")
        case ["ruff", *_]:
            assert shlex.join(words) in CI.splitlines()
        case ["bash", script]:
            assert (ROOT / script).exists()
        case ["python3", "-m", "venv", _] | ["cd" | ".", _] | ["export", _]:
            pass
        case _:
            pytest.fail(f"nothing checks {shlex.join(words)}: mark its line with {UNCHECKED!r}")


def check_flags(command: str, flags: list[str]) -> None:
    """Parses a command's flags as it does itself, and reads its config."""
    assert command in commands()
    parsed, overrides = importlib.import_module(f"mmkp_jax.{command}").parser().parse_with_overrides(flags)
    config = getattr(parsed, "config", None)
    assert config or not overrides
    if config:
        read_config(config, overrides, tasks=TASKS)


def check_launch(launcher: str, flags: list[str]) -> None:
    """Has a launcher print what it would run, and checks the flags that it passes on."""
    before = flags[: flags.index("--")] if "--" in flags else flags
    check_flags("main", flags[len(before) + 1 :])
    command = [ROOT / launcher, *before, "--dry_run", *flags[len(before) :]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_install(flags: list[str]) -> None:
    """Fails unless the constraints' file exists and the extras are the package's."""
    for flag, value in itertools.pairwise(flags):
        assert flag != "-c" or (ROOT / value).exists()
    for extras in re.findall(r"\.\[(.*?)\]", " ".join(flags)):
        assert set(extras.split(",")) <= extras_of_setup()


@functools.cache
def extras_of_setup() -> set[str]:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (extras,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS_REQUIRE"
    )
    return {key.value for key in extras.keys}


def test_commands_are_found_on_the_pages():
    kinds = [line.partition(" ")[0].partition("/")[0] for line in COMMANDS]
    assert kinds.count("python") > 15 and kinds.count("launch") > 4


@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.endswith(UNCHECKED)])
def test_a_command_is_accepted(line):
    for words in words_of(line):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "python -m mmkp_jax.main --config=configs/dyncot.py --no_such_flag",
        "python -m mmkp_jax.main --config=configs/dyncot.py:model=no_such_model",
        "cd anywhere && mmkp no_such_command",
        "pip install -e '.[no_such_extra]'",
        "launch/local.sh --processes=2 -- --config=configs/dyncot.py --config.no_such_field=1",
        "git clone ADDRESS",
    ],
)
def test_a_command_that_is_wrong_is_refused(line):
    with pytest.raises((Exception, pytest.fail.Exception)):
        for words in words_of(line):
            check(words)


@functools.cache
def known_flags() -> set[str]:
    """The flags of all commands and launchers, and one of pytest."""
    parsers = [importlib.import_module(f"mmkp_jax.{command}").parser() for command in commands()]
    flags = {"--durations", *(flag for parser in parsers for flag in parser._option_string_actions)}
    return flags | {flag for file in (ROOT / "launch").iterdir() for flag in re.findall(r"--\w+", file.read_text())}


@pytest.mark.parametrize("page", PAGES)
def test_flags_and_fields_in_sentences_are_known(page):
    flags = {
        word.partition("=")[0] for span in spans_of(PAGES[page]) for word in span.split() if re.match(r"--\w", word)
    }
    fields = {flag.removeprefix("--config.") for flag in flags if flag.startswith("--config.")}
    assert [field for field in fields - {"key"} if not field_named(field, (*FIELDS, *BASELINE_FIELDS))] == []
    assert {flag for flag in flags if not flag.startswith("--config.")} <= known_flags()


@pytest.mark.parametrize("page", PAGES)
def test_files_and_headings_that_are_named_exist(page):
    folder, text = FOLDER_OF[page], PAGES[page]
    wrong = []
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        file = folder / (path or page)
        if "://" not in link and not (file.exists() and (not heading or heading in headings_of(file.read_text()))):
            wrong.append(link)
    for span in spans_of(text):
        if named := re.fullmatch(rf"((?:{FOLDERS})/[\w./]+)(?:: (\w+))?", span):
            path, name = named.groups()
            if not (ROOT / path).exists() or (name and not defines(ROOT / path, name)):
                wrong.append(span)
    assert wrong == []


def defines(file: Path, name: str) -> bool:
    """Whether a class, function or value of this name is at the top of a file."""
    return bool(re.search(rf"^(?:class |def |){name}\b", file.read_text(encoding="utf-8"), re.MULTILINE))


def headings_of(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose_of(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_text_are_not_longer_than_120(page):
    lines = prose_of(PAGES[page]).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_step_in_python_trains(tmp_path, monkeypatch, capsys):
    """As printed, except for a model folder and rows of a size that a laptop has."""
    write_model(tmp_path)
    real = configs.base.get_config

    def small():
        config = real()
        config.model.path, config.global_batch_size = str(tmp_path), 1
        config.row.update(tokens=256, labels=128, examples=2, images={"patches": 0, "windows": 0})
        return config

    monkeypatch.setattr(configs.base, "get_config", small)
    (snippet,) = [block for language, block in FENCE.findall(PAGES["python.md"]) if language == "python"]
    exec(compile(snippet, "python.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"'loss_sft': \d+\.\d+", printed) and re.search(r"'posts': 1\.0", printed)


def test_limits_are_those_of_the_code():
    rows = re.findall(r"\| ([\d,]+) MiB \| `(\w+)` \|", PAGES["your_posts.md"])
    stated = {variable: int(size.replace(",", "")) << 20 for size, variable in rows}
    assert stated == {
        limit.variable: limit.default for limit in vars(limits).values() if isinstance(limit, limits.Limit)
    }


def test_rooms_are_listed_in_the_order_that_imports_are_checked_by():
    section = PAGES["development.md"].partition("## The rooms")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| (.*) \|$", section, re.MULTILINE)
    assert tuple(tuple(re.findall(r"`(\w+)`", rooms)) for rooms, _ in rows) == LEVELS
    for rooms, about in rows:
        for room in re.findall(r"`(\w+)`", rooms):
            is_absent = about == "not there yet" or f"`{room}` is not there yet" in about
            exists = (ROOT / "mmkp_jax" / room).exists() or room in ("commands", "errors")
            assert exists != is_absent, room


def test_the_field_shown_as_an_example_is_one_of_the_table():
    (example,) = [block for language, block in FENCE.findall(PAGES["development.md"]) if language == "python"]
    assert example.strip() in (ROOT / "mmkp_jax/runtime/fields.py").read_text(encoding="utf-8")
