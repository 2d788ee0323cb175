"""The special tokens of a model, read from its files in plain Python, as planning imports no torch or tokenizers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamtune.errors import UserError

NAMES = {"mask": "mask token", "eos": "end token", "bos": "beginning token", "pad": "padding token"}
NEW = "new"  # value of the setting model.mask_token: a token that the tokenizer does not have
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
        ids = {**entries, **added}
        if wrong := [text for text, i in ids.items() if type(i) is not int or i < 0]:
            raise ValueError(f"the id of {wrong[0]!r} is {ids[wrong[0]]!r}")
        return Vocabulary(ids, added)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the tokenizer in {folder} cannot be read: {error!r}; copy or download it again") from error


def special_ids(folder: Path, model_config: Mapping[str, Any], mask_token: str | None = None) -> dict[str, int | None]:
    """Return the ids of mask, eos, bos and pad; of a folder without a tokenizer, as its config.json has them.

    The tokenizer's own files, which name a token's text, come before the model's config.json, which has its id. The
    setting model.mask_token comes before both; "new" takes the first id behind all others.

    Raises:
        UserError: a file of the tokenizer cannot be read.
    """
    there = (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists()
    return _ids_among(read_vocabulary(folder).ids if there else {}, folder, model_config, mask_token)


def _ids_among(
    entries: Mapping[str, int], folder: Path, model_config: Mapping[str, Any], mask_token: str | None
) -> dict[str, int | None]:
    named = [read_json_object(folder / name) for name in NAMED_IN]
    found = {name: _special_id(name, entries, named, model_config) for name in NAMES}
    if mask_token == NEW:
        others = [i for name, i in found.items() if name != "mask" and i is not None]
        found["mask"] = 1 + max([*entries.values(), *others], default=-1)
    elif mask_token is not None:
        found["mask"] = entries.get(mask_token)
    return found


def _special_id(
    name: str, entries: Mapping[str, int], named: Sequence[Mapping[str, Any]], model_config: Mapping[str, Any]
) -> int | None:
    for config in named:
        token = config.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and content in entries:
            return entries[content]
    number: Any = model_config.get(f"{name}_token_id")
    first = number[0] if isinstance(number, list) and number else number
    return first if isinstance(first, int) and first >= 0 else None  # some configurations write -1 for none


def check_special_tokens(
    folder: Path, model_config: Mapping[str, Any], rows: int | None, mask_token: str | None = None, masks: bool = True
) -> dict[str, int | None]:
    """Check the special tokens of a model against its tokenizer and its embeddings; return the `special_ids`.

    Args:
        folder: of the model.
        model_config: the content of its config.json.
        rows: of its embeddings; None if they are not known.
        mask_token: the setting model.mask_token.
        masks: whether a mask token is needed, as it is for all but causal models.

    Raises:
        UserError: the tokenizer has more entries than the embeddings have rows; there is no mask or no end token, or
            one without a row; the mask token is the end or the beginning token, or a part of ordinary text.
    """
    vocabulary = read_vocabulary(folder)
    ids = _ids_among(vocabulary.ids, folder, model_config, mask_token)
    mask, end = ids["mask"], ids["eos"]
    remedy = _remedy(vocabulary, {i for name, i in ids.items() if name != "mask"}, rows)
    if mask_token not in (None, NEW) and mask_token not in vocabulary.added:
        what = "a part of ordinary text" if mask_token in vocabulary.ids else "no token of its tokenizer"
        raise UserError(f"model.mask_token is {mask_token!r}, which for {folder} is {what}; {remedy}")
    if mask is None and masks:
        raise UserError(
            f"the tokenizer in {folder} has no mask token, without which no diffusion model can be trained; {remedy}"
        )
    if end is None:
        raise UserError(f"the tokenizer in {folder} has no end token; set eos_token in its tokenizer_config.json")
    for name in ("eos", "bos"):
        if mask is not None and mask == ids[name]:
            raise UserError(f"the mask token of {folder} is its {NAMES[name]} too (id {mask}); {remedy}")
    if rows is None:
        return ids
    text, last = max(vocabulary.ids.items(), key=lambda entry: entry[1], default=("", -1))
    if last >= rows:
        too = f", and {remedy}" if ids["mask"] == last else ""  # a mask token that was only added to the tokenizer
        raise UserError(
            f"the tokenizer in {folder} is larger than the model: its token {text!r} has the id {last}, and the "
            f"embeddings have {rows:,} rows; take the tokenizer that the model was trained with{too}"
        )
    check_rows(folder, ids, rows, mask_token, remedy)
    return ids


def check_rows(
    folder: Path,
    ids: Mapping[str, int | None],
    rows: int,
    mask_token: str | None = None,
    remedy: str = "set model.mask_token to an unused token of its tokenizer",
) -> None:
    """Check that each special token has a row in the embeddings.

    Args:
        folder: of the model, for messages.
        ids: of its special tokens by name.
        rows: of its embeddings.
        mask_token: the setting model.mask_token.
        remedy: advice on the mask token.

    Raises:
        UserError: one has none, or the tokenizer does not have the token that the setting names.
    """
    if mask_token is not None and ids["mask"] is None:
        raise UserError(f"model.mask_token is {mask_token!r}, which the tokenizer in {folder} does not have; {remedy}")
    for name, number in ids.items():
        if number is not None and number >= rows:
            cure = remedy if name == "mask" else f"name another {name}_token in its tokenizer_config.json"
            what = "a new mask token for" if name == "mask" and mask_token == NEW else f"the {NAMES[name]} of"
            raise UserError(f"{what} {folder} has the id {number}, and the embeddings have {rows:,} rows; {cure}")


def _remedy(vocabulary: Vocabulary, used: set[int | None], rows: int | None) -> str:
    """Return advice on the mask token: an added token that has a row and no other use, or a row without a token."""
    spare = [text for text, i in vocabulary.added.items() if i not in used and (rows is None or i < rows)]
    free = rows is not None and max([*vocabulary.ids.values(), *(i for i in used if i)], default=-1) + 1 < rows
    ways = [f"a token that neither this model nor your rows use, such as {spare[-1]!r}"] if spare else []
    ways += [f"{NEW!r}, for a row of the embeddings that has no token"] if free else []
    if not ways:
        return "take another model, or add a token to a copy of this one, with a row in its embeddings"
    return f"set model.mask_token to {', or to '.join(ways)}"
