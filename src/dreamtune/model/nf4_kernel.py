"""A Triton kernel that multiplies few rows by a 4-bit weight, unpacking the weight within the product.

A decoding step of one block multiplies about 32 rows by every weight, and its time is that of reading the weights. In
4 bits they are a quarter of bf16's bytes. The weight is read as bitsandbytes stores it (NF4: two codes in a byte, the
first in the high half, and a scale for each 64 weights), and every unpacked weight is rounded to the rows' type: it is
the number that `bitsandbytes.functional.dequantize_4bit` gives.

This file is imported only where Triton is there: with torch on a GPU.
"""

import torch
import triton
import triton.language as tl

GROUP = tl.constexpr(32)  # bytes of a row of the weight that share a scale: 64 weights
ROWS, COLUMNS, GROUPS = 64, 64, 2  # of a tile: most rows, outputs, groups
WARPS, STAGES = 4, 3
PARTS = 8  # most parts of a sum: the compiler adds up so many without a kernel of its own
PROGRAMS = 264  # programs to start at least, two for each of an H100's 132 multiprocessors


@triton.jit
def _product(  # type: ignore[no-untyped-def]  # Triton reads the annotations
    x,  # [2, M, K / 2]: the rows' even columns, then the odd ones
    codes,  # [N, K / 2] uint8
    absmax,  # [N, K / 64] float32
    table,  # [16] float32
    out,  # [splits, M, N] float32
    M,
    N,
    half,  # K / 2
    tiles,  # along K, of each split
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Write one split's sum over its part of K for a tile of outputs."""
    n = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(1)
    m = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    numbers = tl.load(table + tl.arange(0, 16))
    for tile in range(split * tiles, (split + 1) * tiles):
        group = tile * GROUPS + tl.arange(0, GROUPS)
        inside = (n[:, None] < N) & (group[None, :] * GROUP < half)  # [N, G]
        scale = tl.load(absmax + n[:, None] * (half // GROUP) + group[None, :], mask=inside, other=0.0)
        place = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]  # [G, 32]
        packed = tl.load(codes + n[:, None, None] * half + place[None, :, :], mask=inside[:, :, None], other=0)
        flat = tl.reshape(packed, (COLUMNS * GROUPS * GROUP,)).to(tl.int32)
        first = tl.reshape(tl.gather(numbers, flat >> 4, 0), (COLUMNS, GROUPS, GROUP))
        second = tl.reshape(tl.gather(numbers, flat & 15, 0), (COLUMNS, GROUPS, GROUP))
        first = (first * scale[:, :, None]).to(x.dtype.element_ty)
        second = (second * scale[:, :, None]).to(x.dtype.element_ty)
        k = tile * GROUPS * GROUP + tl.arange(0, GROUPS * GROUP)
        seen = (m[:, None] < M) & (k[None, :] < half)
        rows = x + m[:, None] * half + k[None, :]
        even, odd = tl.load(rows, mask=seen, other=0.0), tl.load(rows + M * half, mask=seen, other=0.0)
        total = tl.dot(even, tl.trans(tl.reshape(first, (COLUMNS, GROUPS * GROUP))), total)
        total = tl.dot(odd, tl.trans(tl.reshape(second, (COLUMNS, GROUPS * GROUP))), total)
    written = (m[:, None] < M) & (n[None, :] < N)
    tl.store(out + split * M * N + m[:, None] * N + n[None, :], total, mask=written)


def parts_of(
    outputs: int, half: int, columns: int = COLUMNS, groups: int = GROUPS, programs: int = PROGRAMS
) -> tuple[int, int]:
    """Return into how many parts a product's sum is split, and how many tiles each adds up.

    A weight of few outputs has too few tiles across to keep a GPU busy, so several programs share its inputs.

    Args:
        outputs: N.
        half: K / 2.
        columns, groups, programs: see `launch`.
    """
    across, all_tiles = -(-outputs // columns), -(-half // (groups * GROUP.value))
    parts = max(1, min(PARTS, all_tiles // 2, -(-programs // across)))
    tiles = -(-all_tiles // parts)
    return -(-all_tiles // tiles), tiles


def launch(
    x: torch.Tensor,
    codes: torch.Tensor,
    absmax: torch.Tensor,
    table: torch.Tensor,
    columns: int = COLUMNS,
    groups: int = GROUPS,
    programs: int = PROGRAMS,
    warps: int = WARPS,
    stages: int = STAGES,
) -> torch.Tensor:
    """Return the product in parts that are still to be added up, [parts, M, N] float32.

    Args:
        x: [2, M, K / 2], the rows' even columns and their odd ones, contiguous.
        codes: [N, K / 2] uint8.
        absmax: [N, K / 64] float32.
        table: [16] float32, the numbers that the codes stand for.
        columns, groups: outputs, and groups of 64 weights, of a tile.
        programs: programs to start at least, if there is work for so many.
        warps, stages: of a program.
    """
    (_, count, half), outputs = x.shape, codes.shape[0]
    rows = min(ROWS, max(16, triton.next_power_of_2(count)))
    splits, tiles = parts_of(outputs, half, columns, groups, programs)
    out = torch.empty(splits, count, outputs, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(outputs, columns), splits, triton.cdiv(count, rows))
    _product[grid](
        x,
        codes,
        absmax,
        table,
        out,
        count,
        outputs,
        half,
        tiles,
        ROWS=rows,
        COLUMNS=columns,
        GROUPS=groups,
        num_warps=warps,
        num_stages=stages,
    )
    return out
