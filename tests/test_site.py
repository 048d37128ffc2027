"""The pages are a site, built without a warning; its links lead somewhere, and it loads nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from typing import ClassVar
from urllib.parse import unquote

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in ("sphinx", "furo", "myst_parser")),
    reason="the site's builder is not installed: pip install -e '.[docs]'",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly: a link to a page, a heading or a file that is not there is an error."""
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", "docs", ".", out]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


class References(HTMLParser):
    """Of a page: its anchors, what it links to, and what a browser loads with it."""

    LOADED: ClassVar = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in self.LOADED and found.get(self.LOADED[tag]):
            self.loaded.append(found[self.LOADED[tag]])


def test_every_page_is_on_the_site_and_no_link_leads_nowhere(site):
    pages = {file: References(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    names = {file.name for file in pages}
    assert {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} | {"api.html", "index.html"} <= names
    wrong = []
    for file, page in pages.items():
        for link in [*page.links, *page.loaded]:
            if re.match(r"\w+:", link):
                continue
            path, _, anchor = unquote(link.partition("?")[0]).partition("#")
            target = (file.parent / path).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                wrong.append(f"{file.relative_to(site)}: {link}")
    assert wrong == []


def test_the_site_loads_nothing_from_elsewhere(site):
    loaded = [each for file in site.rglob("*.html") for each in References(file.read_text(encoding="utf-8")).loaded]
    assert loaded and [each for each in loaded if re.match(r"(?:\w+:)?//", each)] == []
    for file in [*site.rglob("*.css"), *site.rglob("*.js")]:
        text = file.read_text(encoding="utf-8")
        assert re.findall(r"""(?:url\(|@import|fetch\(|import\()\s*['"]?(?:https?:)?//[^)'"]*""", text) == [], file


def test_the_api_has_the_docstrings(site):
    text = (site / "docs/api.html").read_text(encoding="utf-8")
    for name in ("training.setup.plan_training", "data.forest.pack_rows", "inference.predictor.load_predictor"):
        assert f'id="mmkp_jax.{name}"' in text
    assert "Harmonic mean" in text or "harmonic mean" in text


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    conf = (ROOT / "docs/conf.py").read_text(encoding="utf-8")
    without_api = conf.replace(', "sphinx.ext.autodoc"', "").partition("\ndef setup")[0]
    (tmp_path / "docs/conf.py").write_text(without_api)
    (tmp_path / "docs/index.md").write_text("# A page\n\n[nothing](install.md), [no heading](#nowhere)\n")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", "docs", ".", "out"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and "install.md" in done.stderr and "nowhere" in done.stderr
