"""What the learned model sees of a mapping: named numbers with units."""

from __future__ import annotations

from tvm_spm.workload import DIM_NAMES, Operand

NO_LOOP_RANK = -1.0
"""Rank of a dim that does not loop at a level."""

MOST_ALIGNED = 12
"""Binary zeros counted at the end of a row length: 4 KiB, more than the rows of banks have."""

LEAST_LOG2 = -20.0
"""Stands for the logarithm of 0."""

ARCH_NUMBERS = (
    "cores", "pes", "dma_bytes_per_cycle", "burst_startup_cycles", "noc_elems_per_cycle", "dram_channels",
    "spm_bytes_per_cycle", "mac_stages",
)  # fmt: skip
"""Of the accelerator, as logarithms: 0 of what is not bounded."""


def feature_names(*, with_estimate: bool = True) -> tuple[str, ...]:
    """Names in the order of the columns, each with its unit.

    Args:
        with_estimate: Whether the columns of another model's prediction are there.
    """
    names = [f"log2_{what}_{name}_elems" for what in ("extent", "spm_tile", "rf_tile") for name in DIM_NAMES]
    names += [f"log2_{what}_{name}_factor" for what in ("core", "dram", "spm", "row", "col") for name in DIM_NAMES]
    names += [f"{level}_rank_{name}_loops" for level in ("dram", "spm") for name in DIM_NAMES]
    for operand in Operand:
        names += [f"log2_{level}_footprint_{operand.name}_bytes" for level in ("spm", "array", "rf")]
        names += [f"log2_{level}_fetch_{operand.name}_count" for level in ("spm", "rf")]
        names += [f"log2_{level}_reuse_{operand.name}_iterations" for level in ("dram", "spm")]
        names += [f"{level}_buffers_{operand.name}_count" for level in ("spm", "rf")]
        names += [f"log2_dram_traffic_{operand.name}_bytes"]
        # what decides which banks, rows and bursts a tile meets
        names += [f"log2_dram_run_{operand.name}_bytes", f"log2_runs_{operand.name}_count"]
        names += [f"{level}_row_alignment_{operand.name}_bits" for level in ("dram", "spm", "array")]
    names += [
        "log2_macs", "log2_macs_per_dram_byte", "log2_busy_pes", "busy_pes_ratio", "spm_filled_ratio",
        "rf_filled_ratio", "spill_flag", "log2_reduction_pes", "log2_halo_ratio", "log2_passes_count",
        "log2_steps_count", "log2_step_macs", "log2_cores_per_channel",
    ]  # fmt: skip
    names += [f"log2_arch_{what}" for what in ARCH_NUMBERS]
    if with_estimate:
        names += [
            "log2_estimated_cycles", "log2_estimated_energy_pj", "log2_cycles_per_ideal_cycle", "channel_busy_ratio",
            "prologue_ratio", "log2_spm_port_bytes_per_cycle",
        ]  # fmt: skip
    return tuple(names)
