"""Numbers for people, and hostile text made harmless to look at (escaping is the template engine's part)."""

import json
import unicodedata
from typing import Any

from markupsafe import Markup

DASH = "–"
READING_NAMES = {"accuracy": "correct", "strict": "strict match", "lenient": "last number"}
LONGEST = 6_000  # characters of one text that the report shows
# Characters that reorder or hide text around them: bidi controls, zero-width and other invisible formats.
VISIBLE = {"\n", "\t"}


def reveal(text: str | None, longest: int = LONGEST) -> str:
    """Return the text with control and format characters (bidi overrides, zero width) written as ⟨U+202E⟩."""
    if not text:
        return ""
    cut = text[:longest]
    shown = "".join(f"⟨U+{ord(c):04X}⟩" if _hidden(c) else c for c in cut)
    return shown if len(text) <= longest else f"{shown} … ({len(text) - longest:,} more characters)"


def _hidden(character: str) -> bool:
    return character not in VISIBLE and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def json_for_script(value: Any) -> Markup:
    """Return JSON that cannot end its <script> element or open a comment in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def percent(share: float | None, digits: int = 1) -> str:
    """Return 12.3 %, or a dash."""
    return DASH if share is None else f"{100 * share:.{digits}f}\u00a0%"  # a number never parts from its sign


def points(share: float | None) -> str:
    """Return a difference of shares in points, signed: +12.3."""
    return DASH if share is None else minus(f"{100 * share:+.1f}")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits and thousands separators, or a dash."""
    if value is None:
        return DASH
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return minus(f"{int(value):,}")
    if abs(value) >= 1000:
        return minus(f"{value:,.0f}")
    return minus(f"{value:.{digits}g}")


def nats(value: float | None, signed: bool = False) -> str:
    """Return nats per token with three decimals, or a dash."""
    return DASH if value is None else minus(f"{value:{'+' if signed else ''}.3f}")


def p_value(p: float | None) -> str:
    """Return p = 0.012, p < 0.001, or a dash."""
    return DASH if p is None else ("p < 0.001" if p < 0.001 else f"p = {p:.2g}")


def duration(seconds: float | None) -> str:
    """Return 42 s, 3 min 10 s, 2 h 5 min."""
    if seconds is None:
        return DASH
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plain(value: Any) -> str:
    """Return a setting or a canary's value as one short text."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value, 4)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or DASH
    return reveal(str(value), 2_000)


def minus(text: str) -> str:
    """Return the number with a true minus sign."""
    return text.replace("-", "−") if text.startswith("-") else text
