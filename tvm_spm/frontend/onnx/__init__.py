"""An ONNX model as a Relax module.

``load`` reads a file or a model and gives back the module. On the way a model is checked (``check``, ``tensors``), what
does not depend on the data is computed (``fold``, ``branches``), and nodes that TVM's importer lacks are written as
others: quantised ones (``quantised``, ``dequantised``), those of onnxruntime (``microsoft``), recurrent ones
(``recurrent``, ``activations``), loops of known length (``loops``, ``scans``), convolutions over volumes (``volume``).
``simplify`` folds scales and biases into the layer before them. ``operators`` is TVM's importer with what it converts
too widely; ``host`` is what ONNX's reference evaluates when the network runs.
"""
