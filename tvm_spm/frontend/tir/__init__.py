"""Readers of TIR: blocks, affine indices, multiply-accumulate nests.

They are given a ``PrimFunc`` before any schedule and give back plain values: its ``blocks``, the ``affine`` form of
its indices, and the ``nest`` with its loop dims (``naming``), or why there is none.
"""
