"""The tokenizer, read natively (no remote code, no torch) from a local folder or from the hub's cache.

`tokenizer.json` is read where it exists. Dream's official repository has none: its tokenizer is Qwen2's byte-level
BPE with further special tokens, which is built here from `vocab.json`, `merges.txt` and `tokenizer_config.json`.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from dreamtune.errors import UserError
from dreamtune.inputs.hub import model_folder
from dreamtune.inputs.special_tokens import check_special_tokens, read_json_object

QWEN2_CLASSES = {"Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer", "DreamTokenizerFast"}
# Qwen2's pre-tokenisation (github.com/QwenLM/Qwen2.5, tokenizer.json): contractions, words, single digits, the rest.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The tokenizers library takes some 100 bytes for each encoded token; encoding in chunks bounds this to about 150 MB.
CHUNK_CHARACTERS = 3_000_000
BROKEN = "\ufffd"  # a decoder writes it for bytes that are no character, or only the start of one


class Tokenizer:
    """A fast tokenizer and the ids of its special tokens.

    Attributes:
        mask_id: the mask token, in the place of a token that is not known yet; None if a causal model has none.
        end_id: the token after a complete response.
        turn_end_id: the token with which a chat template closes a turn, where one is used and known; else None.
        beginning_id: the token before a prompt, None if the tokenizer has none.
        pad_id: the padding token; the end token if the tokenizer has none.
        unknown_id: the token for text that the vocabulary cannot write, None if every text can be written.
        vocab_size: number of entries, above every special id; the model's embeddings may have more rows.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, mask_id: int | None, end_id: int, beginning_id: int | None, pad_id: int
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.mask_id, self.end_id, self.beginning_id, self.pad_id = mask_id, end_id, beginning_id, pad_id
        self.turn_end_id: int | None = None
        unknown = getattr(backend.model, "unk_token", None)
        self.unknown_id = None if unknown is None else backend.token_to_id(unknown)
        largest = max(mask_id or 0, end_id, pad_id, beginning_id or 0)
        self.vocab_size = max(backend.get_vocab_size(with_added_tokens=True), largest + 1)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text`, without beginning or end token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of each text, see `encode`. Uses all cores, and encodes a text that repeats only once."""
        distinct = list(dict.fromkeys(texts))
        tokens: list[list[int]] = []
        for chunk in _chunks(distinct):
            tokens.extend(e.ids for e in self.backend.encode_batch_fast(chunk, add_special_tokens=False))
        if len(distinct) == len(texts):
            return tokens
        known = dict(zip(distinct, tokens, strict=True))
        return [known[text] for text in texts]

    def decode(self, ids: list[int]) -> str:
        """Return the text of tokens, without the special ones."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def pieces(self, ids: list[int]) -> list[str]:
        """Return the text that each token adds to the text before it; joined they are `decode(ids)`.

        A character whose bytes are spread over several tokens is added by the last of them. For the bytes F0 9F, 98 80
        and 21 as three tokens the pieces are "", "😀" and "!".
        """
        alone = [self.decode([i]) for i in ids]
        if "".join(alone) == self.decode(ids):
            return alone
        pieces, done = [], ""
        for end in range(1, len(ids) + 1):
            text = self.decode(ids[:end])
            whole = end == len(ids) or not text.endswith(BROKEN)
            pieces.append(text[len(done) :] if whole else "")
            done = text if whole else done
        return pieces

    def special_ids(self) -> set[int]:
        """Return the ids of mask, end, padding and beginning token, which a row's text must not contain."""
        ids = (self.mask_id, self.end_id, self.pad_id, self.beginning_id)
        return {i for i in ids if i is not None}

    def control(self, written: Collection[int] = ()) -> re.Pattern[str]:
        """Return a pattern that matches a text in which a special token is spelled out.

        Args:
            written: tokens of a chat template; then all tokens that are marked as special count, and those among
                `written` that were added to the vocabulary, because a text that spells them out would forge a turn.
        """
        added = self.backend.get_added_tokens_decoder() if written else {}
        kept = {number for number, token in added.items() if token.special or number in written}
        texts = filter(None, (self.backend.id_to_token(number) for number in kept | self.special_ids()))
        return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"\b\B")

    def describe(self) -> dict[str, int | None]:
        """Return the tokenizer's entry in shards.json: its special ids and vocab_size."""
        return {
            "mask_id": self.mask_id,
            "end_id": self.end_id,
            "beginning_id": self.beginning_id,
            "pad_id": self.pad_id,
            "vocab_size": self.vocab_size,
        }


def load_tokenizer(
    path: str, revision: str | None = None, mask_token: str | None = None, masks: bool = True
) -> Tokenizer:
    """Return the tokenizer of a local folder, or of a hub repository at a pinned revision.

    Args:
        path: the folder, or the repository's name.
        revision: the hub commit, 40 hex digits.
        mask_token: text of the entry that is the mask token, in place of the one that the files name; "new" for none
            of them, so that no text is ever encoded as the mask token.
        masks: whether a mask token is needed, as it is for all but causal models.

    Raises:
        UserError: no such folder, no tokenizer in it, or one without a usable mask and end token.
    """
    folder = model_folder(path, revision)
    model_config = read_json_object(folder / "config.json")
    backend = _backend(folder, read_json_object(folder / "tokenizer_config.json"), model_config)
    ids = check_special_tokens(folder, model_config, None, mask_token, masks)
    mask, end, beginning, pad = (ids[name] for name in ("mask", "eos", "bos", "pad"))
    assert end is not None, "check_special_tokens refuses a tokenizer without one"
    # Dream's and Qwen2's config.json give the end token as bos_token_id: that is not a beginning token.
    return Tokenizer(backend, mask, end, None if beginning == end else beginning, end if pad is None else pad)


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts in order, in chunks of about CHUNK_CHARACTERS, so that memory does not grow with long rows."""
    if sum(map(len, texts)) <= CHUNK_CHARACTERS:
        yield texts
        return
    start, size = 0, 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield texts[start : i + 1]
            start, size = i + 1, 0
    if start < len(texts):
        yield texts[start:]


def _backend(folder: Path, config: dict[str, Any], model_config: dict[str, Any]) -> tokenizers.Tokenizer:
    """Return the tokenizers library's object for a folder; `config` is its tokenizer_config.json."""
    native = folder / "tokenizer.json"
    if native.exists():
        try:
            return tokenizers.Tokenizer.from_file(str(native))
        except Exception as error:  # the library raises a bare Exception for a file that it cannot parse
            raise UserError(f"{native} is not a tokenizer: {error}") from error
    if not ((folder / "vocab.json").exists() and (folder / "merges.txt").exists()):
        raise UserError(f"{folder} holds no tokenizer; expected tokenizer.json, or vocab.json and merges.txt")
    kind = config.get("tokenizer_class") or model_config.get("model_type")
    if kind not in QWEN2_CLASSES | {"Dream", "qwen2"}:
        raise UserError(
            f"{folder} has vocab.json and merges.txt of a {kind}, and only Qwen2's and Dream's are built from those; "
            "save its fast tokenizer as tokenizer.json there"
        )
    return _qwen2(folder, config)


def _qwen2(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """Return Qwen2's byte-level BPE with the added tokens of `tokenizer_config.json` or `added_tokens.json`.

    Raises:
        UserError: the files are no BPE vocabulary, or an added token would get another id than it says.
    """
    try:
        bpe = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # bare Exception again
        raise UserError(f"vocab.json and merges.txt in {folder} are not a BPE vocabulary: {error}") from error
    backend = tokenizers.Tokenizer(bpe)
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(tokenizers.Regex(QWEN2_WORDS), behavior="isolated")
    split_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, split_bytes])
    backend.decoder = decoders.ByteLevel()
    for wanted, token in sorted(_added_tokens(folder, config).items()):
        backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
        if backend.token_to_id(token.content) != wanted:
            raise UserError(
                f"the added token {token.content} of {folder} should have id {wanted} and would get "
                f"{backend.token_to_id(token.content)}; vocab.json and the added tokens do not belong together"
            )
    return backend


def _added_tokens(folder: Path, config: dict[str, Any]) -> dict[int, tokenizers.AddedToken]:
    """Return the tokens beside the vocabulary by their ids."""
    described = config.get("added_tokens_decoder")
    if described is not None:
        return {int(i): tokenizers.AddedToken(**token) for i, token in described.items()}
    plain = read_json_object(folder / "added_tokens.json")
    return {i: tokenizers.AddedToken(content, special=True, normalized=False) for content, i in plain.items()}
