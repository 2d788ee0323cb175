"""The special tokens of a model, read from its files in plain Python. Without torch and tokenizers: planning does it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamtune.errors import UserError

NAMES = {"mask": "mask token", "eos": "end token", "bos": "beginning token", "pad": "padding token"}
NAMED_IN = ("tokenizer_config.json", "special_tokens_map.json")


class Vocabulary(NamedTuple):
    """The entries of a tokenizer.

    Attributes:
        ids: of all entries, by their text.
        added: of the entries beside the model's own vocabulary, such as special tokens, which text hardly ever holds.
    """

    ids: dict[str, int]
    added: dict[str, int]


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, {} if the file is missing.

    Raises:
        UserError: the file holds no JSON object.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def read_vocabulary(folder: Path) -> Vocabulary:
    """Return the entries of the tokenizer in a folder.

    Raises:
        UserError: there is no tokenizer, or a file of it cannot be read.
    """
    native = folder / "tokenizer.json"
    if not native.exists() and not (folder / "vocab.json").exists():
        raise UserError(f"{folder} holds no tokenizer; expected tokenizer.json, or vocab.json and merges.txt")
    try:
        if native.exists():
            content = read_json_object(native)
            entries = content.get("model", {}).get("vocab", {})
            if isinstance(entries, list):  # Unigram: pairs of text and score, in the order of their ids
                entries = {text: i for i, (text, _) in enumerate(entries)}
            added = {token["content"]: int(token["id"]) for token in content.get("added_tokens") or ()}
        else:
            entries = read_json_object(folder / "vocab.json")
            described = read_json_object(folder / NAMED_IN[0]).get("added_tokens_decoder")
            plain = read_json_object(folder / "added_tokens.json")
            added = plain if described is None else {token["content"]: int(i) for i, token in described.items()}
        return Vocabulary({**entries, **added}, added)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the tokenizer in {folder} cannot be read: {error!r}; copy or download it again") from error


def special_id(
    name: str,
    id_of: Callable[[str], int | None],
    named: Sequence[Mapping[str, Any]],
    model_config: Mapping[str, Any],
    mask_token: str | None = None,
) -> int | None:
    """Return the id of a special token, or None.

    The tokenizer's own files, which name its text, come before the model's config.json, which has its id. The setting
    model.mask_token comes before both.

    Args:
        name: "mask", "eos", "bos" or "pad".
        id_of: returns the id of an entry of the tokenizer by its text.
        named: the content of the tokenizer's files that name special tokens, see `NAMED_IN`.
        model_config: the content of config.json.
        mask_token: the setting.
    """
    if name == "mask" and mask_token is not None:
        return id_of(mask_token)
    for config in named:
        token = config.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None and id_of(content) is not None:
            return id_of(content)
    number: Any = model_config.get(f"{name}_token_id")
    first = number[0] if isinstance(number, list) and number else number
    return first if isinstance(first, int) and first >= 0 else None  # some configurations write -1 for none


def special_ids(folder: Path, model_config: Mapping[str, Any], mask_token: str | None = None) -> dict[str, int | None]:
    """Return the ids of mask, eos, bos and pad; of a folder without a tokenizer, as its config.json has them.

    Raises:
        UserError: a file of the tokenizer cannot be read.
    """
    named = [read_json_object(folder / name) for name in NAMED_IN]
    wanted = mask_token is not None or any(config.get(f"{name}_token") for config in named for name in NAMES)
    there = (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists()
    entries = read_vocabulary(folder).ids if wanted and there else {}
    return {name: special_id(name, entries.get, named, model_config, mask_token) for name in NAMES}


def check_special_tokens(
    folder: Path, model_config: Mapping[str, Any], rows: int | None, mask_token: str | None = None
) -> None:
    """Check the special tokens of a model against its tokenizer and its embeddings.

    Args:
        folder: of the model.
        model_config: the content of its config.json.
        rows: of its embeddings; None if they are not known.
        mask_token: the setting model.mask_token.

    Raises:
        UserError: the tokenizer has more entries than the embeddings have rows; there is no mask or no end token, or
            one without a row; the mask token is the end or the beginning token, or a part of ordinary text.
    """
    vocabulary = read_vocabulary(folder)
    ids = special_ids(folder, model_config, mask_token)
    mask, end = ids["mask"], ids["eos"]
    remedy = _remedy(vocabulary, {i for name, i in ids.items() if name != "mask"}, rows)
    if mask_token is not None and mask_token not in vocabulary.added:
        what = "a part of ordinary text" if mask_token in vocabulary.ids else "no token of its tokenizer"
        raise UserError(f"model.mask_token is {mask_token!r}, which for {folder} is {what}; {remedy}")
    if mask is None:
        raise UserError(
            f"the tokenizer in {folder} has no mask token, without which no diffusion model can be trained; {remedy}"
        )
    if end is None:
        raise UserError(f"the tokenizer in {folder} has no end token; set eos_token in its tokenizer_config.json")
    for name in ("eos", "bos"):
        if mask == ids[name]:
            raise UserError(f"the mask token of {folder} is its {NAMES[name]} too (id {mask}); {remedy}")
    if rows is None:
        return
    last = max(vocabulary.ids.items(), key=lambda entry: entry[1], default=("", -1))
    for name, number in ids.items():
        if number is not None and not 0 <= number < rows:
            cure = remedy if name == "mask" else f"name another {name}_token in its tokenizer_config.json"
            raise UserError(
                f"the {NAMES[name]} of {folder} has the id {number}, and the embeddings have {rows:,} rows; {cure}"
            )
    if last[1] >= rows:
        raise UserError(
            f"the tokenizer in {folder} is larger than the model: its token {last[0]!r} has the id {last[1]}, and the "
            f"embeddings have {rows:,} rows; take the tokenizer that the model was trained with"
        )


def _remedy(vocabulary: Vocabulary, used: set[int | None], rows: int | None) -> str:
    """Return advice on the mask token: to set model.mask_token to an added token that has a row and no other use."""
    spare = [text for text, i in vocabulary.added.items() if i not in used and (rows is None or i < rows)]
    if not spare:
        return "take another model, or add a token to a copy of this one, with a row in its embeddings"
    return f"set model.mask_token to a token that neither this model nor your rows use, such as {spare[-1]!r}"
