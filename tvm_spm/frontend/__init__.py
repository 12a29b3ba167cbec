"""Any model as a Relax module with static shapes, and that module as tasks and a graph of layers.

``load`` tells ONNX (``onnx``), Relay texts (``relay``), PyTorch (``torch``), built-in ``models`` and Relax apart.
``fuse`` makes one function of each layer, ``extract`` reads tasks and vector work off the functions (through ``tir``),
``layers`` the graph that the planner cuts. A function that is no task is named with the reason and stays on the host.
"""

from tvm_spm.frontend.calls import ENTRY
from tvm_spm.frontend.extract import Extraction, extract
from tvm_spm.frontend.fuse import fuse
from tvm_spm.frontend.inputs import random_inputs
from tvm_spm.frontend.layers.graph import NetworkLayers, layer_graph
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
