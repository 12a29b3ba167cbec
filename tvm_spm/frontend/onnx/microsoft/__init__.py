"""Operators that onnxruntime adds to ONNX's own, written out in ONNX's own.

``expand`` walks a graph, keeps track of shapes and replaces nodes; a ``place`` is one node with what is known of its
tensors. What is written for one is in ``normalised``, ``activated``, ``attention`` (over whole sequences) and
``cached`` (over a cache of keys); the last two are made of ``heads``. Operators on bytes and packed weights are one
level up.
"""
