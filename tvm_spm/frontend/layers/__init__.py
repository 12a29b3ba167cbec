"""The graph of layers that fusion plans over: ``graph`` makes it, ``access`` and ``loads`` find what a layer reads."""
