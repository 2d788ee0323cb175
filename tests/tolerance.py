"""How far apart two float32 computations of the same numbers may lie, on any processor: derived, not measured on one.

A processor is free in the order in which it adds up a product's terms, in fusing a multiplication with an addition,
and in the polynomial behind `exp`. Each such choice moves a sum by roundings of at most `ROUNDING` of its size:

1. One rounding to float32 has a relative error of at most u = 2^-24.
2. Roundings are as good as independent, so n of them one after the other add up to λ·√n·u, and to more with a
   probability of at most 2·exp(−λ²/2) (Higham and Mary, "A new approach to probabilistic rounding error analysis",
   SIAM J. Sci. Comput. 41(5), 2019). λ = 4: 0.07 %, before point 4 adds to the distance.
3. n is the number of terms that are added along one path through the computation: for a model the lengths of all dot
   products from the embedding to the logit (`model_tolerance`).
4. An error is as large as the numbers that were added, not as the one that came out, which may be near 0. Hence an
   absolute tolerance by the largest element, for all elements.
5. Two computations are compared, so there are two errors.

For the logits of the small Dream checkpoint, of size 16 after 2,116 terms, that is 3.5e-4. Found: 1.3e-5 with
AVX-512, 1.9e-5 with AVX2, 5.6e-5 with SSE. A wrong shift differs by 22, weights rounded to bfloat16 by 1.
"""

import math
from typing import Any

import pytest
import torch

ROUNDING = 2.0**-24  # of float32, relative to the number that is rounded
DEVIATIONS = 4  # λ above
# Only MKL promises that a row's bits do not depend on the rows beside it (strict mode, dreamtune.model.loading).
needs_mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="a row's bits are promised by MKL alone")


def float32_rounding(terms: int, layers: int = 1) -> float:
    """Return how far apart two computations may lie, as a share of the largest number that they give.

    Args:
        terms: that are added one after the other in a layer: the lengths of its sums, added up.
        layers: how many such layers follow each other.
    """
    return 2 * DEVIATIONS * ROUNDING * math.sqrt(terms * layers)


def float32_tolerance(reference: torch.Tensor, terms: int, layers: int = 1) -> dict[str, float]:
    """Return `atol` and `rtol` for `torch.testing.assert_close` with a float32 `reference`; see `float32_rounding`."""
    return {"atol": float32_rounding(terms, layers) * reference.abs().max().item(), "rtol": 0.0}


def model_tolerance(reference: torch.Tensor, config: Any) -> dict[str, float]:
    """Return the tolerance of logits or hidden rows [..., L, ·] that a model with this config gives in float32.

    In a layer: the first norm, the query's projection, the scores, the values' mean, the output's projection, the
    second norm, gate and up, down. The last norm and the head, which are fewer terms, count as one more layer.
    """
    hidden, positions = config.hidden_size, reference.shape[-2]
    terms = 5 * hidden + hidden // config.num_attention_heads + positions + config.intermediate_size
    return float32_tolerance(reference, terms, config.num_hidden_layers + 1)
