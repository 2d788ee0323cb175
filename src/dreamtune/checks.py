"""What a canary reports, and what a set of them says: plain JSON, without torch.

A check is {"name", "hard", "passed", "value", "expected", "fault"}: `value` is a number, `expected` says in words what
it should have been, `fault` what is wrong if it is not. A hard check that fails makes the run's verdict invalid, a soft
one warns. `passed` is null where there is not enough evidence to say; an estimate has its limits in "low" and "high".
"""

from collections.abc import Sequence
from typing import Any

Check = dict[str, Any]


def check(
    name: str, passed: bool | None, value: float | None, expected: str, fault: str, *, hard: bool = True, **more: Any
) -> Check:
    """Return one check; `more` stands beside the fields that every check has."""
    said = None if passed is None else bool(passed)
    return {"name": name, "hard": hard, "passed": said, "value": value, "expected": expected, "fault": fault, **more}


def at(moment: str, checks: Sequence[Check]) -> list[Check]:
    """Return the checks with the moment in their names: targets_hidden -> targets_hidden_first_window."""
    return [one | {"name": f"{one['name']}_{moment}"} for one in checks]


def verdict(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the content of gate.json: passed means that no hard check failed."""
    return {"passed": not failed(checks), "checks": list(checks)}


def failed(checks: Sequence[Check]) -> list[str]:
    """Return 'name (value; expected ...)' of each hard check that failed."""
    return [
        f"{one['name']} ({one['value']}; expected {one['expected']})"
        for one in checks
        if one["hard"] and one["passed"] is False
    ]
