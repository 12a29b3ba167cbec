"""The graph of layers that fusion plans over.

``graph`` is given a network's functions of TIR and gives back layers with their loops, and the tensors between them.
What a layer reads is found from the accesses of its nest (``access``) and what else its function loads (``loads``).
"""
