"""The result of a canary, and of a set of canaries, as plain JSON. Torch-free.

A check is {"name", "hard", "passed", "value", "expected", "fault"}: `value` is the number that was measured, `expected`
the range it should be in, in words, and `fault` the likely mistake if it is not. A hard check that fails makes the
verdict invalid; a soft one only warns. `passed` is null if the evidence does not suffice; a `value` that is an estimate
has a confidence interval, in "low" and "high".
"""

from collections.abc import Sequence
from typing import Any

Check = dict[str, Any]


def check(
    name: str, passed: bool | None, value: float | None, expected: str, fault: str, *, hard: bool = True, **more: Any
) -> Check:
    """Return one check; `more` holds further JSON fields, such as the interval's `low` and `high`."""
    said = None if passed is None else bool(passed)
    return {"name": name, "hard": hard, "passed": said, "value": value, "expected": expected, "fault": fault, **more}


def at(moment: str, checks: Sequence[Check]) -> list[Check]:
    """Return the checks with `moment`, such as "first_window", appended to their names.

    >>> at("first_window", [{"name": "targets_hidden"}])
    [{'name': 'targets_hidden_first_window'}]
    """
    return [one | {"name": f"{one['name']}_{moment}"} for one in checks]


def verdict(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the content of gate.json: the checks, and `passed`, which is true if no hard check failed."""
    return {"passed": not failed(checks), "checks": list(checks)}


def failed(checks: Sequence[Check]) -> list[str]:
    """Return 'name (value; expected ...)' of each hard check that failed, with its note if it has one.

    >>> failed([check("all_modules_learn", False, 1, "0 of 28", "a dead module", note="dead: layers.0.q_proj")])
    ['all_modules_learn (1; expected 0 of 28; dead: layers.0.q_proj)']
    """
    return [
        f"{one['name']} ({one['value']}; expected {one['expected']}{'; ' + one['note'] if one.get('note') else ''})"
        for one in checks
        if one["hard"] and one["passed"] is False
    ]
