"""The Markdown tables of the statistics' benchmarks: shares with their errors, and which broke their bounds."""

from collections.abc import Callable

broken: list[str] = []


def share(what: str, hits: float, repeats: int, low: float = 0.0, high: float = 1.0, errors: float = 0.0) -> str:
    """Return a share in per cent with its standard error; note it as broken if it is outside its bounds.

    `errors` is how many standard errors the bounds are widened by.
    """
    value = hits / repeats
    error = (max(value * (1 - value), 1 / repeats) / repeats) ** 0.5
    if not low - errors * error <= value <= high + errors * error:
        broken.append(f"{what}: {100 * value:.2f} %, expected {100 * low:g} to {100 * high:g} %")
    return f"{100 * value:.1f} ± {100 * error:.1f}"


def table(title: str, *columns: str) -> Callable[..., None]:
    """Print the head of a Markdown table; return what prints a row."""
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    return lambda *cells: print(f"| {' | '.join(map(str, cells))} |", flush=True)
