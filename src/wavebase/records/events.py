"""TensorBoard events, written by the run's own thread, so that the run notices an error of the disk.

One summary a step, where torch's SummaryWriter writes one a number.
"""

from __future__ import annotations

import io
import math
import os
import re
import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from wavebase.records.atomic import open_regular

# charts of TensorBoard's custom scalars: title, and regular expressions that match a tag from its beginning
CHARTS = {
    "loss beside its baselines": [r"loss/(train|held_out)$", r"baseline/"],
    "relative error of each probe signal": [r"error/"],
    "drift of each weight": [r"drift/[^/]+$"],
    "lambda_max beside its boundary": [r"curvature/(lambda_max|boundary)$"],
    "preconditioned curvature beside its boundary": [r"curvature/preconditioned(_boundary)?$"],
}


class Events:
    """One events file in a run's folder. Raises FileExistsError if it exists already, also as a link."""

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._Event, self._Summary = Event, Summary
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._writer = RecordWriter(open_regular(folder / name, "xb"))
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def scalars(self, step: int, values: Mapping[str, float | None], seconds: float) -> None:
        """Record named numbers of one step, at a time in seconds since 1970; None becomes nan."""
        numbers = [
            self._Summary.Value(tag=tag, simple_value=math.nan if value is None else value)
            for tag, value in values.items()
        ]
        self._add(step, self._Summary(value=numbers), seconds)

    def image(self, tag: str, step: int, png: bytes) -> None:
        """Record a picture."""
        from PIL import Image

        width, height = Image.open(io.BytesIO(png)).size
        picture = self._Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
        self._add(step, self._Summary(value=[self._Summary.Value(tag=tag, image=picture)]), time.time())

    def charts(self, tags: Collection[str]) -> None:
        """Record the layout of the custom scalars: those of `CHARTS` that one of these tags belongs to."""
        from torch.utils.tensorboard.summary import custom_scalars

        charts = {
            title: ["Multiline", patterns]
            for title, patterns in CHARTS.items()
            if any(re.match(pattern, tag) for pattern in patterns for tag in tags)
        }
        self._add(0, custom_scalars({"wavebase": charts}), time.time())

    def text(self, tag: str, step: int, markdown: str) -> None:
        """Record a text."""
        from torch.utils.tensorboard.summary import text

        self._add(step, text(tag, markdown), time.time())

    def hparams(self, hparams: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Record settings and results for the table of hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams as hparams_summary

        settings = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in hparams.items()
        }
        for summary in hparams_summary(settings, dict(metrics)):
            self._add(None, summary, time.time())
        self.scalars(0, metrics, time.time())

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _add(self, step: int | None, summary: Any, seconds: float) -> None:
        event = self._Event(wall_time=seconds, summary=summary)
        if step is not None:
            event.step = step
        self._writer.write(event.SerializeToString())
