"""Small Relay texts, run through Relax, and the tables that go with them."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import tvm
from tvm import relax

from tvm_spm.frontend.relay import import_relay

CODES = {"i": 0, "u": 1, "f": 2}
HEADER = '#[version = "0.0.5"]\n'


def array_bytes(array):
    """One array as TVM stores it, written from the table of the format."""
    array = np.asarray(array)
    code = 1 if array.dtype == bool else CODES[array.dtype.kind]
    bits = 1 if array.dtype == bool else array.dtype.itemsize * 8
    data = np.ascontiguousarray(array).tobytes()
    head = struct.pack("<QQiiiBBH", 0xDD5E40F096B4A13F, 0, 1, 0, array.ndim, code, bits, 1)
    return head + struct.pack(f"<{array.ndim}q", *array.shape) + struct.pack("<Q", len(data)) + data


def param_dict_bytes(arrays):
    """What ``relay.save_param_dict`` writes."""
    names = b"".join(struct.pack("<Q", len(name)) + name.encode() for name in arrays)
    lists = b"".join(array_bytes(array) for array in arrays.values())
    count = struct.pack("<Q", len(arrays))
    return struct.pack("<QQ", 0xF7E58D4F05049CB7, 0) + count + names + count + lists


def metadata(*arrays):
    """The table of ``meta[relay.Constant][i]``."""
    nodes = [
        {"type_key": ""},
        {"type_key": "Map", "keys": ["relay.Constant"], "data": [2]},
        {"type_key": "Array", "data": [3 + i for i in range(len(arrays))]},
        *({"type_key": "relay.Constant", "attrs": {"data": str(i), "span": "0"}} for i in range(len(arrays))),
    ]
    encoded = [base64.b64encode(array_bytes(array)).decode() for array in arrays]
    table = {"root": 1, "nodes": nodes, "b64ndarrays": encoded, "attrs": {"tvm_version": "0.14.0"}}
    return "\n#[metadata]\n" + json.dumps(table, indent=2)


def type_of(array):
    dims = ", ".join(str(extent) for extent in array.shape)
    return f"Tensor[({dims}), {array.dtype}]"


def function(body, inputs):
    """``main`` over named arrays, with the header."""
    params = ", ".join(f"%{name}: {type_of(array)}" for name, array in inputs.items())
    return f"{HEADER}def @main({params}) {{\n{body}\n}}\n"


def execute(mod, arrays):
    """Outputs of a module, compiled for this machine and not by the code under test."""
    executable = relax.build(relax.transform.LegalizeOps()(mod), "llvm")
    found = relax.VirtualMachine(executable, tvm.cpu())["main"](*(tvm.runtime.tensor(a) for a in arrays))
    return [part.numpy() for part in (found if not hasattr(found, "numpy") else [found])]


def run(text, inputs, params=None):
    """Outputs of a text; ``inputs`` in the order of its parameters."""
    return execute(import_relay(text, params=params, origin="text"), list(inputs.values()))


def outputs(expressions, inputs, *, constants=(), weights=None):
    """Value of each expression over the same inputs, all in one module."""
    body = f"  ({', '.join(expressions)},)" if len(expressions) == 1 else f"  ({', '.join(expressions)})"
    text = function(body, inputs | (weights or {})) + (metadata(*constants) if constants else "")
    return run(text, inputs, params=weights)
