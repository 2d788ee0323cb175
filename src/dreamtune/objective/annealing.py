"""Annealed attention: an autoregressive checkpoint learns to attend to later tokens little by little.

Such a checkpoint has never seen a token behind the one that it reads. In the first steps of a run, whose share is
`train.attention_annealing`, each token attends to all before it and to few behind it: its right context, which grows in
stages of equally many steps:

    0, 8, 16, 32, ... tokens, and then the whole document

The first stage is causal attention. The last is that of all other steps, of validation, evaluation and generation. In a
model of L layers, what a prediction depends on reaches L times as far as a right context.

DiffuLLaMA (Gong et al. 2024, arXiv 2410.17891) anneals otherwise: each pair of a token and a later one becomes visible
at random, drawn again in each step, with a probability that grows to 1 by equal amounts (`get_anneal_attn_mask` of
github.com/HKUNLP/DiffuLLaMA). Such a mask needs a number for each pair, which FlashAttention's kernel does not take; a
right context it does take. Growth in stages is closer to the growing blocks of NBDiff (arXiv 2512.06776) and of
LLaDA2.0's warm-up, whose attention stays causal between blocks. These ways were not compared here.
"""

FIRST = 8  # right context of the second stage, in tokens; each further stage has twice the one before


def stages(longest: int) -> list[int]:
    """Return the right contexts of the stages, for documents of at most `longest` tokens.

    The last one is less than what the first token of such a document could see.

    >>> stages(100), stages(9), stages(10)
    ([0, 8, 16, 32, 64], [0], [0, 8])
    """
    found = [0]
    while (wider := max(FIRST, 2 * found[-1])) < longest - 1:
        found.append(wider)
    return found


def right_context(step: int, total: int, share: float, longest: int) -> int | None:
    """Return the later tokens that each token attends to in a step, counted from 1; None for all.

    A function of the step and the settings alone, so that a resumed run goes on as it would have. The last step always
    attends to everything. Of few steps, each takes the stage of its place, and some stages are left out.

    Args:
        step: from 1.
        total: steps of the run.
        share: of the steps that are annealed, at least 0 and less than 1 (`train.attention_annealing`).
        longest: tokens of the longest document that the run can meet.

    >>> [right_context(step, total=12, share=0.8, longest=40) for step in range(1, 13)]
    [0, 0, 0, 8, 8, 16, 16, 32, 32, None, None, None]
    """
    annealed = int(share * total)
    if step > annealed:
        return None
    growing = stages(longest)
    return growing[(step - 1) * len(growing) // annealed]
