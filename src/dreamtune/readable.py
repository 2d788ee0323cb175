"""Format numbers for people: rounded, with thousands separators and true minus signs, and a dash for None."""

DASH = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share (0 to 1) in per cent, such as 12.3 %; a dash for None."""
    return DASH if share is None else f"{100 * share:.{digits}f}\u00a0%"  # a no-break space before the sign


def points(share: float | None) -> str:
    """Return a difference of shares (-1 to 1) in percentage points, with its sign, such as +12.3; a dash for None.

    What rounds to zero has no minus sign.

    >>> points(-0.123), points(-0.0001)
    ('−12.3', '+0.0')
    """
    return DASH if share is None else minus(f"{100 * share:+z.1f}")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and thousands separators; a dash for None.

    Whole numbers keep all their digits.

    >>> number(1234567), number(-0.012345), number(None)
    ('1,234,567', '−0.0123', '–')
    """
    if value is None:
        return DASH
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return minus(f"{int(value):,}")
    if abs(value) >= 1000:
        return minus(f"{value:,.0f}")
    return minus(f"{value:.{digits}g}")


def nats(value: float | None, signed: bool = False) -> str:
    """Return nats per token with three decimals, a sign before positive ones if `signed`; a dash for None.

    What rounds to zero has no minus sign.

    >>> nats(-0.0123), nats(-0.0001), nats(-0.0001, signed=True)
    ('−0.012', '0.000', '+0.000')
    """
    return DASH if value is None else minus(f"{value:{'+' if signed else ''}z.3f}")


def p_value(p: float | None) -> str:
    """Return a p-value as a statement, such as p = 0.012 or p < 0.001; a dash for None."""
    return DASH if p is None else ("p < 0.001" if p < 0.001 else f"p = {p:.2g}")


def duration(seconds: float | None) -> str:
    """Return a duration, such as 42 s, 3 min 10 s or 2 h 5 min; a dash for None."""
    if seconds is None:
        return DASH
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def minus(text: str) -> str:
    """Return the text of a number with a true minus sign in place of a leading hyphen."""
    return text.replace("-", "−") if text.startswith("-") else text
