"""Microseconds of a layer's product for few rows, in Dream 7B's shapes: bf16, bitsandbytes' NF4, ours, and FP8.

Needs a GPU. Every way multiplies by the same NF4 numbers (FP8: rounded once more); its output is compared with
float32 products of the dequantised weight. Each call meets another of several weights, so that none is read from the
L2 cache, and all of them run as one CUDA graph, so that the host does not count. With --tune the kernel's tiles are
tried, and the best of each shape is printed: COLUMNS, GROUPS, WARPS, STAGES and PROGRAMS of nf4_kernel.py.

usage   python benchmarks/nf4_products.py [--rows 33] [--tune]
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import _src  # noqa: F401, puts src on the path
import torch
from bitsandbytes.nn import Linear4bit
from seven_b_shape import report

from dreamtune.model.few_bits import Nf4Linear
from dreamtune.model.fp8 import Fp8Linear
from dreamtune.model.nf4 import dequantised

SHAPES = {"q, o": (3584, 3584), "k, v": (512, 3584), "gate, up": (18944, 3584), "down": (3584, 18944)}  # [out, in]
PER_LAYER = {"q, o": 2, "k, v": 2, "gate, up": 2, "down": 1}
LAYERS, WEIGHTS, REPEATS = 28, 6, 20
TILES = list(itertools.product((32, 64, 128), (1, 2), (4, 8), (2, 3, 4), (132, 264, 528)))


def main() -> None:
    """Print a line of JSON for each shape and way, and the milliseconds of all layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=33, help="rows of the product; a block of 32 has 33 in Dream")
    parser.add_argument("--tune", action="store_true", help="try the kernel's tiles")
    options = parser.parse_args()
    report("machine", gpu=torch.cuda.get_device_name(), torch=torch.__version__, rows=options.rows)
    total: dict[str, float] = {}
    for shape, (out, into) in SHAPES.items():
        layers = [packed(out, into, seed) for seed in range(WEIGHTS)]
        x = torch.randn(options.rows, into, dtype=torch.bfloat16, device="cuda")
        for way, make in (("bf16", dense), ("bitsandbytes", lambda layer: layer), ("nf4", few), ("fp8", fp8)):
            ways = [make(layer) for layer in layers]
            error = relative_error(ways[0](x), layers[0], x)
            micros = timed([partial(way_of, x) for way_of in ways])
            total[way] = total.get(way, 0.0) + micros * PER_LAYER[shape] * LAYERS / 1000
            report("product", shape=shape, way=way, us=round(micros, 1), error=error)
        if options.tune:
            tune(shape, [few(layer) for layer in layers], x)
    report("all layers", **{f"{way}_ms": round(ms, 2) for way, ms in total.items()})


def packed(out: int, into: int, seed: int) -> Linear4bit:
    """Return an NF4 layer of random weights, double quantised as the model's."""
    torch.manual_seed(seed)
    layer = Linear4bit(into, out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True)
    layer.weight.data = torch.randn(out, into, dtype=torch.bfloat16) / into**0.5
    return layer.to("cuda").eval()


def dense(layer: Linear4bit) -> Any:
    """Return the layer in bf16."""
    return partial(torch.nn.functional.linear, weight=dequantised(layer))


def few(layer: Linear4bit) -> Nf4Linear:
    """Return the layer as generation multiplies by it."""
    return Nf4Linear(layer, keep_dense=False)


def fp8(layer: Linear4bit) -> Fp8Linear:
    """Return the layer in FP8 as generation multiplies by it."""
    return Fp8Linear(layer, trains=False)


def relative_error(found: torch.Tensor, layer: Linear4bit, x: torch.Tensor) -> float:
    """Return the norm of the difference from the float32 product, as a share of that product's norm."""
    exact = x.float() @ dequantised(layer).float().T
    return round(float((found.float() - exact).norm() / exact.norm()), 5)


@torch.inference_mode()
def timed(calls: list[Callable[[], Any]]) -> float:
    """Return microseconds a call, all of them captured in one graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls * 2:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    graph.replay()
    start.record()
    for _ in range(REPEATS):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    del kept
    return 1000 * start.elapsed_time(end) / REPEATS / len(calls)


def tune(shape: str, layers: list[Nf4Linear], x: torch.Tensor) -> None:
    """Print the five fastest tiles of a shape, the sum of the parts included."""
    halves = x.unflatten(-1, (-1, 2)).movedim(-1, 0).contiguous()
    found = []
    for tile in TILES:
        run = partial(product, halves, tile=tile)
        try:
            found.append((timed([partial(run, layer) for layer in layers]), tile))
        except Exception as error:  # a tile that does not fit into the card's shared memory
            report("refused", shape=shape, tile=tile, error=str(error)[:80])
    for micros, tile in sorted(found)[:5]:
        names = ("columns", "groups", "warps", "stages", "programs")
        report("tile", shape=shape, us=round(micros, 1), **dict(zip(names, tile, strict=True)))


def product(halves: torch.Tensor, layer: Nf4Linear, tile: tuple[int, ...]) -> torch.Tensor:
    """Return the rows times the layer's weight, [M, out] float32."""
    from dreamtune.model.nf4_kernel import launch  # Triton comes with torch on a GPU only

    columns, groups, warps, stages, programs = tile
    parts = launch(
        halves,
        layer.codes,
        layer.absmax,
        layer.table,
        columns=columns,
        groups=groups,
        programs=programs,
        warps=warps,
        stages=stages,
    )
    return parts.sum(0)


if __name__ == "__main__":
    main()
