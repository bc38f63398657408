"""How do the forecasters of sinusoids fare on measured series, beside the usual statistical models?

    pip install -e '.[series]'
    python experiments/forecast_series.py                          # 3 CPU minutes
    python experiments/forecast_series.py outputs/runs/learned_prior

Three series that ship with statsmodels: sunspots a year, the sea surface temperature of El Nino a month, and carbon dioxide
at Mauna Loa (monthly means of a weekly record with gaps; the gaps stay). 100 samples are known, 10 are forecast, from
`--origins` places evenly spread. MASE is the mean absolute error over that of the seasonal naive forecast within the 100
samples: 1 is as good as repeating the last season there. Writes table.md to outputs/studies/forecast_series.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavebase import console, study
from wavebase.experiment import build
from wavebase.models import bayes, esprit, linear_prediction, matching_pursuit, preparation, sparse_bayes
from wavebase.records.atomic import atomic_write
from wavebase.records.folder import RunFolder

LOOKBACK, HORIZON, NOISE, PERIODS = 100, 10, 0.1, (10, 99)
Forecaster = Callable[
    [np.ndarray, int], np.ndarray
]  # of windows [origins, 100] and a season to forecasts [origins, 10]


def series() -> dict[str, tuple[np.ndarray, int]]:
    """Return each series with the length of its season in samples."""
    from statsmodels.datasets import co2, elnino, sunspots

    weekly = co2.load_pandas().data["co2"]
    months = elnino.load_pandas().data.drop(columns="YEAR").to_numpy(dtype=float).ravel()
    return {
        "sunspots": (sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(dtype=float), 11),
        "El Nino": (months[np.isfinite(months)], 12),
        "CO2": (weekly.resample("MS").mean().to_numpy(dtype=float), 12),
    }


def statistical(fit: Callable[[np.ndarray, int], Any]) -> Forecaster:
    """Make a forecaster of a function that fits a model of statsmodels to one window without gaps."""

    def forecaster(windows: np.ndarray, season: int) -> np.ndarray:
        filled = preparation.fill(torch.from_numpy(windows)).numpy()
        with warnings.catch_warnings():  # of an optimiser that stops early: its forecast is judged all the same
            warnings.simplefilter("ignore")
            return np.stack([np.asarray(fit(window, season).forecast(HORIZON)) for window in filled])

    return forecaster


def autoregression(window: np.ndarray, season: int) -> Any:
    """Fit an autoregression of up to two seasons whose lags the AIC chooses."""
    from statsmodels.tsa.ar_model import ar_select_order

    return ar_select_order(window, 2 * season).model.fit()


def exponential_smoothing(window: np.ndarray, season: int) -> Any:
    """Fit Holt and Winters' additive exponential smoothing with a damped trend."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    return ExponentialSmoothing(window, trend="add", damped_trend=True, seasonal="add", seasonal_periods=season).fit()


def seasonal_arima(window: np.ndarray, season: int) -> Any:
    """Fit SARIMA (1,0,1)(0,1,1), the seasonal model with the usual orders."""
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    return SARIMAX(window, order=(1, 0, 1), seasonal_order=(0, 1, 1, season)).fit(disp=False, maxiter=30)


def ours(net: torch.nn.Module) -> Forecaster:
    """Make a forecaster of a net."""

    def forecaster(windows: np.ndarray, season: int) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(windows)).double().numpy()

    return forecaster


def forecasters(folders: list[Path]) -> Mapping[str, Forecaster]:
    """Everyone who forecasts, by name."""
    sizes, usual = (LOOKBACK, HORIZON, torch.float64), {"noise": NOISE, "robust": True}

    def naive(windows: np.ndarray, season: int) -> np.ndarray:
        last = preparation.fill(torch.from_numpy(windows)).numpy()[:, -season:]
        return last[:, np.arange(HORIZON) % season]

    found: dict[str, Forecaster] = {
        "zero": lambda windows, season: np.zeros((len(windows), HORIZON)),
        "last value": lambda windows, season: naive(windows, 1),
        "seasonal naive": naive,
        "AutoReg": statistical(autoregression),
        "exponential smoothing": statistical(exponential_smoothing),
        "SARIMA": statistical(seasonal_arima),
        "linear prediction": ours(linear_prediction.build(*sizes, **usual)),  # type: ignore[arg-type]
        "group OMP": ours(matching_pursuit.build(*sizes, **usual)),  # type: ignore[arg-type]
        "ESPRIT": ours(esprit.build(*sizes, **usual)),  # type: ignore[arg-type]
        "sparse Bayes": ours(sparse_bayes.build(*sizes, **usual)),  # type: ignore[arg-type]
        "Bayes": ours(bayes.build(*sizes, periods=PERIODS, **usual)),  # type: ignore[arg-type]
    }
    for folder in folders:
        net = build.load_run(RunFolder(folder))[1].net
        if hasattr(net, "robust"):
            net.robust = True
        found[folder.name] = ours(net)
    return found


def mase(forecast: np.ndarray, windows: np.ndarray, futures: np.ndarray, season: int) -> tuple[float, float]:
    """Return the mean absolute scaled error over all origins and steps, and its standard error over origins."""
    naive = np.nanmean(np.abs(windows[:, season:] - windows[:, :-season]), 1)
    scaled = np.nanmean(np.abs(forecast - futures), 1) / naive
    return float(scaled.mean()), float(scaled.std(ddof=1) / len(scaled) ** 0.5)


def main() -> None:
    torch.set_num_threads(1)
    words = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folders", nargs="*", type=Path, help="runs of trained nets on noisy task B")
    words.add_argument("--origins", type=int, default=12)
    asked = words.parse_args()
    for folder in asked.folders:
        if not folder.is_dir():
            words.error(f"no folder {folder}")
    try:
        data = series()
    except ImportError:
        words.error("statsmodels is wanted, got none; pip install -e '.[series]'")
    rows: dict[str, list[str]] = {}
    for x, season in data.values():
        starts = np.linspace(0, len(x) - LOOKBACK - HORIZON, asked.origins).astype(int)
        cut = np.stack([x[start : start + LOOKBACK + HORIZON] for start in starts])
        windows, futures = cut[:, :LOOKBACK], cut[:, LOOKBACK:]
        for name, forecaster in forecasters(asked.folders).items():
            value, error = mase(forecaster(windows, season), windows, futures, season)
            rows.setdefault(name, []).append(f"{value:.2f} +- {1.96 * error:.2f}")
    lines = ["| MASE | " + " | ".join(f"{name} (season {season})" for name, (_, season) in data.items()) + " |"]
    lines.append("|---|" + "---|" * len(data))
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    atomic_write(
        study.FOLDER / "forecast_series" / "table.md", lambda file: file.write("\n".join([*lines, ""]).encode())
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
