"""The recurrence of a stack of nets as two Triton kernels, each one launch for the whole sequence.

Letters as in `wavebase.recurrence`. A program computes ROWS batch rows of one member; its loop over time steps is inside.
H is padded to UNITS, a power of two of 16 or more; what lies past H is loaded as zero and never stored. Products go in
chunks of CHUNK columns, in full precision ("ieee", never TF32). The weights of the first KEPT chunks are loaded before the
loop and stay in the multiprocessor's shared memory; those of the others, where not all fit, are read anew in every step.
What a step's product multiplies has just been written by the program itself, to memory, hence the barrier between them.

This module needs triton; `triton_lstm` imports it where there is a CUDA device, and calls it.
"""

# no postponed annotations: triton looks for the constexpr among them
import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """An odd polynomial where |x| < 0.625 (that of `vector.hpp` for float64), so that its error there is relative."""
    z = x * x
    p = 6.4796525839094593497e-6 * z - 0.000031189774344313343971
    p = p * z + 0.000092561128866040052658
    p = p * z - 0.00023758563980884253573
    p = p * z + 0.00058965910836350560408
    p = p * z - 0.0014557751050964237562
    p = p * z + 0.0035921217122266407159
    p = p * z - 0.008863235100174033185
    p = p * z + 0.021869488518867921194
    p = p * z - 0.053968253967893711018
    p = p * z + 0.13333333333333038628
    p = p * z - 0.33333333333333332933
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, x * z * p + x, tl.where(x < 0, -far, far))


@triton.jit(do_not_specialize=["batch", "steps"])
def forward(
    states,  # [S, N + 1, B, COLUMNS]: step n is h_{n-1}, x_n, 1 and zeros; the kernel writes h_n
    weights,  # [S, COLUMNS, UNITS, 4]: of every unit the four gates side by side
    cell,  # [S, B, H]
    last_cell,  # [S, B, H]
    tape,  # [S, N, 5, B, H]: i, f, g, o and the cell before the step; not written unless TAPE
    batch,
    steps,
    H: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEPT: tl.constexpr,
    UNITS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    TANH: tl.constexpr,
    TAPE: tl.constexpr,
):
    """All steps of ROWS rows of one member: states, the last cell, and the tape where TAPE."""
    member = tl.program_id(0).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    unit = tl.arange(0, UNITS)[None, :]
    k = tl.arange(0, CHUNK)
    real_row, real = row < batch, (row < batch) & (unit < H)
    here = row * H + unit
    plane = batch * H

    c = tl.load(cell + member * plane + here, real, 0.0)
    of_chunk = weights + member * COLUMNS * 4 * UNITS + k[:, None] * 4 * UNITS + tl.arange(0, 4 * UNITS)[None, :]
    kept = ()
    for q in tl.static_range(KEPT):
        kept = kept + (tl.load(of_chunk + q * CHUNK * 4 * UNITS),)  # noqa: RUF005  triton has no unpacking
    before = states + (member * (steps + 1) * batch + row) * COLUMNS
    tape += member * steps * 5 * plane
    for _ in range(steps):
        pre = tl.full((ROWS, 4 * UNITS), 0.0, c.dtype)
        for q in tl.static_range(KEPT):
            of_rows = tl.load(before + q * CHUNK + k[None, :], real_row, 0.0)
            pre = tl.dot(of_rows, kept[q], pre, input_precision="ieee", out_dtype=c.dtype)
        for j in range(KEPT, COLUMNS // CHUNK):
            of_rows = tl.load(before + j * CHUNK + k[None, :], real_row, 0.0)
            read = tl.load(of_chunk + j * CHUNK * 4 * UNITS)
            pre = tl.dot(of_rows, read, pre, input_precision="ieee", out_dtype=c.dtype)
        i_and_g, f_and_o = tl.split(tl.reshape(pre, (ROWS, UNITS, 2, 2)))
        i, g = tl.split(i_and_g)
        f, o = tl.split(f_and_o)
        i = _tanh(i) if TANH else _sigmoid(i)
        f, g, o = _sigmoid(f), _tanh(g), _sigmoid(o)
        if TAPE:
            tl.store(tape + here, i, real)
            tl.store(tape + plane + here, f, real)
            tl.store(tape + 2 * plane + here, g, real)
            tl.store(tape + 3 * plane + here, o, real)
            tl.store(tape + 4 * plane + here, c, real)
            tape += 5 * plane
        c = f * c + i * g
        before += batch * COLUMNS
        tl.store(before + unit, o * _tanh(c), real)
        tl.debug_barrier()
    tl.store(last_cell + member * plane + here, c, real)


# long: a Triton kernel is one function
@triton.jit(do_not_specialize=["batch", "steps"])
def backward(
    grad_states,  # [S, B, N, H]
    grad_cell,  # [S, B, H], of the last cell; overwritten by that of the first
    grad_hidden,  # [S, B, H], written: of the first hidden state
    tape,  # as `forward` wrote it
    weight_hh,  # [S, 4H, H]
    deltas,  # [S, N, B, 4H], written: of the pre-activations
    batch,
    steps,
    H: tl.constexpr,
    KEPT: tl.constexpr,
    UNITS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    TANH: tl.constexpr,
):
    """The way back over the tape: gradients of pre-activations at every step, and of the first states."""
    member = tl.program_id(0).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    unit = tl.arange(0, UNITS)[None, :]
    k = tl.arange(0, CHUNK)
    real_row, real = row < batch, (row < batch) & (unit < H)
    here = row * H + unit
    plane = batch * H

    grad_cell += member * plane + here
    dc = tl.load(grad_cell, real, 0.0)
    dh = tl.full((ROWS, UNITS), 0.0, dc.dtype)
    of_chunk = weight_hh + member * 4 * H * H + k[:, None] * H + unit
    kept = ()
    for q in tl.static_range(KEPT):
        inside = q * CHUNK + k < 4 * H
        kept = kept + (tl.load(of_chunk + q * CHUNK * H, inside[:, None] & (unit < H), 0.0),)  # noqa: RUF005
    # from the end of every member's
    grad_states += ((member * batch + row + 1) * steps) * H + unit
    tape += (member + 1) * steps * 5 * plane
    deltas += ((member + 1) * steps * batch + row) * 4 * H
    for _ in range(steps):
        grad_states -= H
        tape -= 5 * plane
        deltas -= batch * 4 * H
        i = tl.load(tape + here, real, 0.0)
        f = tl.load(tape + plane + here, real, 0.0)
        g = tl.load(tape + 2 * plane + here, real, 0.0)
        o = tl.load(tape + 3 * plane + here, real, 0.0)
        c = tl.load(tape + 4 * plane + here, real, 0.0)
        t = _tanh(f * c + i * g)
        dh += tl.load(grad_states, real, 0.0)
        dc += dh * o * (1.0 - t * t)
        tl.store(deltas + unit, dc * g * ((1.0 - i * i) if TANH else (i * (1.0 - i))), real)
        tl.store(deltas + H + unit, dc * c * f * (1.0 - f), real)
        tl.store(deltas + 2 * H + unit, dc * i * (1.0 - g * g), real)
        tl.store(deltas + 3 * H + unit, dh * t * o * (1.0 - o), real)
        dc *= f
        tl.debug_barrier()
        dh = tl.full((ROWS, UNITS), 0.0, dc.dtype)
        for q in tl.static_range(KEPT):
            inside = q * CHUNK + k < 4 * H
            of_rows = tl.load(deltas + q * CHUNK + k[None, :], real_row & inside[None, :], 0.0)
            dh = tl.dot(of_rows, kept[q], dh, input_precision="ieee", out_dtype=dc.dtype)
        for j in range(KEPT, (4 * H + CHUNK - 1) // CHUNK):
            inside = j * CHUNK + k < 4 * H
            of_rows = tl.load(deltas + j * CHUNK + k[None, :], real_row & inside[None, :], 0.0)
            read = tl.load(of_chunk + j * CHUNK * H, inside[:, None] & (unit < H), 0.0)
            dh = tl.dot(of_rows, read, dh, input_precision="ieee", out_dtype=dc.dtype)
    tl.store(grad_hidden + member * plane + here, dh, real)
    tl.store(grad_cell, dc, real)
