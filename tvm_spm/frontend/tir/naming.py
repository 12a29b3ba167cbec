"""Which loop dim a piece of an iteration variable is, told from the tensors it indexes."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_spm.frontend.tir.affine import Affine, Piece

Form = tuple[Affine, ...]
"""The indices of one tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Pieces by the tensors they index.

    Attributes:
        rows: Index I and O: batch and output position.
        cols: Index W and O: output channels.
        shared: Index all three: groups.
        summed: Are summed over.
        pairs: (row, summed) that share an axis of I: a sliding window.
        slides: Whether I has an axis of a sliding window, one of extent 1 included.
        input: Indices of I.
        weight: Indices of W.
        swapped: Whether I is the second factor of the product.
    """

    rows: tuple[Piece, ...]
    cols: tuple[Piece, ...]
    shared: tuple[Piece, ...]
    summed: tuple[Piece, ...]
    pairs: tuple[tuple[Piece, Piece], ...]
    slides: bool
    input: Form
    weight: Form
    swapped: bool

    @classmethod
    def of(cls, first: Form, second: Form, out: Form, pieces: tuple[Piece, ...]) -> Roles | str:
        """Sort the pieces of a product of two tensors, or say which one has no role."""
        swapped = _windows(second) > 0 and not _windows(first)
        data, weight = (second, first) if swapped else (first, second)
        in_data, in_weight, in_out = _used(data), _used(weight), _used(out)
        groups: dict[str, list[Piece]] = {"rows": [], "cols": [], "shared": [], "summed": []}
        for piece in pieces:
            i, w, o = piece in in_data, piece in in_weight, piece in in_out
            if piece.reduces:
                if not (i and w) and piece.extent > 1:
                    where = "only I" if i else "only W" if w else "no tensor"
                    return f"loop {piece.position} is summed over but indexes {where}"
                groups["summed"].append(piece)
            elif piece.extent > 1 and not (o and (i or w)):
                return f"loop {piece.position} indexes {'only the output' if o else 'no output'}"
            elif i or w:
                groups["shared" if i and w else "rows" if i else "cols"].append(piece)
        pairs = _pairs(data, set(groups["rows"]), set(groups["summed"]))
        slides = bool(pairs)
        if len(pairs) > 2:
            pairs = [pair for pair in pairs if max(piece.extent for piece in pair) > 1]
        if len(pairs) > 2:
            return f"a window slides along {len(pairs)} axes, two are supported"
        return cls(
            **{name: tuple(found) for name, found in groups.items()},
            pairs=tuple(pairs), slides=slides, input=data, weight=weight, swapped=swapped,
        )  # fmt: skip


def name_pieces(roles: Roles) -> dict[Piece, str] | str:
    """One loop dim per piece; a piece of extent 1 may get none. Two pieces never share a dim.

    Relevance is not told by the name but by the projections, so a fourth row loop may well be called ``G``.
    """
    names: dict[Piece, str] = {}
    windows = (("OY", "FY"), ("OX", "FX"))[-len(roles.pairs) :] if roles.pairs else ()
    for (row, tap), (out, filt) in zip(roles.pairs, windows, strict=True):
        names[row], names[tap] = out, filt
    rows = [piece for piece in roles.rows if piece not in names]
    wanted: list[tuple[Piece, tuple[str, ...]]] = []
    if roles.pairs or len(rows) > 3:
        wanted += [(piece, ("N", "OY", "OX", "G", "K")) for piece in rows]
    else:
        slots = {0: (), 1: ("OX",), 2: ("N", "OX"), 3: ("N", "OY", "OX")}[len(rows)]
        names.update(zip(rows, slots, strict=True))
    wanted += [(piece, ("K", "G", "OY", "N", "OX")) for piece in roles.cols]
    wanted += [(piece, ("G", "N", "OY", "OX", "K")) for piece in roles.shared]
    wanted += [(piece, ("C", "FY", "FX")) for piece in roles.summed if piece not in names]
    for piece, choices in sorted(wanted, key=lambda want: want[0].extent == 1):
        free = [name for name in choices if name not in names.values()]
        if free:
            names[piece] = free[0]
        elif piece.extent > 1:
            return f"more loops than loop dims: loop {piece.position} of extent {piece.extent} is one of {len(wanted)}"
    return names


def _used(form: Form) -> set[Piece]:
    return {piece for index in form for piece, _ in index.terms}


def _windows(form: Form) -> int:
    """Axes that a summed piece and another piece index together."""
    return sum(
        any(piece.reduces for piece, _ in index.terms) and any(not piece.reduces for piece, _ in index.terms)
        for index in form
    )


def _pairs(data: Form, rows: set[Piece], summed: set[Piece]) -> list[tuple[Piece, Piece]]:
    found = []
    for index in data:
        row = [piece for piece, _ in index.terms if piece in rows]
        taps = [piece for piece, _ in index.terms if piece in summed]
        if len(row) == 1 and len(taps) == 1:
            found.append((row[0], taps[0]))
    return found
