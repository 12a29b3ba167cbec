"""Readers of TIR: blocks, affine indices, multiply-accumulate nests."""
