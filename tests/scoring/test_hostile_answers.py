"""Answers made to hang, crash or exhaust the grader. What grading may take is CPU time, so that is measured here."""

import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamtune.scoring import equivalence as grading
from dreamtune.scoring.equivalence import equivalent
from dreamtune.scoring.limits import costly
from dreamtune.scoring.references import reference_answer
from dreamtune.scoring.score import is_correct
from dreamtune.settings.score import ScoreConfig

MARKER = "the final answer is:"
PIECES = (
    *(
        r"\frac",
        r"\sqrt",
        r"\boxed{",
        r"\text{",
        r"\left(",
        r"\begin{pmatrix}",
        r"\\",
        "&",
        "{",
        "}",
        "(",
        ")",
        "[",
        "^",
    ),
    *("9", "99999", "1,000", "1/2", "x", "B", " ", "\n", "$", "%", "=", "<", "!", "_", "cm", "is", "\ud800"),
    *("<answer>", "</answer>"),
)
HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "tower in parentheses": "9^(9^(9^9))",
    "tower in Python": "9**9**9**9",
    "tower with spaces": "9 ^ { 9 ^ { 9 ^ { 9 } } }",
    "huge exponent": "2^{9999999999}",
    "factorial": "99999999999!",
    "factorial of a power": "(10^{10})!",
    "binomial": r"\binom{1000000000}{500000000}",
    "product of towers": r"10^{2\cdot 10^{9}}",
    "braces": "{" * 100_000,
    "boxes": r"\boxed{" * 100_000,
    "closed boxes": r"\boxed{" * 20_000 + "1" + "}" * 20_000,
    "parentheses": "(" * 140 + "1" + ")" * 140,
    "roots": r"\sqrt{" * 40 + "2" + "}" * 40,
    "fractions": r"\frac{1}{1+" * 20 + "1" + "}" * 20,
    "digits": "9" * 100_000,
    "nested binomials": r"\binom{\binom{99}{9}}{\binom{99}{8}}",
    "markers": MARKER * 5_000,
    "control": "\x00\u202e\ud800",
    "power of a power in brackets": "((((((9^9)^9)^9)^9)^9)^9)^9",
    "power of a large power": "(9^{9999})^{9999}",
    "power of a factorial": "9999!^{9999}",
    "product in an exponent": "2^{9999*9999*9999}",
    "exponent notation": "9.9E+99999999",
    "decimal exponent": "1e999999999",
    "power of ten": r"1\times10^{999999999}",
    "nested boxes": r"\boxed{" * 100_000 + "5" + "}" * 100_000,
    "deep fractions": r"\frac{1}{" * 10_000 + "2" + "}" * 10_000,
    "a million digits": "9" * 1_000_000,
    "a million lines": "\n" * 1_000_000,
    "a long answer": "<answer>" + "a " * 500_000,
    "blanks before the closing formula": "5" + " " * 100_000 + "I hope",
    "blanks in a box": r"\boxed" + " " * 100_000,
    "tags": "<answer>" * 50_000,
    "closing tags": "<answer>" + "</" * 100_000,
    "announcements": "answer: " * 20_000,
    "reasons": "answer: " + ", " * 100_000,
    "heading lines": "#\n" * 50_000,
    "groups of digits": "1" + ",111" * 30_000 + "1",
    "units": "5 " + "cm " * 90 + "x1",
    "names": "x" * 290 + "_",
    "turns": "Question: 5\n" * 20_000 + "A: 5\n" * 20_000,
    "arrays": r"\begin{array}{l}" * 20_000,
    "copulas": "is " * 90 + "5 x_",
    "words": "ab-" * 95 + "1",
    "unclosed text": r"\text{" * 100_000,
    "sum": r"\sum_{i=1}^{10^9} i",
    "large product": r"\prod_{i=1}^{99999} i",
    "integral": r"\int_0^1 e^{-x^2}\sin(x^3)\,dx",
    "limit": r"\lim_{x\to0}\frac{\sin(\sin(\sin x))-x}{x^3}",
    "long expansion": "(x+y+z)^{9999}",
}


@pytest.fixture
def short_tries(monkeypatch: pytest.MonkeyPatch) -> ScoreConfig:
    """Settings with a limit of a tenth of a second, and twice that for the second try; the parser is warm."""
    monkeypatch.setattr(grading, "SECOND_TRY", 2.0)
    grading.warm_parser()
    return ScoreConfig().model_copy(update={"timeout_s": 0.1})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_cost_little_more_than_their_tries(name: str, short_tries: ScoreConfig) -> None:
    text = HOSTILE[name]
    for completion in (text, rf"\boxed{{{text}}}", f"{MARKER} {text}"):
        start = time.process_time()
        assert is_correct(completion, "17", short_tries) is False
        assert is_correct(completion, r"\frac{17}{x}", short_tries) is False
        assert time.process_time() - start <= 2.0  # two gradings, of which the limits allow 0.6


@pytest.mark.parametrize(
    "text", ["2^{10000}", "(x+1)^{2}(x-1)^{3}", "e^{x^2}", "n!", "2^5 \\cdot 3^2", "x^{10}+x^{9}+x^{8}"]
)
def test_ordinary_formulas_are_read(text: str) -> None:
    assert not costly(text)


@pytest.mark.parametrize(
    "text",
    [
        "(9^{9999})^{9999}",
        "9^{9999!}",
        "9999!^{9999}",
        "2^{\\binom{99}{50}}",
        "2^{99*999}",
        "9^9^9",
        "((99)!)!",
        "1e9999",
        "9^{(9)^9}",
    ],
)
def test_what_could_become_huge_is_refused_unread(text: str) -> None:
    assert costly(text)


def test_a_parser_that_fails_grades_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RecursionError

    monkeypatch.setattr("math_verify.parse", fail)
    assert equivalent("x+1+y", "1+x+y") is False


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join))
def test_no_text_makes_grading_raise(text: str) -> None:
    grading.warm_parser()
    start = time.process_time()
    for completion in (text, rf"\boxed{{{text}}}"):
        assert is_correct(completion, r"\frac{17}{19}x") in (True, False)
        reference_answer(completion, MARKER)
    assert time.process_time() - start <= 2.0


def test_a_running_timer_survives_grading() -> None:
    handler = signal.signal(signal.SIGPROF, signal.SIG_IGN)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 500)
        try:
            equivalent(r"\frac{1}{7}", f"x+{timer}y+1/7")
            assert 400 < signal.getitimer(timer)[0] < 500.1  # the kernel rounds up to its tick
        finally:
            signal.setitimer(timer, 0)
    assert signal.signal(signal.SIGPROF, handler) == signal.SIG_IGN


def test_grading_works_outside_the_main_thread_and_its_import_warms_nothing() -> None:
    code = (
        "import threading; from dreamtune.scoring.equivalence import warm_parser\n"
        "from dreamtune.scoring.score import is_correct\n"
        "assert warm_parser.cache_info().currsize == 0; out = []\n"
        r"t = threading.Thread(target=lambda: out.append(is_correct(r'\boxed{\frac{2}{4}}', '0.5')))"
        "\nt.start(); t.join(); assert out == [True]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "src"})
