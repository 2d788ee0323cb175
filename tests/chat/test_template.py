"""The chat template: rendered as transformers does it, refused in one line where prompt and training would differ."""

from pathlib import Path

import pytest

from conversations import CHATML, CONFIRMED, LLAMA3, reference_tokenizer, write_chat_tokenizer
from dreamtune.chat.template import ChatTemplate, load_chat_template
from dreamtune.data.encode_turns import turn_encoder
from dreamtune.data.tokenizer import load_tokenizer
from dreamtune.errors import UserError

# What a template writes that is not prefix-stable: the generation prompt is not how a turn begins.
UNSTABLE = CHATML.replace(
    "<|im_start|>assistant\\n' }}{%- endif %}", "<|im_start|>assistant\\nAnswer: ' }}{%- endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}" + CHATML
ALTERNATES = CHATML.replace("{%- for", "{{- raise_exception('roles must alternate') }}{%- for", 1)
MASKED = CHATML.replace("You are", "<|mask|>You are")
TWICE = "{{ bos_token }}{{ bos_token }}" + CHATML
ESCAPES = "{{ ''.__class__.__mro__[1].__subclasses__() }}" + CHATML
CHANGING = CHATML.replace(
    "'<|im_end|>\\n' }}{%- endif %}{%- endfor",
    "('!' if loop.last and messages|length > 3 else '') + '<|im_end|>\\n' }}{%- endif %}{%- endfor",
)


def chat_of(folder: Path, template: str | None = None, kind: str = "chatml", **more: object) -> ChatTemplate:
    path = write_chat_tokenizer(folder / "tokenizer", kind, template)
    return load_chat_template(Path(path), None, None, more)


@pytest.mark.parametrize("kind", ["chatml", "llama3"])
def test_texts_are_those_of_transformers_and_responses_end_at_their_turn(tmp_path: Path, kind: str) -> None:
    chat = chat_of(tmp_path, kind=kind)
    reference = reference_tokenizer(str(tmp_path / "tokenizer"))
    for upto in (2, 4):
        split = chat.split(CONFIRMED[:upto])
        assert split is not None
        prompt = reference.apply_chat_template(CONFIRMED[: upto - 1], tokenize=False, add_generation_prompt=True)
        whole = reference.apply_chat_template(CONFIRMED[:upto], tokenize=False)
        assert (
            split[0] == prompt
            and whole.startswith("".join(split))
            and whole.removeprefix("".join(split)).isspace() | (kind == "llama3")
        )
    assert chat.turn_end == {"chatml": "<|im_end|>", "llama3": "<|eot_id|>"}[kind]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (UNSTABLE, "not prefix-stable"),
        (CHANGING, "and a later one with"),
        (ALTERNATES, "refuses a conversation \\(roles must alternate\\)"),
        (ESCAPES, "refuses a conversation"),
        ("{{ broken", "refuses a conversation"),
        ("{{ bos_token }}", "does not write an assistant's turn"),
        (MASKED, "writes the mask token"),
        (TWICE, "writes the beginning token twice in a row"),
        (DATED, "writes today's date"),
        ("{%- if strftime_now is defined %}" + DATED + "{%- endif %}", "writes today's date"),
    ],
)
def test_templates_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        turn_encoder(chat_of(tmp_path, template), load_tokenizer(str(tmp_path / "tokenizer")))
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_a_template_says_how_to_bring_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no chat template; name a file with one in data\.chat_template"):
        chat_of(tmp_path, "")
    file = tmp_path / "own.jinja"
    file.write_text(LLAMA3)
    assert load_chat_template(tmp_path / "tokenizer", str(file), None, {}).template == LLAMA3
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text(CHATML)  # as newer transformers save it
    assert load_chat_template(tmp_path / "tokenizer", None, None, {}).template == CHATML


def test_a_date_that_is_given_does_not_read_the_clock(tmp_path: Path) -> None:
    dated = (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d') %}{%- endif %}{{ date_string }}"
    )
    chat = chat_of(tmp_path, dated + CHATML, date_string="26 Jul 2024")
    assert chat.prompt("Hi").startswith("26 Jul 2024")
    with pytest.raises(UserError, match="writes today's date"):  # whatever is set: this template never looks at it
        chat_of(tmp_path, DATED, date_string="26 Jul 2024").prompt("Hi")


@pytest.mark.parametrize("each_turn", [CHATML, "{%- for m in messages %}{{- bos_token }}{%- endfor %}" + CHATML])
def test_a_beginning_token_may_open_each_turn_but_not_two_the_first(tmp_path: Path, each_turn: str) -> None:
    """SmolLM2's opens every turn, and closes it with its end token."""
    path = write_chat_tokenizer(tmp_path, template=each_turn, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer, chat = load_tokenizer(path), load_chat_template(tmp_path, None, None, {})
    if each_turn != CHATML:
        with pytest.raises(UserError, match="beginning token twice in a row"):
            turn_encoder(chat, tokenizer, "llama")
        return
    encoder = turn_encoder(chat, tokenizer, "llama")
    assert tokenizer.backend.id_to_token(encoder.turn_end_id) == "<|im_end|>" and encoder.chat.split(CONFIRMED)


def test_the_default_of_several_templates_is_taken(tmp_path: Path) -> None:
    for several in ([{"name": "default", "template": CHATML}, {"name": "rag", "template": ""}], {"default": CHATML}):
        assert chat_of(tmp_path, several).template == CHATML  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has 1 chat templates by name, and none is named default"):
        chat_of(tmp_path, [{"name": "rag", "template": CHATML}])  # type: ignore[arg-type]


def test_a_system_prompt_that_would_forge_a_turn_is_refused(tmp_path: Path) -> None:
    path = write_chat_tokenizer(tmp_path)
    chat = load_chat_template(tmp_path, None, "Be brief.<|im_end|>", {})
    with pytest.raises(UserError, match=r"data\.chat\.system spells out <\|im_end\|>"):
        turn_encoder(chat, load_tokenizer(path))


def test_the_token_that_fills_a_canvas_is_the_familys(tmp_path: Path) -> None:
    """Qwen2-Instruct names the turn's end as its end token: a canvas filled with it would be a row of ended turns."""
    path = write_chat_tokenizer(tmp_path / "qwen", "chatml", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    names = {}
    for family in ("qwen2", "llama", None):
        tokenizer = load_tokenizer(path)
        encoder = turn_encoder(load_chat_template(Path(path), None, None, {}), tokenizer, family)
        names[family] = [tokenizer.backend.id_to_token(i) for i in (encoder.turn_end_id, tokenizer.end_id)]
    twice = ["<|im_end|>", "<|endoftext|>"]  # SmolLM2, a llama, has Qwen2's two tokens
    assert names == {"qwen2": twice, "llama": twice, None: ["<|im_end|>", "<|im_end|>"]}
