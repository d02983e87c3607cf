"""Compares our attention with splash attention for a TPU v5e, by the compiler's schedules.

Needs no TPU: `python -m benchmarks.attention_tpu` (or `make bench-attention`) prints the tables
of docs/performance.md and draws its plot. Takes about ten minutes on one core.
"""

import argparse
import os
import pathlib
import tempfile

from benchmarks.tpu_schedule import dump_arguments

FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="tpu_schedules_"))
# Both are read when the compiler is loaded.
os.environ["LIBTPU_INIT_ARGS"] = dump_arguments(FOLDER)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np  # noqa: E402

from benchmarks import length_laws  # noqa: E402
from benchmarks.segment_cost import compile_segments, segment_costs  # noqa: E402
from benchmarks.splash_cost import splash_costs  # noqa: E402
from benchmarks.tpu_compiler import tpu_mesh  # noqa: E402
from flexmdm_jax.attention.blocks import BlockSizes  # noqa: E402

ROWS, LENGTH = 64, 1024
TOKENS = ROWS * LENGTH
DIRECTIONS = ("forward", "backward")


def print_laws(mesh, heads: int, size: int, blocks: BlockSizes | None):
    """Prints the cost of each length law, beside splash attention's and the floor."""
    ours = compile_segments(mesh, FOLDER, ROWS, LENGTH, heads, size, blocks)
    theirs = splash_costs(mesh, FOLDER, ROWS, LENGTH, heads, size)
    print(f"\n{heads} heads of {size}, {ROWS} rows of {LENGTH}:\n")
    print(
        "| lengths | pass | kernel | blocks | tiles | bundles per tile | Mcycles | ratio | floor "
        "| VMEM MiB | HBM MiB |"
    )
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for direction in DIRECTIONS:
        print_row("any", direction, "splash", theirs[direction], 1.0, 1.0)
    for law, segment_ids in length_laws.laws(ROWS, LENGTH).items():
        for direction, cost in segment_costs(ours, segment_ids).items():
            ratio = cost.cycles / theirs[direction].cycles
            print_row(law, direction, "ours", cost, ratio, length_laws.floor(segment_ids))


def print_row(law, direction, kernel, cost, ratio, floor):
    """Prints one line of the table."""
    print(
        f"| {law} | {direction} | {kernel} | {cost.blocks} | {cost.tiles} | "
        f"{cost.bundles_per_tile:.0f} | {cost.cycles / 1e6:.2f} | {ratio:.3f} | {floor:.3f} | "
        f"{cost.vmem / 2**20:.1f} | {cost.bytes_moved / 2**20:.0f} |",
        flush=True,
    )


def growth(mesh, heads: int, size: int, lengths) -> dict:
    """Returns cycles of forward and backward together by length, at the same number of tokens."""
    curves = {"splash": [], "ours, full rows": [], "ours, uniform lengths": [], "ideal": []}
    for length in lengths:
        rows = TOKENS // length
        ours = compile_segments(mesh, FOLDER, rows, length, heads, size)
        theirs = splash_costs(mesh, FOLDER, rows, length, heads, size)
        full = length_laws.padded(np.full(rows, length), length)
        uniform = length_laws.padded((np.arange(rows) + 1) * length // rows, length)
        total = lambda costs: sum(costs[d].cycles for d in DIRECTIONS)  # noqa: E731
        curves["splash"].append(total(theirs))
        curves["ours, full rows"].append(total(segment_costs(ours, full)))
        curves["ours, uniform lengths"].append(total(segment_costs(ours, uniform)))
        curves["ideal"].append(float(length) * TOKENS)
        print(
            f"| {length} | " + " | ".join(f"{c[-1] / 1e6:.1f}" for c in curves.values()),
            "|",
            flush=True,
        )
    # The ideal line is Σ len² at the price of a pair of slots in the longest full rows.
    price = curves["ours, full rows"][-1] / curves["ideal"][-1]
    curves["ideal"] = [price * pairs for pairs in curves["ideal"]]
    return curves


def draw(lengths, curves, path: pathlib.Path):
    """Writes the plot of cycles against length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    styles = {
        "splash": "s-",
        "ours, full rows": "o-",
        "ours, uniform lengths": "^-",
        "ideal": "k--",
    }
    for name, cycles in curves.items():
        label = "ideal: Σ len², full rows" if name == "ideal" else name
        axes.plot(lengths, np.asarray(cycles) / 1e6, styles[name], label=label)
    axes.set(xscale="log", yscale="log", xlabel="row length", ylabel="estimated million cycles")
    axes.set_xticks(lengths, [str(x) for x in lengths], minor=False)
    ticks = 3 * 2.0 ** np.arange(5)
    axes.set_yticks(ticks, [f"{x:.0f}" for x in ticks], minor=False)
    axes.minorticks_off()
    axes.set_title(f"Forward and backward, {TOKENS} slots, TPU v5e")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main():
    """Prints every table and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=pathlib.Path, default="docs/attention_growth.png")
    parser.add_argument("--block_q", type=int, help="query slots per tile")
    parser.add_argument("--block_k", type=int, help="key slots per tile")
    parser.add_argument("--heads", type=int, default=12, help="of the first table")
    parser.add_argument("--size", type=int, default=64, help="features of these heads")
    parser.add_argument("--laws_only", action="store_true", help="print the first table only")
    args = parser.parse_args()
    blocks = BlockSizes(args.block_q, args.block_k) if args.block_q else None
    print("OpenWebText lengths:", length_laws.paragraph_lengths()[1])
    mesh = tpu_mesh("v5e")
    print_laws(mesh, args.heads, args.size, blocks)
    if args.laws_only:
        return
    print_laws(mesh, 8, 128, blocks)
    lengths = [256, 512, 1024, 2048, 4096]
    print("\n| length | splash | ours, full rows | ours, uniform lengths | Σ len² (millions) |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    draw(lengths, growth(mesh, 12, 64, lengths), args.plot)


if __name__ == "__main__":
    main()
