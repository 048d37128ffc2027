"""The page as one text; it holds no data, which its script asks the server for."""

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

from mmkp_jax.pages.render import render


def page_of() -> tuple[str, str]:
    """The page's HTML, and the SHA-256 of its script in base64, as a Content-Security-Policy takes it."""
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render("serving/page.html.jinja", script=Markup(script), digest=digest), digest
