"""The canary of conversations: no document goes on after its assistant turn.

Under bidirectional attention a turn sees everything in its document. What was said later often gives its answer away
("thanks, 42 is right"), so that a document which goes on teaches copying, as the original notebook's objective did.
"""

from collections.abc import Sequence

import numpy as np

from dreamtune.checks import Check, check
from dreamtune.objective.packing import Batch

FAULT = "a document went on after its assistant turn, which then saw what was said later"


def later_turns_hidden(batches: Sequence[Batch], ids: dict[str, int], padding: Sequence[int] = ()) -> Check:
    """Return the check that behind the first end of a turn in a response stand only end tokens and padding.

    It reads the tokens that the model is given, and knows nothing of how they were made.

    Args:
        batches: the micro-batches of one optimiser step.
        ids: special tokens, as in shards.json.
        padding: tokens that may stand in a tail in place of the end token.
    """
    ends = [ids[name] for name in ("turn_end_id", "end_id") if ids.get(name) is not None]
    documents = [noised.document for batch in batches for noised in batch.noised]
    longer = sum(_goes_on(document.tokens[document.prompt_tokens :], ends, padding) for document in documents)
    expected = f"0 of {len(documents)} documents go on after their turn"
    return check("later_turns_hidden", longer == 0, longer, expected, FAULT)


def _goes_on(response: np.ndarray, ends: Sequence[int], padding: Sequence[int]) -> bool:
    """Whether anything but ends and padding stands behind the first end of a turn.

    >>> _goes_on(np.array([5, 6, 2, 1, 1]), ends=[2, 1], padding=[]), _goes_on(np.array([5, 2, 6, 2]), [2, 1], [])
    (False, True)
    """
    behind = response[int(np.argmax(np.isin(response, ends))) :] if np.isin(response, ends).any() else response[:0]
    return not np.isin(behind, [*ends, *padding]).all()
