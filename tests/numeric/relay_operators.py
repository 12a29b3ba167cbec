"""Random inputs, a convolution in numpy, and the comparison of Relay expressions with what numpy says."""

from __future__ import annotations

import itertools

import numpy as np

from tests.relay_cases import outputs

RNG = np.random.default_rng(11)


def normal(*shape):
    return RNG.standard_normal(shape).astype("float32")


def integers(low, high, *shape, dtype="int8"):
    return RNG.integers(low, high, shape).astype(dtype)


def check(cases, inputs, *, constants=(), weights=None, rtol=2e-6, atol=2e-6):
    """``cases``: expression -> what numpy says."""
    found = outputs(list(cases), inputs, constants=constants, weights=weights)
    for (expression, expected), actual in zip(cases.items(), found, strict=True):
        want = np.asarray(expected)
        assert actual.shape == want.shape, expression
        assert actual.dtype == want.dtype, expression
        if want.dtype.kind == "f":
            np.testing.assert_allclose(actual, want, rtol=rtol, atol=atol, err_msg=expression)
        else:
            np.testing.assert_array_equal(actual, want, err_msg=expression)


def conv(x, w, stride=1, pad=(0, 0, 0, 0), dilation=1, groups=1, fill=0):
    """NCHW by OIHW, one product after the other."""
    top, left, bottom, right = pad
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    batch, channels, height, width = x.shape
    outs, ins, rows, columns = w.shape
    out_h = (height - (rows - 1) * dilation - 1) // stride + 1
    out_w = (width - (columns - 1) * dilation - 1) // stride + 1
    out = np.zeros((batch, outs, out_h, out_w), np.result_type(x, w))
    for o, i, y, z in itertools.product(range(outs), range(ins), range(rows), range(columns)):
        channel = o // (outs // groups) * ins + i
        window = x[:, channel, y * dilation :, z * dilation :][:, ::stride, ::stride][:, :out_h, :out_w]
        out[:, o] += window * w[o, i, y, z]
    return out
