"""The accelerator as measurements show it.

``numbers`` lists what may be fitted, ``predictions`` says how far off the formula is, ``fit`` fits it to the measured
cycles of all tasks together, ``result`` is what was found beside what the file says.
"""

from __future__ import annotations

from cost_model.calibration.fit import fit_arch
from cost_model.calibration.predictions import Measured
from cost_model.calibration.result import FittedArch, FittedNumber

__all__ = ["FittedArch", "FittedNumber", "Measured", "fit_arch"]
