"""Micro-batches of short documents, on which a canary costs a tenth: nothing it looks for depends on the length."""

from dataclasses import replace

from dreamtune.objective.diffusion import Noised, corrupt
from dreamtune.objective.packing import GPU_MULTIPLE, Batch, collate

SHORT = 256  # most tokens of a document


def shortened(batch: Batch) -> Batch:
    """Return a micro-batch with the same documents cut to at most `SHORT` tokens, and masked again at the same rates.

    Attention takes another way for documents of one length, and where padding follows: both stay as they were. Returns
    the micro-batch itself if its documents are short, or if nothing that a canary can judge would be left.
    """
    lengths = [len(noised.input_ids) for noised in batch.noised]
    cut = short_lengths(lengths)
    if cut == lengths:
        return batch
    documents = [_cut(noised, length) for noised, length in zip(batch.noised, cut, strict=True)]
    judged = any(noised.supervised[:-1].any() for noised in documents)
    return collate(documents, batch.input_ids.device) if judged else batch


def short_lengths(lengths: list[int]) -> list[int]:
    """Return the lengths to which documents are cut: equal ones stay equal, different ones different.

    If their sum was a multiple of GPU_MULTIPLE, or was none, it stays so. Returns `lengths` where that cannot be done.

    >>> short_lengths([2048, 2100, 2048, 90])
    [255, 256, 255, 90]
    >>> short_lengths([2048, 2048]), short_lengths([2000, 2000])
    ([256, 256], [255, 255])
    """
    if max(lengths) <= SHORT:
        return lengths
    places = {length: place for place, length in enumerate(sorted(set(lengths), reverse=True))}
    if len(places) > SHORT // 2:
        return lengths
    for most in range(SHORT, max(SHORT - GPU_MULTIPLE, len(places)), -1):
        cut = [min(length, most - places[length]) for length in lengths]
        if (sum(cut) % GPU_MULTIPLE == 0) == (sum(lengths) % GPU_MULTIPLE == 0):
            return cut
    return lengths


def _cut(noised: Noised, length: int) -> Noised:
    """Return a document of which `length` tokens are left: the end of its prompt and the beginning of its response."""
    document = noised.document
    begin = min(max(document.prompt_tokens - length // 2, 0), len(document.tokens) - length)
    lost = len(document.tokens) - begin - length
    short = replace(
        document,
        tokens=document.tokens[begin : begin + length],
        prompt_tokens=document.prompt_tokens - begin,
        tail_tokens=max(document.tail_tokens - lost, 0),
    )
    return corrupt(short, noised.noise)
