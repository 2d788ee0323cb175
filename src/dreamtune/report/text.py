"""Make hostile text harmless to look at, and to run: templates escape it, and a policy names the only scripts."""

import base64
import hashlib
import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dreamtune.readable import DASH, number

READING_NAMES = {"accuracy": "correct", "strict": "strict match", "lenient": "last number"}
LONGEST = 6_000  # characters of one text that the report shows
# Characters that reorder or hide text around them: bidi controls, zero-width and other invisible formats.
VISIBLE = {"\n", "\t"}
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; script-src {}"
)


def reveal(text: str | None, longest: int = LONGEST) -> str:
    """Return the first `longest` characters of a text, with control and format characters written out.

    Such characters (bidi overrides, zero width) could reorder or hide the text around them.

    >>> reveal("a" + chr(0x202E) + "b"), reveal("abcdef", longest=4), reveal(None)
    ('a⟨U+202E⟩b', 'abcd … (2 more characters)', '')
    """
    if not text:
        return ""
    cut = text[:longest]
    shown = "".join(f"⟨U+{ord(c):04X}⟩" if _hidden(c) else c for c in cut)
    return shown if len(text) <= longest else f"{shown} … ({len(text) - longest:,} more characters)"


def _hidden(character: str) -> bool:
    return character not in VISIBLE and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def json_for_script(value: Any) -> Markup:
    """Return the value as JSON that can neither end the <script> element around it nor open a comment.

    >>> print(json_for_script("</script>"))
    "\\u003c/script\\u003e"
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def plain(value: Any) -> str:
    """Return the value of a setting or of a canary as one short text.

    >>> plain(True), plain([1, 2.5]), plain(None)
    ('yes', '1, 2.5', '–')
    """
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value, 4)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or DASH
    return reveal(str(value), 2_000)


def with_limits(show: Callable[[Any], str], change: dict[str, Any], unit: str) -> str:
    """Return an estimate with its unit and, in brackets, the limits of its interval, each as `show` writes it."""
    limits = f" ({show(change['low'])} to {show(change['high'])})" if change["low"] is not None else ""
    return f"{show(change['value'])} {unit}{limits}"


def arrow(before: str, after: str) -> str:
    """Return "before → after"; a dash if one of them is a dash."""
    return DASH if DASH in (before, after) else f"{before} → {after}"


@cache  # with the compiled templates, for the next report of this process
def environment(*folders: Path) -> jinja2.Environment:
    """Return the template engine for the templates in these folders: it escapes everything."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["json_for_script"] = json_for_script
    return found


def allowed(script: str) -> str:
    """Return the source expression with which a content security policy allows exactly this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
