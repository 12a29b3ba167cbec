"""The generic machine as hardware: SystemVerilog for one accelerator, simulated on the instruction stream of a layer.

``parameters`` reads an ``Arch``, ``build`` writes the sources in ``verilog/`` for it and compiles them, ``words`` turns
a stream into what the core is fed (``epilogue`` the vector unit's part), ``run`` executes it on a memory image, and
``area`` counts what the hardware is made of.

No duration is in the stream or in a register: cycles follow from elements that move through networks, pipelines and
ports, and are those of the timing rule. Hardware is how the rule came to say that

- sums that leave RF and are the next ones too (at an edge, where loops over outputs do not iterate) come back in the
  turn after the work, and not beside it: nothing is left to work on;
- sums that come into the places of others follow them, or wait until all are gone if their tile is longer along one dim
  and shorter along another, so that they would come to places still to be read;
- sums leave when the MAC pipelines are empty, every time (``pe.mac_stages``), and not once a pass;
- a port of SPM with a limit (``levels.SPM.bytes_per_cycle``) serves one network after the other: I, W, sums out, sums
  in; networks do not share out its cycles so that none is left over;
- the vector unit starts when its extras have come in, and not with the first of them.

What stays idealised: SPM serves all networks and the DMA engine at once (but for a limit of its port), a PE takes as
many elements a cycle as a network carries, the vector unit chains its operations within a cycle, extras have a buffer
of their own, a burst may start at any address, and instructions are there when they are needed.

The sources are written so that a simulation stays small and fast, and mean the same to synthesis. PEs are loops over
arrays of one module (``UNIT_ROWS`` and ``UNIT_COLS`` cut it into parts, which is how area is counted); a bus looks
once per row and column at what passes; registers have a clock of their own; what does not move is not looked at.
Memories are written on the rising edge of the clock and read on the falling one: Verilator 5.006 delays no assignment
to an array in a loop that it keeps, so there they are plain assignments, and nobody reads such an array on the edge
that writes it.
"""
