"""Relay text, version 0.0.5, as a Relax module.

The text is cut into tokens (``tokens``), read by a LALR grammar (``parse``, ``grammar.lark``) into a tree (``tree``),
and run on tensors that are only named (``evaluate``), which leaves the operators (``operators``) as Relax bindings.
"""

from tvm_spm.frontend.relay.load import import_relay
from tvm_spm.frontend.relay.operators import OPERATORS
from tvm_spm.frontend.relay.params import ParamsLike
from tvm_spm.frontend.relay.recognise import RelayModule, relay_text

__all__ = ["OPERATORS", "ParamsLike", "RelayModule", "import_relay", "relay_text"]
