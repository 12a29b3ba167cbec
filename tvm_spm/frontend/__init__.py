"""From a model to tasks: import, fusion into TIR functions, extraction of the task graph."""

from tvm_spm.frontend.extract import ENTRY, Extraction, extract
from tvm_spm.frontend.fuse import fuse
from tvm_spm.frontend.inputs import random_inputs
from tvm_spm.frontend.layers import NetworkLayers, layer_graph
from tvm_spm.frontend.load import check_model, load_model

__all__ = [
    "ENTRY",
    "Extraction",
    "NetworkLayers",
    "check_model",
    "extract",
    "fuse",
    "layer_graph",
    "load_model",
    "random_inputs",
]
