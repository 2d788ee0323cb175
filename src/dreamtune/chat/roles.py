"""The two tokens that end a response, by model family: the turn's end, and the token that fills the rest of a canvas.

They are different roles. The turn's end is said once, by the chat template. The other follows a whole response, and
fills the canvas behind it. Tokenizers of Dream and LLaDA name it as their end token; those of Qwen2-Instruct and
Llama-3-Instruct name the turn's end as such, and with it a canvas would be filled with turns' ends.
"""

from typing import NamedTuple


class Roles(NamedTuple):
    """Texts of the two tokens."""

    turn_end: str
    fills: str


# By the name of the family, which is config.json's model_type in lower case.
BY_FAMILY = {
    "dream": Roles("<|im_end|>", "<|endoftext|>"),
    "qwen2": Roles("<|im_end|>", "<|endoftext|>"),
    "llada": Roles("<|eot_id|>", "<|endoftext|>"),
    "llama": Roles("<|eot_id|>", "<|end_of_text|>"),
}
