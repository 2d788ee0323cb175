"""The pretraining corpus as tensors on the training device."""

import multiprocessing
from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np
import torch
from corpus import Mix, documents
from library import question_hash
from make_rows import read_questions
from make_tokenizer import BEGINNING, END
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
WIDTHS = (24, 40, 52, 64)  # positions of a batch; a document goes where it just fits
RESPONSE = 32  # positions of a response with its end tokens, at most: what the demonstration generates


def encode_chunk(chunk: int, seed: int, excluded: Collection[int], mix: Mix) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens [CHUNK, 64] of a chunk's documents, and (length, length of the prompt) [CHUNK, 2] of each.

    A document is beginning token, prompt, response, end token and a tail of further end tokens.
    """
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    begin, end = tokenizer.token_to_id(BEGINNING), tokenizer.token_to_id(END)
    found = list(documents(seed, chunk, excluded, mix))
    prompts = tokenizer.encode_batch([d.prompt for d in found])
    responses = tokenizer.encode_batch([d.response for d in found])
    draws = np.random.default_rng([seed, chunk]).random((len(found), 2))
    ids = np.full((len(found), WIDTHS[-1]), end, dtype=np.int16)
    lengths = np.zeros((len(found), 2), dtype=np.int64)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        text = [begin, *prompt.ids, *response.ids, end]
        room = RESPONSE - len(response) - 1
        if len(prompt) < 12:  # a bare sum: on a canvas of 32 it would be nearly all end tokens
            room = min(room, 8)
        tail = room if draws[i, 0] < 0.5 else int(draws[i, 1] * (room + 1))
        ids[i, : len(text)] = text
        lengths[i] = len(text) + tail, 1 + len(prompt)
    return ids, lengths


class Corpus:
    """Encoded documents on the training device, by width of the batch they fit in."""

    def __init__(self, chunks: int, seed: int, mix: Mix, workers: int, device: str) -> None:
        excluded = frozenset(question_hash(question) for question in read_questions())
        encode = partial(encode_chunk, seed=seed, excluded=excluded, mix=mix)
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            encoded = list(pool.imap(encode, range(chunks)))
        ids, lengths = (torch.from_numpy(np.concatenate(part)) for part in zip(*encoded, strict=True))
        assert int(lengths[:, 0].max()) <= WIDTHS[-1], "a document is longer than the widest batch"
        self.documents, self.tokens = len(ids), int(lengths[:, 0].sum())
        self.groups = []
        for low, width in zip((0, *WIDTHS), WIDTHS, strict=False):
            fits = (lengths[:, 0] > low) & (lengths[:, 0] <= width)
            if fits.any():
                self.groups.append((ids[fits, :width].to(device), lengths[fits].to(device)))

    def shares(self) -> torch.Tensor:
        """Return how often each width is trained on: as often as it has tokens."""
        return torch.tensor([float(lengths[:, 0].sum()) for _, lengths in self.groups])
