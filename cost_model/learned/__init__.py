"""Corrections of the formula that are learned from measurements.

``columns`` names what the model sees of a mapping, ``rows`` fills it in for many mappings, ``features`` is the matrix,
``ranker`` orders the mappings of one task by measurements of it, ``residual`` learns over all tasks what the formula
gets wrong, ``forest`` evaluates its trees, ``trees`` loads the library of boosted trees.
"""

from __future__ import annotations

from cost_model.learned.columns import NO_LOOP_RANK, feature_names
from cost_model.learned.features import Estimate, Estimator, features
from cost_model.learned.ranker import XGBoostRanker

__all__ = ["NO_LOOP_RANK", "Estimate", "Estimator", "XGBoostRanker", "feature_names", "features"]
