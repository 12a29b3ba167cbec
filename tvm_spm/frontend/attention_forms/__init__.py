"""Attention in the one form that is recognised, whatever wrote it.

Exporters copy shared heads, scale both operands, fold heads and batch into one axis, and zero the rows in which a mask
hides everything. ``products`` undoes the folding and the scaling, ``grouped`` the copies, and ``softmax`` makes one
operator of a softmax with its zeroed rows. ``frontend.attention`` then finds two products around a softmax.
"""
