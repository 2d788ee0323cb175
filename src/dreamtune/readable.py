"""Numbers as people read them: rounded, with thousands separators, true minus signs and a dash for "none"."""

DASH = "–"


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


def minus(text: str) -> str:
    """Return the number with a true minus sign."""
    return text.replace("-", "−") if text.startswith("-") else text
