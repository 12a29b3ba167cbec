"""The generic machine as hardware: SystemVerilog for one accelerator, simulated on the instruction stream of a layer.

``parameters`` reads an ``Arch``, ``build`` writes the sources in ``verilog/`` for it and compiles them, ``words`` turns
a stream into what the core is fed (``epilogue`` the vector unit's part), ``run`` executes it on a memory image, and
``area`` counts what the hardware is made of.

No duration is in the stream or in a register: cycles follow from elements that move through networks, pipelines and
ports. They are those of the timing rule, but for these:

- Sums that are double-buffered in RF and read back cannot come in while the tile they belong to is still worked on
  (an edge tile may leave one iteration of the loops over outputs), nor overtake the tile that leaves the same buffer,
  which happens if the next tile is longer along one dim and shorter along another. The rule overlaps both.
- ``pe.mac_stages`` above 1: sums leave when the pipelines are empty, each time. The rule pays for that once a pass.
- ``levels.SPM.bytes_per_cycle``: the networks share the port element by element, and sums arrive at it hops later. The
  rule fills every cycle of the port from the first.
- The vector unit starts when the first extra has arrived. The rule lets it start with the transfer; it shows only where
  the vector unit is slower than the DMA engine.

What stays idealised: SPM serves all networks and the DMA engine at once (but for a limit of its port), a PE takes as
many elements a cycle as a network carries, the vector unit chains its operations within a cycle, extras have a buffer
of their own, a burst may start at any address, and instructions are there when they are needed.
"""
