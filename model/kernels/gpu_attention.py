"""The attention on a GPU, in Triton. Imported only where Triton is installed."""

import triton
import triton.language as tl


@triton.jit
def attend(
    keys, weights, affine, second, bias, match, ends, out, C, L, d,
    HIDDEN: tl.constexpr, WIDTH: tl.constexpr, CANDIDATES: tl.constexpr, TILE: tl.constexpr,
    MATCHED: tl.constexpr, PRODUCT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the (C, d) readouts of one user for `CANDIDATES` of the candidates; grid (blocks of candidates, B).

    A tile of behaviours is fetched once; hidden layer and weights of it live and die in registers. Products and
    sigmoids add up in float32, whatever the inputs are; `PRODUCT` is the type in which they are multiplied.
    """
    user = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * CANDIDATES + tl.arange(0, CANDIDATES)
    j = tl.arange(0, WIDTH)
    wanted = (c < C)[:, None] & (j < d)[None, :]
    end = tl.load(ends + user)
    keys += user * L * d
    weights += user * HIDDEN * C * d
    affine += user * HIDDEN * C
    match += user * C * L
    out += user * C * d
    readout = tl.zeros((CANDIDATES, WIDTH), tl.float32)
    for start in range(0, end, TILE):
        place = start + tl.arange(0, TILE)
        there = place < end
        k = tl.load(keys + place[:, None] * d + j[None, :], mask=there[:, None] & (j < d)[None, :], other=0.0)
        k = k.to(PRODUCT)
        logit = tl.zeros((CANDIDATES, TILE), tl.float32) + tl.load(bias).to(tl.float32)
        for unit in tl.static_range(HIDDEN):
            row = unit * C + c
            w = tl.load(weights + row[:, None] * d + j[None, :], mask=wanted, other=0.0)
            constant = tl.load(affine + row, mask=c < C, other=0.0).to(tl.float32)
            pre = tl.dot(w.to(PRODUCT), tl.trans(k), input_precision=PRECISION) + constant[:, None]
            logit += tl.load(second + unit).to(tl.float32) * tl.sigmoid(pre)
        if MATCHED:
            at = match + c[:, None] * L + place[None, :]
            logit += tl.load(at, mask=(c < C)[:, None] & there[None, :], other=0.0).to(tl.float32)
        # Beyond the end k is zero, so those weights add nothing.
        readout += tl.dot(tl.sigmoid(logit).to(PRODUCT), k, input_precision=PRECISION)
    tl.store(out + c[:, None] * d + j[None, :], readout.to(out.dtype.element_ty), mask=wanted)
