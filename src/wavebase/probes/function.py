"""Does the net still compute what it is asked, on the training signal and away from it?"""

from __future__ import annotations

from wavebase.probes.snapshot import Snapshot


def held_out_error(snapshot: Snapshot) -> dict[str, float]:
    """error/<probe signal>, the relative error of each held-out set; its worst window on the training signal; the loss
    there, plain and relative to that of the mean predictor (1 is no better than predicting the mean)."""
    values: dict[str, float] = {}
    for name, (signal, target) in snapshot.held_out.items():
        output = snapshot.predict(signal)
        metrics = snapshot.metrics(output, target)
        values[f"error/{name}"] = metrics["relative_error"]
        if name == "training":
            loss = snapshot.loss(output, target).item()
            values |= {f"task/{metric}": value for metric, value in metrics.items()}
            values |= {"loss/held_out": loss, "loss/relative": loss / snapshot.baselines["mean"]}
    return values


def held_out_metrics(snapshot: Snapshot) -> dict[str, float]:
    """<metric>/<probe signal>: every metric of the task on every held-out set, but the relative error, which is
    `held_out_error`'s."""
    values: dict[str, float] = {}
    for name, (signal, target) in snapshot.held_out.items():
        metrics = snapshot.metrics(snapshot.predict(signal), target)
        values |= {f"{metric}/{name}": value for metric, value in metrics.items() if metric != "relative_error"}
    return values
