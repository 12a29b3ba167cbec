"""The generic machine as hardware: SystemVerilog for one accelerator, simulated on the instruction stream of a layer.

``parameters`` reads an ``Arch``, ``build`` writes the sources in ``verilog/`` for it and compiles them, ``words`` turns
a stream into what the core is fed (``epilogue`` the vector unit's part), ``run`` executes it on a memory image, and
``area`` counts what the hardware is made of.
"""
