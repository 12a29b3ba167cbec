"""Relay texts that are read, and those that are refused with a place and a way out."""

from __future__ import annotations

import io
import logging
import time

import numpy as np
import pytest

from tests.relay_cases import HEADER, array_bytes, execute, function, metadata, outputs, param_dict_bytes, run
from tvm_spm.errors import ModelError
from tvm_spm.frontend import load_model
from tvm_spm.frontend.relay import import_relay, relay_text
from tvm_spm.frontend.relay.parse import parse
from tvm_spm.frontend.relay.source import MAX_PROGRAM_BYTES, MAX_TEXT_BYTES, Source, split_metadata
from tvm_spm.frontend.relay.tokens import tokens

X = np.arange(6, dtype="float32").reshape(2, 3)
TYPE = "Tensor[(2, 3), float32]"
DENSE = "  nn.dense(%x, %w, units=4)"
W = np.arange(12, dtype="float32").reshape(4, 3)


def read(text, **options):
    return import_relay(text, origin="net.relay", **options)


def refusal(text, **options):
    with pytest.raises(ModelError) as caught:
        read(text, **options)
    return str(caught.value)


def main(body, params=f"%x: {TYPE}"):
    return f"{HEADER}def @main({params}) {{\n{body}\n}}\n"


def locals_of(text):
    return [str(t) for t in tokens(Source(origin="t", program=text)) if t.type == "LOCAL"]


# --- what is read


def test_graph_form_let_form_and_inline_calls_mean_the_same():
    forms = (
        "  %0 = negative(%x);\n  add(%0, %0)",
        "  let %a = negative(%x);\n  let %b: Tensor[(2, 3), float32] = add(%a, %a);\n  %b",
        "  add(negative(%x), negative(%x))",
        "  %0 = {\n    let %a = negative(%x);\n    %a\n  };\n  %0 + %0",
    )
    for form in forms:
        np.testing.assert_array_equal(run(main(form), {"x": X})[0], -2 * X)


def test_functions_by_name_by_variable_and_fused():
    text = f"""{HEADER}def @inner(%a: {TYPE}, Compiler="ext", Primitive=1, global_symbol="inner") -> {TYPE} {{
  multiply(%a, 2f)
}}
def @main(%x: {TYPE}) -> {TYPE} {{
  %2 = fn (%p0: {TYPE} /* ty={TYPE} */, %p1: {TYPE}, Primitive=1, hash="0a") -> {TYPE} {{
    %1 = add(%p0, %p1);
    nn.relu(%1)
  }};
  %3 = %2(%x, %x);
  let %f = fn (%a) {{ negative(%a) }};
  (%3, @inner(%x), %f(%x), (fn (%b) {{ abs(%b) }})(%x))
}}
"""
    found = run(text, {"x": X})
    for value, expected in zip(found, (2 * X, 2 * X, -X, X), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_tuples_and_projections():
    body = "  %0 = (%x, (negative(%x),));\n  %1 = %0.1;\n  add(%1.0, multiply(%0.0, 3f))"
    np.testing.assert_array_equal(run(main(body), {"x": X})[0], 2 * X)
    params = f"%t: {TYPE}, %t.1: {TYPE}"  # a name that looks like a projection
    np.testing.assert_array_equal(run(main("  subtract(%t, %t.1)", params), {"t": X, "t.1": 2 * X})[0], -X)


@pytest.mark.parametrize("sign", [1, -1])
def test_if_takes_the_branch_of_the_condition(sign):
    body = "  if (greater(sum(%x), 0f)) {\n    add(%x, 1f)\n  } else {\n    multiply(%x, 2f)\n  }"
    x = sign * X
    np.testing.assert_array_equal(run(main(body), {"x": x})[0], x + 1 if sign > 0 else x * 2)


def test_operators_bind_as_in_arithmetic():
    body = "  (%x + %x * 2f - 1f, %x - %x - %x, -(%x), --3f * %x, %x < %x + 1f)"
    found = run(main(body), {"x": X})
    for value, expected in zip(found, (3 * X - 1, -X, -X, 3 * X, np.ones((2, 3), bool)), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_numbers_carry_their_types():
    texts = {
        "5": ("int32", 5), "5i64": ("int64", 5), "3000000000": ("int64", 3_000_000_000), "7i16": ("int16", 7),
        "0.5f": ("float32", 0.5), "1e-05f64": ("float64", 1e-5), "2f16": ("float16", 2), "-128": ("int32", -128),
        "inff": ("float32", np.inf), "-inff": ("float32", -np.inf), "True": ("bool", True),
    }  # fmt: skip
    found = run(f"{HEADER}def @main(%x: {TYPE}) {{ ({', '.join(texts)}) }}", {"x": X})
    for value, (dtype, expected) in zip(found, texts.values(), strict=True):
        assert (str(value.dtype), value) == (dtype, np.array(expected, dtype))


def test_names_that_the_printer_never_checks():
    names = ["c2.weight", "onnx::Conv_29", "input.1", "sequential/conv/kernel", "/c1/Conv:0", "a-b", "input:0", "v1"]
    params = ", ".join(f"%{name}: Tensor[(2), float32]" for name in names)
    total = " + ".join(f"%{name}" for name in names)
    text = f"def @main({params}) {{ {total} }}"
    assert locals_of(text) == names * 2
    assert locals_of("def @main(%a: float32, %b:float32) { %a-%b }") == ["a", "b", "a", "b"]
    assert locals_of("def @main(%a: float32) { %0 = (%a, %a); %0.1 }") == ["a", "0", "a", "a", "0"]


def test_comments_nest_and_say_nothing():
    text = main('  // ) } ;\n  /* a /* nested ( */ " ) */ negative(%x) /* ty=float32 span=/c1/Conv:0:0 */')
    np.testing.assert_array_equal(run(text, {"x": X})[0], -X)


def test_header_may_be_missing_and_an_expression_is_a_program():
    for text in (
        main("  negative(%x)").removeprefix(HEADER),
        f"{HEADER}fn (%x: {TYPE}) -> {TYPE} {{ negative(%x) }}",
        f"free_var %x: {TYPE};\n%0 = negative(%x);\n%0",
    ):
        np.testing.assert_array_equal(run(text, {"x": X})[0], -X)


def test_constants_of_every_dtype_come_from_the_metadata():
    dtypes = ("int8", "uint8", "int32", "int64", "float16", "float64")
    arrays = [np.arange(-3, 3).reshape(2, 3).astype(dtype) for dtype in dtypes]
    arrays.append(np.array([True, False]))
    found = outputs([f"meta[relay.Constant][{i}]" for i in range(len(arrays))], {"x": X}, constants=arrays)
    for value, expected in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(value, expected)
        assert value.dtype == expected.dtype


def test_parameters_in_every_form(tmp_path):
    text = function(DENSE, {"x": X, "w": W})
    file = io.BytesIO()
    np.savez(file, **{"in:x": X, "param:w": W, "out:0": X @ W.T})
    (tmp_path / "w.npz").write_bytes(file.getvalue())
    (tmp_path / "w.params").write_bytes(param_dict_bytes({"w": W}))
    forms = ({"w": W}, {"param:w": W, "in:x": X}, param_dict_bytes({"w": W}), file.getvalue(), tmp_path / "w.npz",
             str(tmp_path / "w.params"))  # fmt: skip
    for params in forms:
        mod = read(text, params=params)
        assert [var.name for var in mod["main"].params] == ["x"]
        assert int(mod["main"].attrs["num_input"]) == 1
    np.testing.assert_array_equal(execute(mod, [X])[0], X @ W.T)


def test_names_of_parameters_as_the_frontend_had_them():
    text = function("  nn.dense(%x, %v1, units=4) + %a_b", {"x": X, "v1": W, "a_b": W[:, 0]})
    assert [v.name for v in read(text, params={"1": W, "a.b": W[:, 0]})["main"].params] == ["x"]


def test_weights_that_are_not_given_are_drawn_with_a_warning(caplog):
    text = function("  %0 = nn.dense(%x, reshape(%w, newshape=[4, 3]), units=4);\n  nn.bias_add(%0, %b, axis=-1)",
                    {"x": X, "w": W, "b": W[:, 0]})  # fmt: skip
    with caplog.at_level(logging.WARNING):
        mods = [read(text) for _ in range(2)]
    assert "net.relay: 2 weights not given, drawn at random (16 elements): 'w', 'b'" in caplog.text
    assert [v.name for v in mods[0]["main"].params] == ["x"]
    first, second = (execute(mod, [X])[0] for mod in mods)
    np.testing.assert_array_equal(first, second)  # the same on every run
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read(text, params={"w": W})
    assert "1 weight not given, drawn at random (4 elements): 'b'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert [v.name for v in read(main("  add(%x, %y)", f"%x: {TYPE}, %y: {TYPE}"))["main"].params] == ["x", "y"]
    assert not caplog.records


def test_open_dims_are_given_by_name():
    text = main("  negative(%x)", "%x: Tensor[(?, 3), float32]")
    assert "net.relay: input 'x' has dims (?, 3); fix them, for example --shape x=1,3" in refusal(text)
    np.testing.assert_array_equal(execute(read(text, shapes={"x": (2, 3)}), [X])[0], -X)
    assert "did you mean 'x'?" in refusal(text, shapes={"xx": (2, 3)})


def test_models_are_told_apart(tmp_path):
    text = main("  negative(%x)")

    class Printed:
        def astext(self):
            return text

    (tmp_path / "net.relay").write_text(text)
    (tmp_path / "net.txt").write_text(text)
    (tmp_path / "other.txt").write_text("hello\n")
    for model in (text, tmp_path / "net.relay", str(tmp_path / "net.txt"), Printed()):
        np.testing.assert_array_equal(execute(load_model(model), [X])[0], -X)
    assert relay_text(tmp_path / "other.txt") is None
    assert relay_text("resnet18") is None
    with pytest.raises(ModelError, match="only a Relay text takes its weights from elsewhere"):
        load_model("resnet18", params={"w": W})


def test_reading_is_fast_and_no_text_nests_too_deep():
    lines = "\n".join(f"  %{i} = add(%{i - 1}, %x) /* ty={TYPE} */;" for i in range(1, 10_000))
    start = time.perf_counter()
    parse(Source(origin="t", program=main(f"  %0 = negative(%x);\n{lines}\n  %9999")))
    assert time.perf_counter() - start < 10  # 2 s on two busy cores
    depth = 3_000
    for opening, closing in (("negative(", ")"), ("(", ")"), ("{", "}"), ("-", "")):
        mod = read(main(f"  {opening * depth}%x{closing * depth}"))
        assert len(mod["main"].body.blocks[0].bindings) <= depth + 1
    tuples = main("  " + "(" * depth + "%x" + ",)" * depth + ".0" * depth)
    assert len(read(tuples)["main"].body.blocks[0].bindings) == 1


def test_deep_tuples_and_lists_are_refused_and_end_no_process():
    depth = 3_000
    deep = "(" * depth + "%x" + ",)" * depth
    assert "net.relay: the result is a tuple inside 64 tuples" in refusal(main(f"  {deep}"))
    branches = refusal(main(f"  if (sum(%x) > 0f) {{ {deep} }} else {{ {deep} }}"))
    assert "the branches of an if are tuples inside 64 tuples" in branches
    lists = refusal(main(f"  clip(%x, a_min={'[' * depth}{']' * depth}, a_max=1f)"))
    assert "...),),),),),)" in lists
    assert lists.endswith("expected a number")


# --- what is refused


def test_unknown_operators_are_named_with_their_place_and_the_nearest():
    assert refusal(main("  %0 = negative(%x);\n  nn.conv2dd(%0, %x)")) == (
        "net.relay:4:3: unknown operator 'nn.conv2dd': did you mean 'nn.conv2d'?"
    )
    assert "operators are known" in refusal(main("  zzzzqqq(%x)"))


@pytest.mark.parametrize(("body", "expected"), [
    ("  add(%x, 0.5i32)", ":3:11: '0.5i32' is no number"),
    ("  add(%x, 1f99)", ":3:11: '1f99': dtype float99 is not supported"),
    ("  add(%x, 300i8)", "300 does not fit int8 (-128 to 127)"),
    ("  add(%x, 1000000000000000000000)", "does not fit int64"),
    ("  (fn (%a: Tensor[(1.5), float32]) { %a })(%x)", "'1.5' is no extent of a dim"),
    ("  add(%x)", ":3:3: add: 1 arguments, 2 are needed (lhs, rhs)"),
    ("  nn.softmax(%x, axes=1)", ":3:3: nn.softmax: unknown attribute 'axes': did you mean 'axis'?"),
    ("  nn.softmax(%x, axis=4)", "nn.softmax: axis 4 of a tensor with 2 axes"),
    ('  nn.softmax(%x, axis="a")', "attribute axis = 'a': expected a whole number of 64 bits"),
    ("  nn.softmax(%x, axis=99999999999999999999)", "expected a whole number of 64 bits"),
    ("  expand_dims(%x, axis=inff)", "expected a whole number of 64 bits"),
    ("  clip(%x, a_min=0f)", "clip: attribute 'a_max' is missing"),
    ("  reshape(%x, newshape=[4])", "reshape of [2, 3] to [4]: 6 elements != 4"),
    ("  nn.relu((%x, %x))", "nn.relu: data is a tuple of 2, one tensor is needed"),
    ("  nn.dense(%x, %x, units=5)", "attribute units = 5, the weight has 2"),
    ("  add(%x, %y)", ":3:11: %y is not defined: choose one of 'x'"),
    ("  @other(%x)", ":3:3: unknown function @other"),
    ("  @main(%x)", "recursion"),
    ("  %x(%x)", "only operators and functions can be called"),
    ("  %x.0", "field .0 of something that is no tuple"),
    ("  (%x, %x).2", "field .2 of a tuple of 2"),
    ("  add", "is not called: it is no value"),
    ("  fn (%a) { %a }", "a function where a tensor is needed"),
    ("  (fn (%a) { %a })(%x, %x)", "is called with 2 arguments, it has 1 parameters"),
    ("  (fn (%a: Tensor[(3), float32]) { %a })(%x)", "%a is declared float32 (3), given float32 (2, 3)"),
    ("  if (%x) { %x } else { %x }", "the condition of an if must be one truth value"),
    ("  if (sum(%x) > 0f) { %x } else { sum(%x) }", "the branches of an if differ"),
    ("  nn.conv2d(%x, %x)", "nn.conv2d: data of shape [2, 3]: 4 axes are needed"),
    ("  match (%x) { _ => %x }", "'match': algebraic data types are not supported"),
    ("  ref(%x)", "'ref': references are not supported"),
    ("  add(%x, %x", "the text ends in the middle: was it cut off?"),
    ("  add(%x %x)", ":3:10: unexpected 'x'; expected"),
    ("  add(%x, $)", ":3:11: '$' begins nothing that Relay text has"),
    ('  cast(%x, dtype="int8)', "the string that begins here never ends"),
    ("  /* negative(%x)", "the comment that begins here never ends: was the text cut off?"),
    ("  arange(0, 1000000000000i64, 1, start=None, stop=None, step=None, dtype=\"int64\")", "a constant of"),
    ('  %x + zeros(shape=[1000000, 1000000, 3], dtype="float32")', "a constant of"),
])  # fmt: skip
def test_wrong_programs_are_refused_at_their_place(body, expected):
    text = main(body)
    text = text[: text.rindex("\n}")] if "cut off" in expected and "ends in" in expected else text
    message = refusal(text)
    assert message.startswith("net.relay:")
    assert expected in message


def test_a_text_cut_anywhere_is_refused_in_one_sentence():
    whole = main("  nn.dense(%x, meta[relay.Constant][0], units=4) /* ty=Tensor[(2, 4), float32] */") + metadata(W)
    read(whole)
    for end in range(0, len(whole.rstrip()), 7):
        assert "net.relay" in refusal(whole[:end])


def test_other_versions_are_refused():
    assert refusal('#[version = "0.0.4"]\ndef @main() { 1 }').startswith(
        'net.relay:1:14: version "0.0.4" of the text format, only "0.0.5" is read'
    )


def test_modules_without_main_and_names_that_stand_twice_are_refused():
    other = main("  negative(%x)").replace("@main", "@other")
    assert "there is no function @main (there is @other)" in refusal(other)
    assert ":5:5: function @other is defined twice" in refusal(other + other.removeprefix(HEADER))
    twice = main("  negative(%x)", f"%x: {TYPE}, %x: {TYPE}")
    assert "parameter %x is declared twice" in refusal(twice)
    assert "parameter %x: unknown dtype 'float23': did you mean 'float32'?" in refusal(main("  %x", "%x: float23"))
    assert "is no tensor of known type" in refusal(main("  %x", "%x: List[float32]"))


def test_constants_that_are_not_there_are_named():
    body = "  nn.dense(%x, meta[relay.Constant][2], units=4) + meta[relay.Constant][0]"
    assert (
        "net.relay:3:16: 2 constants are missing: meta[relay.Constant][2], meta[relay.Constant][0]; the text has no "
        "#[metadata] section: print it with mod.astext()"
    ) in refusal(main(body))
    expected = "net.relay:3:16: meta[relay.Constant][2]: the table of constants has 1 (meta[relay.Constant][2] >= 1)"
    assert expected in refusal(main(body) + metadata(W))
    text = main(body) + metadata(W, W, W)
    assert "metadata is no JSON" in refusal(text[:-40])
    assert "metadata is no table of TVM objects" in refusal(main("  %x") + "\n#[metadata]\n[1, 2]")
    assert "nests too deep" in refusal(main("  %x") + "\n#[metadata]\n" + "[" * 100_000)
    broken = metadata(W).replace("P6G0", "AAAA")
    assert "an array begins with 0xdd5e40f096b4a13f" in refusal(main(body.replace("[2]", "[0]")) + broken)


def test_wrong_parameters_are_refused():
    text = function(DENSE, {"x": X, "w": W})
    expected = "net.relay: parameter 'w': given float32 (3, 4), declared float32 (4, 3)"
    assert refusal(text, params={"w": W.T}) == expected
    assert "given float64 (4, 3), declared float32 (4, 3)" in refusal(text, params={"w": W.astype("float64")})
    assert refusal(text, params={"ww": W, "w": W, "fc": W}) == (
        "net.relay: 2 of 3 parameters given match nothing: 'ww' is given, main has none: did you mean 'w'?; "
        "nor has it 'fc'"
    )
    assert refusal(text, params={"in:x": W, "out:0": W}) == (
        "net.relay: the parameters given hold no weight (at most examples, in: and out:), and 'w' need one; "
        "pass the file that was written with this text"
    )
    assert refusal(text, params={"ww": W}) == ("net.relay: parameter 'ww' is given, main has none: did you mean 'w'?")
    assert "cannot read: No such file" in refusal(text, params="missing.npz")
    assert "neither an .npz file nor bytes of relay.save_param_dict" in refusal(text, params=b"hello")
    content = param_dict_bytes({"w": W})
    for end in range(8, len(content), 9):
        assert "was it cut off?" in refusal(text, params=content[:end])
    assert "cannot read the .npz file" in refusal(text, params=b"PK\x03\x04 no archive")
    huge = array_bytes(W).replace(np.int64(4).tobytes() + np.int64(3).tobytes(), np.int64(1 << 40).tobytes() * 2)
    assert "params: parameter 'w'" in refusal(text, params=content.replace(array_bytes(W), huge))


def test_large_files_and_tensors_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "large.relay"
    with path.open("wb") as file:
        file.write(HEADER.encode())
        file.truncate(300_000_000)  # a hole: takes no disk
    with pytest.raises(ModelError, match=f"Relay text of 300,000,000 B > {MAX_TEXT_BYTES:,} B that are read"):
        load_model(path)
    with pytest.raises(ModelError, match="Relay program of"):
        split_metadata("(" * (MAX_PROGRAM_BYTES + 1), "t")
    weights = main("  nn.dense(%x, %w, units=None)", f"%x: {TYPE}, %w: Tensor[(10000000000000, 3), float32]")
    assert "net.relay: its parameters need" in refusal(weights)
    assert "its parameters need" in refusal(function(DENSE, {"x": X, "w": W}), params={"w": W}, max_memory_bytes=50)


def test_files_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "net.relay"
    path.write_bytes(b'#[version = "0.0.5"]\n\xff\xfe')
    with pytest.raises(ModelError, match="not a Relay text: byte 21 is no UTF-8"):
        load_model(path)
    path.write_text("")
    with pytest.raises(ModelError, match="there is no function in it"):
        load_model(path)


@pytest.mark.parametrize(
    "number", ["9" * 5000, "9" * 5000 + "i64", "0." + "1" * 5000 + "f", "\u0663", "\u00b2"], ids=range(5)
)
def test_numbers_beyond_reason_are_refused(number):
    for body in (f"  add(%x, {number})", f"  reshape(%x, newshape=[{number}])", f"  split(%x, {number}).{number}"):
        assert len(refusal(main(body))) < 500
    assert len(refusal(main("  %x", params=f"%x: Tensor[({number}), float32]"))) < 500


@pytest.mark.parametrize("dtype", ["floaat32", "int8int8", "None", "float99999"])
def test_unknown_types_of_parameters_are_refused(dtype):
    assert dtype in refusal(main("  %x", params=f"%x: Tensor[(2, 3), {dtype}]"))
