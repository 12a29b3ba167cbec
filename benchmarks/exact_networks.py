"""Certify the best mapping of every distinct layer of ResNet-50, VGG-19, MobileNet-V2 and a BERT-base encoder layer.

Source: ours; nothing published is compared. Batch 1, int16, images of 224 x 224, 128 and 512 tokens; depthwise layers
and matrix products count, vector work does not. Reported per network: seconds of all searches, of the slowest, and
the largest resident size of the process until then. Budget: ``--limit`` seconds per layer, 60 unless given; a search
that runs out says how far off it may be. Expected time: a few minutes, of which half a minute compiles the search on
the first run; ``--quick`` maps BERT-base with 128 tokens on one machine.

    python benchmarks/exact_networks.py [--quick] [--csv FILE] [--plot FILE] [--arch NAME ...] [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from cost_model.bounds import lower_bound
from tvm_spm.arch import Arch, load_arch
from tvm_spm.exact import exact_search
from tvm_spm.space.case import Case
from tvm_spm.workload import Workload

ARCHS = ("edge-256", "dmazerunner-256")

RESNET_50_STAGES = ((64, 64, 56, 3), (256, 128, 28, 4), (512, 256, 14, 6), (1024, 512, 7, 3))
"""(channels in, inner channels, output rows and columns, blocks); the 3x3 layer of the first block has the stride."""

VGG_19 = (
    (64, 3, 224), (64, 64, 224), (128, 64, 112), (128, 128, 112), (256, 128, 56), (256, 256, 56), (512, 256, 28),
    (512, 512, 28), (512, 512, 14),
)  # fmt: skip
"""(output channels, input channels, rows and columns), 3x3."""

MOBILENET_V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
)  # fmt: skip
"""(expansion, output channels, blocks, stride)."""


def conv(k: int, c: int, out: int, taps: int, stride: int = 1, *, groups: int = 1) -> Workload:
    """One layer, padded so that only the stride shrinks it."""
    return Workload.conv2d(
        K=k, C=c, groups=groups, OY=out, OX=out, FY=taps, FX=taps, stride=stride, padding=taps // 2, IY=stride * out,
        IX=stride * out,
    )  # fmt: skip


def resnet_50() -> list[Workload]:
    """Bottlenecks with the stride in the 3x3 layer."""
    layers = [conv(64, 3, 112, 7, 2)]
    for channels, inner, out, blocks in RESNET_50_STAGES:
        stride = 1 if channels == inner else 2
        layers += [conv(inner, channels, stride * out, 1), conv(inner, inner, out, 3, stride)]
        layers += [conv(4 * inner, inner, out, 1), conv(4 * inner, channels, out, 1, stride)]
        if blocks > 1:
            layers += [conv(inner, 4 * inner, out, 1), conv(inner, inner, out, 3)]
    return [*layers, Workload.matmul(m=1, k=2048, n=1000)]


def vgg_19() -> list[Workload]:
    """Sixteen convolutions, nine of them distinct, and three dense layers."""
    dense = [(25088, 4096), (4096, 4096), (4096, 1000)]
    return [conv(k, c, out, 3) for k, c, out in VGG_19] + [Workload.matmul(m=1, k=k, n=n) for k, n in dense]


def mobilenet_v2() -> list[Workload]:
    """Inverted residuals; the middle layer of each is depthwise."""
    layers, channels, extent = [conv(32, 3, 112, 3, 2)], 32, 112
    for expansion, outputs, blocks, first_stride in MOBILENET_V2_STAGES:
        for block in range(blocks):
            stride, inner = first_stride if block == 0 else 1, expansion * channels
            if expansion > 1:
                layers.append(conv(inner, channels, extent, 1))
            extent //= stride
            layers.append(conv(inner, inner, extent, 3, stride, groups=inner))
            layers.append(conv(outputs, inner, extent, 1))
            channels = outputs
    return [*layers, conv(1280, channels, extent, 1), Workload.matmul(m=1, k=1280, n=1000)]


def bert_base(tokens: int) -> list[Workload]:
    """Projections, scores and context of 12 heads, feed-forward."""
    return [
        Workload.matmul(m=tokens, k=768, n=768),
        Workload.matmul(m=tokens, k=64, n=tokens, batch=12),
        Workload.matmul(m=tokens, k=tokens, n=64, batch=12),
        Workload.matmul(m=tokens, k=768, n=3072),
        Workload.matmul(m=tokens, k=3072, n=768),
    ]


def measure(network: str, workload: Workload, arch: Arch, limit_s: float, commit: str) -> dict[str, object]:
    """One row."""
    start, cpu = time.monotonic(), time.process_time()
    result = exact_search(Case(workload=workload, arch=arch), time_limit_s=limit_s)
    kib = 1024 if sys.platform == "darwin" else 1
    return {
        "commit": commit,
        "arch": arch.name,
        "arch_sha256": arch.sha256()[:12],
        "cores": arch.cores.count,
        "network": network,
        "workload": str(workload),
        "macs": workload.macs,
        "searcher": "exact",
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.monotonic() - start,
        "num_evaluated": result.num_evaluated,
        "num_bounded": result.num_bounded,
        "cycles": result.cost.cycles,
        "energy_pj": result.cost.energy_pj,
        "edp_pj_cycles": result.cost.edp_pj_cycles,
        "above_floor": result.value / lower_bound(workload, arch, "edp") - 1,
        "gap": result.gap,
        "certified": result.certified,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kib / 1024,
        "mapping": result.mapping.line(),
        "source": "analytical",
    }


def draw(table: pd.DataFrame, path: Path) -> None:
    """Time of each search against the size of its layer, a colour per machine and a marker per network."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    colors = {name: f"C{index}" for index, name in enumerate(table["arch"].unique())}
    markers = dict(zip(table["network"].unique(), "osD^vP*X", strict=False))
    for (arch, network), group in table.groupby(["arch", "network"], sort=False):
        cores = group["cores"].iloc[0]
        label = f"{network}, {arch}, {cores} core{'s' if cores > 1 else ''}"
        axes.scatter(group["macs"], group["cpu_s"], s=22, c=colors[arch], marker=markers[network], label=label)
    axes.set(xscale="log", yscale="log", xlabel="MACs of the layer", ylabel="CPU seconds to the certificate")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=6, ncols=2)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Search, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--arch", nargs="*", default=list(ARCHS))
    parser.add_argument("--limit", type=float, default=60.0)
    options = parser.parse_args()
    networks = {"BERT-base 128": bert_base(128)}
    if not options.quick:
        networks |= {"BERT-base 512": bert_base(512), "ResNet-50": resnet_50(), "VGG-19": vgg_19()}
        networks["MobileNet-V2"] = mobilenet_v2()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    start = time.process_time()
    exact_search(Case(workload=Workload.matmul(m=2, k=2, n=2), arch=load_arch(options.arch[0])))
    print(f"compile or load: {time.process_time() - start:.1f} s CPU", flush=True)
    rows = []
    for arch in (load_arch(name) for name in options.arch[: 1 if options.quick else None]):
        for network, layers in networks.items():
            for workload in dict.fromkeys(layers):
                rows.append(measure(network, workload, arch, options.limit, commit))
            print(f"{arch.name} {network}: done", flush=True)
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    if options.plot:
        draw(table, options.plot)
    summary = table.groupby(["arch", "network"], sort=False).agg(
        layers=("workload", "size"), certified=("certified", "sum"), cpu_s=("cpu_s", "sum"), wall_s=("wall_s", "sum"),
        slowest_s=("wall_s", "max"), above_floor=("above_floor", "median"), largest_gap=("gap", "max"),
        peak_mib=("peak_mib", "max"),
    )  # fmt: skip
    print(summary.to_string(float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    main()
