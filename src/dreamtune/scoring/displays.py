r"""Displayed mathematics: formulas on lines of their own, in `$$`, `\[ \]`, align, a code fence or a matrix."""

import re

MAX_CHARACTERS = 1_200  # of a display that are looked at
ENVIRONMENT = (
    r"(?:align(?:ed|at)?|equation|gather(?:ed)?|multline|split|eqnarray|flalign|displaymath|math|center|quote"
    r"|verbatim)\*?"
)
BEGIN = re.compile(rf"\\begin\s*\{{{ENVIRONMENT}\}}(?:\{{\d+\}})?")
END = re.compile(rf"\\end\s*\{{{ENVIRONMENT}\}}")
BRACED = r"(?:\\left\s*)?(?:\\\{|\\lbrace)\s*"
SYSTEM = re.compile(  # rows without columns, but for what an equals sign is aligned by
    rf"(?:(?:{BRACED})?\\begin\s*\{{(?:cases|aligned|gathered)\}}|{BRACED}\\begin\s*\{{array\}}\{{[lcr|\s]*\}})"
    r"(?P<rows>[^&]*?(?:&\s*=[^&]*?)*)\\end\s*\{(?:cases|array|aligned|gathered)\}(?:\s*\\right\s*\.)?"
)
ONE_CELL = re.compile(r"\\begin\s*\{array\}\s*\{[lcr|\s]*\}((?:(?!\\\\|\\begin|\\end)[^&])*)\\end\s*\{array\}")
FENCE = re.compile(r"(?:```|~~~)(?:[A-Za-z]{1,12}(?=\s))?")
ROW_END = re.compile(r"\\\\(?:\s*\[[^\[\]]{0,10}\])?|\n")
LONE_DOLLAR = re.compile(r"\$[\t ]*\n[^$]{1,200}\$")
DELIMITER = re.compile(
    r"(?P<fence>```|~~~)|(?P<dollars>(?<!\\)\$\$)|(?P<open>(?<!\\)\\[\[(]|\\begin\s*\{[^{}]{0,20}\}|(?<!\\)\{)"
    r"|(?P<close>(?<!\\)\\[\])]|\\end\s*\{[^{}]{0,20}\}|(?<!\\)\})"
)


def block(text: str) -> str:
    r"""Return what the text begins with: its first line, or all lines of a formula that begins there and closes later.

    >>> block("$$\n5\n$$\nand so on"), block("7 m\nSo much for that.")
    ('$$\n5\n$$', '7 m')
    >>> block("A = \\begin{pmatrix}1\\\\\n2\\end{pmatrix}.\nSo it is.")
    'A = \\begin{pmatrix}1\\\\\n2\\end{pmatrix}.'
    """
    text = text[:MAX_CHARACTERS].lstrip()
    if lone := LONE_DOLLAR.match(text):
        return lone.group()
    first, end, depth, displayed, fenced = text.split("\n", 1)[0], 0, 0, False, False
    for line in text.splitlines(keepends=True):
        for token in DELIMITER.finditer(line):
            displayed ^= token["dollars"] is not None
            fenced ^= token["fence"] is not None
            depth += (token["open"] is not None) - (token["close"] is not None)
        end += len(line)
        if depth <= 0 and not displayed and not fenced and not line.rstrip().endswith("="):
            return text[:end].rstrip()
    if displayed or fenced or re.match(r"\\\[|\\begin", text):  # never closed: up to an empty line
        return re.split(r"\n\s*\n", text, maxsplit=1)[0].rstrip()
    return first.rstrip()


def on_one_line(text: str) -> str:
    r"""Return the text without the delimiters of displays; the rows of an align or of a system become a list.

    >>> on_one_line("\\begin{align*}\nx &= 2 + 3 \\\\ &= 5\n\\end{align*}")
    'x = 2 + 3 = 5'
    >>> on_one_line("\\begin{cases} x = 1 \\\\ y = 2 \\end{cases}"), on_one_line("```latex\n5\n```")
    ('x = 1, y = 2', '5')
    """
    if FENCE.search(text):
        text = FENCE.sub(" ", text)
    if "\\begin" in text or "\\end" in text:
        text = SYSTEM.sub(lambda match: _rows(match["rows"]), ONE_CELL.sub(r"\1", text))
        begin = BEGIN.search(text)
        if begin:
            end = END.search(text, begin.end())
            inside = text[begin.end() : end.start() if end else len(text)]
            rows = inside if "\\begin" in inside else _rows(inside)
            text = f"{text[: begin.start()]} {rows} {text[end.end() :] if end else ''}"
        text = END.sub(" ", BEGIN.sub(" ", text))
    return " ".join(text.split())


def _rows(inside: str) -> str:
    """Return the rows as one list; a row that begins with a relation goes on with the row before."""
    found = ""
    for row in ROW_END.split(inside):
        line = " ".join(row.replace("&", " ").split()).rstrip(",;")
        if line:
            goes_on = re.match(r"[=<>]|\\(?:approx|le|ge|Rightarrow|implies|to)\b", line)
            found += f"{'' if not found else ' ' if goes_on or found.endswith('=') else ', '}{line}"
    return found
