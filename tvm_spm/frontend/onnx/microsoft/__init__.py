"""Operators that onnxruntime adds to ONNX's own, written out in ONNX's own.

``expand`` walks a graph, keeps track of shapes and replaces nodes; a ``place`` is one node with what is known of its
tensors. What is written for one is in ``normalised``, ``activated``, ``attention`` (over whole sequences) and
``cached`` (over a cache of keys), ``tables`` (of few bits) and, of ``ai.onnx.ml``, ``learned``; attention is made of
``heads``. Operators on bytes are one level up.
"""
