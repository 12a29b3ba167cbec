"""The tables of Liu et al. (DLFusion)."""
