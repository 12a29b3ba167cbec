"""PyTorch modules, exported programs and saved ones (``.pt2``) as Relax modules.

PyTorch is optional and large: ``source`` tells what is a model of it without loading it. ``archive`` reads a saved
program as data, ``export`` traces a module, ``load`` brings a program to static shapes and the operators that
``operators`` and TVM's importer take, and ``host`` runs the others.
"""
