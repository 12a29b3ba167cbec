"""Code of attention with an online softmax.

``code`` is given the shape and the tiles and writes one function in which keys and values come in chunks; ``tir``
holds the statements it is made of.
"""
