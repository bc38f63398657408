"""An LSTM that counts: the next symbol of strings #a^n b^n#, #a^n b^n c^n# and so on, as probabilities.

Strings of L letters, each n times, n geometric, one after the other; # stands before each. Symbols are one-hot, # first. Units
of torch.nn.LSTM's cell (input gate sigmoid):

    symbol   L      c = the letter read:  g = tanh(G letter), i open, f shut, o open;  h = tanh(1) letter
    count    L - 1  c = #letter_j - #letter_(j+1):  g = tanh(G (letter_j - letter_(j+1))), i and f held open,
                    h = tanh(c) while letter_(j+1) is read (its output gate is open then only), else 0

Open is an argument G of a sigmoid, shut is -G. Once sigmoid(G) and tanh(G) round to 1 a cell counts exactly. Readout, as
log-probabilities but for a constant:

    after #              letter 1
    after letter 1       letter 1 again with probability 1 - stop, letter 2 with stop
    after letter j + 1   letter j + 1 while c_j > 0, else the next letter, # after the last

Every other symbol is `certainty` below. A smaller G leaks: f < 1 forgets n (1 - f) of a count of n at every step, and strings get
wrong from n about sqrt(0.6 / (1 - sigmoid(G))).

Idea of the counter with an output gate: Lan, Chemla and Katzir, "Bridging the empirical-theoretical gap in neural network
formal language learning using minimum description length" (2024, arXiv 2402.10013).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from wavebase.constructions.algorithm import Weights
from wavebase.constructions.handwritten import Handwritten, flip_signs, power_of_two, row_units
from wavebase.recurrence.cells import GATES
from wavebase.recurrence.lstm import lstm_sequence

SHORT, LONG = 2, 5  # letters of the two prefixes between which counts are exchanged


# long: the weights of the whole algorithm, written out in one place
def counter_construction(
    letters: int = 2,
    stop: float = 0.3,
    *,
    gain: float = 40.0,
    certainty: float = 40.0,
    longest: int = 1000,
    dtype: torch.dtype = torch.float64,
) -> Handwritten:
    """Return exact weights for the strings letter_1^n letter_2^n ... letter_L^n.

    Args:
        letters: L, at least 2; L + 1 symbols.
        stop: Probability, after a first letter, of going on to the second.
        gain: G, the argument of open gates and of candidates.
        certainty: M, by how much the logit of what is impossible lies below.
        longest: Largest n that `error_bound` covers, for strings from a zero state.

    Returns:
        weight_ih_<gate> [H, L + 1], weight_hh_<gate> [H, H], bias_<gate> [H] of the four gates, readout_weight [L + 1, H],
        readout_bias [L + 1], H = 2L - 1; blocks symbol and count. `error_bound` bounds every probability's error; it is infinite where the
        gain is too small for `longest`.

    Raises:
        ValueError: For fewer than 2 letters, a stop outside of (0, 1), or gains that are not positive and finite.
    """
    if letters < 2:
        raise ValueError(f"task.letters must be at least 2, got {letters}; use 2")
    if not 0 < stop < 1:
        raise ValueError(f"task.stop must lie between 0 and 1, got {stop}; use 0.3")
    for name, value in (("gain", gain), ("certainty", certainty)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"model.{name} must be positive and finite, got {value}; use 40")
    L, H = letters, 2 * letters - 1
    symbol, count = slice(0, L), slice(L, H)
    w: dict[str, Tensor] = {}
    for gate in GATES:
        w[f"weight_ih_{gate}"] = torch.zeros(H, L + 1, dtype=torch.float64)
        w[f"weight_hh_{gate}"] = torch.zeros(H, H, dtype=torch.float64)
        w[f"bias_{gate}"] = torch.full((H,), 0.0 if gate == "cell" else gain, dtype=torch.float64)
    letter = torch.eye(L + 1, dtype=torch.float64)[1:]  # rows: reads letter 1, .., L
    w["weight_ih_cell"][symbol] = gain * letter
    w["bias_forget"][symbol] = -gain
    w["weight_ih_cell"][count] = gain * (letter[:-1] - letter[1:])
    w["weight_ih_output"][count] = 2 * gain * letter[1:]
    w["bias_output"][count] = -gain

    unit = math.tanh(1.0)  # what a symbol unit says, and the least that a positive count does
    logit = torch.full((L + 1, L + 1), -certainty, dtype=torch.float64)  # [next, read] with a count of 0
    logit[1, 0] = 0
    logit[1, 1], logit[2, 1] = math.log1p(-stop), math.log(stop)
    for read in range(2, L + 1):
        logit[(read + 1) % (L + 1), read] = 0
    w["readout_weight"] = torch.zeros(L + 1, H, dtype=torch.float64)
    w["readout_weight"][:, symbol] = (logit[:, 1:] - logit[:, :1]) / unit
    w["readout_weight"][2:, count] = 2 * certainty / unit * torch.eye(L - 1, dtype=torch.float64)
    w["readout_bias"] = logit[:, 0].clone()
    bound = _error_bound(L, stop, gain, certainty, longest, dtype)
    return Handwritten(
        weights={name: weight.to(dtype) for name, weight in w.items()},
        unit_scale=_units(w),
        blocks={"symbol": symbol, "count": count},
        error_bound=bound,
        tolerance=100 * (bound + torch.finfo(dtype).eps) if math.isfinite(bound) else None,
        questions={"count": lambda found: _exchanged_count(found, L)},
        generators={"logits": _shift_logits},
        reflections={
            **{f"sign_{unit}": partial(_flip, unit=unit) for unit in range(H)},
            **{f"exchange_{unit}": partial(_exchange, unit=unit) for unit in range(H - 1)},
        },
    )


def _error_bound(letters: int, stop: float, gain: float, certainty: float, longest: int, dtype: torch.dtype) -> float:
    """Probability left to the impossible, and rounding of the logits, where counts are within 0.1 of whole numbers."""
    G = torch.tensor(gain, dtype=dtype)
    leak, short = (1 - G.sigmoid()).item(), (1 - G.tanh()).item()
    shut = math.exp(-gain)
    off = longest**2 * leak + longest * (leak + short)  # of a count, at the end of a string
    if off > 0.1 or leak + short + shut > 1e-4 or longest > 1 / torch.finfo(dtype).eps:
        return math.inf
    least = certainty * (
        1 - 4 * off - 20 * (leak + short + shut)
    )  # tanh(0.1)/tanh(1) is 0.13, tanh(0.9)/tanh(1) is 0.94
    loose = 8 * certainty * (leak + short + shut)
    size = certainty - math.log(stop) - math.log1p(-stop)  # of the logits' terms, which cancel down to a logarithm
    return letters * math.exp(-least) + loose + 4 * size * torch.finfo(dtype).eps


def _units(w: Weights) -> dict[str, Tensor]:
    """Drive over level: one of the symbols is on, and |h| is at most 1.

    A candidate has its drive, the gain, only at symbols that saturate it. Entries that act at others too, where its argument must be
    zero, have the unit 1, the width of tanh: otherwise the curvature there grows with the square of the gain.
    """
    units: dict[str, Tensor] = {}
    for gate in GATES:
        drive = w[f"weight_ih_{gate}"].abs().amax(1) + w[f"weight_hh_{gate}"].abs().sum(1) + w[f"bias_{gate}"].abs()
        units |= {
            f"weight_ih_{gate}": row_units(drive, 1.0),
            f"weight_hh_{gate}": row_units(drive, 1.0),
            f"bias_{gate}": power_of_two(drive),
        }
    reads = w["weight_ih_cell"] != 0
    units["weight_ih_cell"] = torch.where(reads, units["weight_ih_cell"], 1.0)
    units["weight_hh_cell"], units["bias_cell"] = torch.ones_like(w["weight_hh_cell"]), torch.ones_like(w["bias_cell"])
    row = w["readout_weight"].abs().amax(1) + w["readout_bias"].abs()
    return units | {"readout_weight": row_units(row, 1.0), "readout_bias": power_of_two(row)}


def _shift_logits(weights: Weights, t: float) -> dict[str, Tensor]:
    """All logits t higher, and t times any unit's value higher: a softmax does not see it."""
    shifted = {"readout_bias": weights["readout_bias"] + t, "readout_weight": weights["readout_weight"] + t}
    return {**weights, **shifted}


def _flip(weights: Weights, unit: int) -> dict[str, Tensor]:
    """One unit of the opposite sign, such as a counter that counts downwards: its candidate and all that reads it."""
    out_of = {f"weight_hh_{gate}": unit for gate in GATES} | {"readout_weight": unit}
    return flip_signs(weights, {"weight_ih_cell": unit, "weight_hh_cell": unit, "bias_cell": unit}, out_of)


def _exchange(weights: Weights, unit: int) -> dict[str, Tensor]:
    """A unit and the next one exchanged; all orders are made of such steps."""
    order = torch.arange(len(weights["bias_cell"]))
    order[unit : unit + 2] = order[unit : unit + 2].flip(0)
    moved = {name: weight if name.startswith("readout") else weight[order] for name, weight in weights.items()}
    for name in moved:
        if "_hh_" in name or name == "readout_weight":
            moved[name] = moved[name][:, order]
    return moved


def _exchanged_count(weights: Weights, letters: int) -> float:
    """Return how much of its effect the exchange of one counter's cell between two prefixes has; the least over counters.

    Counter j is read while letter j + 1 is. The prefixes # .. letter_j^n differ in n alone, so that with the other's cell in
    this counter a net that counts there continues letter_(j+1) just as often as the other does, and predicts what the other
    predicts. Score: 1 - ||probabilities - the other's|| / ||own - the other's|| over that continuation.
    """
    w_ih, w_hh, bias = (
        torch.cat([weights[f"{kind}_{gate}"] for gate in GATES]) for kind in ("weight_ih", "weight_hh", "bias")
    )
    one_hot = torch.eye(letters + 1).to(bias)

    def run(text: list[int], state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, hidden, cell = lstm_sequence(one_hot[text][None], *state, w_ih, w_hh, bias, "sigmoid")
        return states, (hidden, cell)

    def continued(state: tuple[Tensor, Tensor], letter: int) -> Tensor:
        hidden, _ = run([letter] * LONG, state)
        logits = hidden @ weights["readout_weight"].mT + weights["readout_bias"]
        return logits.double().softmax(-1)

    zero = bias.new_zeros(1, 2 * letters - 1)
    scores = []
    for j in range(1, letters):
        ends = []
        for n in (SHORT, LONG):
            text = [0] + [letter for letter in range(1, j + 1) for _ in range(n)]
            ends.append(run(text, (zero, zero))[1])
        for own, other in (ends, ends[::-1]):
            cell = own[1].clone()
            cell[:, letters + j - 1] = other[1][:, letters + j - 1]
            given, unchanged, wanted = (continued(state, j + 1) for state in ((own[0], cell), own, other))
            apart = float((unchanged - wanted).norm())
            scores.append(1 - float((given - wanted).norm()) / apart if apart > 1e-9 else 0.0)
    return min(scores)
