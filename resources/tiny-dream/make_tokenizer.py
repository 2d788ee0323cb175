"""Write the tokenizer: one token per word, per sign and per digit. White space, line breaks too, is not kept.

python resources/tiny-dream/make_tokenizer.py        # writes tokenizer.json and tokenizer_config.json
"""

import argparse
import json
from pathlib import Path

from corpus import documents
from make_rows import TEMPLATE, read_questions
from problems import WORD
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

HERE = Path(__file__).resolve().parent
MASK, END, BEGINNING, UNKNOWN = "<|mask|>", "<|endoftext|>", "<|beginoftext|>", "<|unknown|>"
SAMPLED_CHUNKS = 50  # of the pretraining corpus, which is drawn from a vocabulary much smaller than that


def vocabulary() -> list[str]:
    """Return every token: special ones, then words, signs and digits in order."""
    words = {word for question in read_questions() for word in WORD.findall(question)} | set(WORD.findall(TEMPLATE))
    for chunk in range(SAMPLED_CHUNKS):
        for document in documents(0, chunk, frozenset()):
            words.update(WORD.findall(document.prompt), WORD.findall(document.response))
    return [END, MASK, BEGINNING, UNKNOWN, *sorted(words - {"{", "}", "question", "reasoning", "answer"} | {"answer"})]


def build(tokens: list[str]) -> Tokenizer:
    """Return the tokenizer over `tokens`, whose decoder closes up digits and what stands before a full stop."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.add_special_tokens([END, MASK, BEGINNING, UNKNOWN])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD.pattern), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex("^"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<=\d) (?=\d)|(?<=\() | (?=[.,:;?)])|^ "), ""),
        ]
    )
    return tokenizer


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write into (default: this script's)")
    out = parser.parse_args().out
    tokenizer = build(vocabulary())
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "mask_token": MASK,
        "bos_token": BEGINNING,
        "eos_token": END,
        "pad_token": END,
        "unk_token": UNKNOWN,
        "model_max_length": 64,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
