"""TensorBoard events, written by the run's own thread, so that the run notices an error of the disk.

One summary a step, where torch's SummaryWriter writes one a number. By default about twenty tags are written: those that
say what became of the algorithm. metrics.jsonl holds all of them.
"""

from __future__ import annotations

import io
import math
import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wavebase.records.atomic import open_regular

# Tags that are written by default, by regular expressions; a run adds those of its watched weight and its intended blocks.
MAIN = re.compile(
    r"loss/(train|held_out)$|baseline/|error/training$|task/(?!relative_error|worst_window)|leakage/weight_hh_cell$|"
    r"position/(distance|block_\w+)$|curvature/(lambda_max|boundary|preconditioned|preconditioned_boundary)$|moved/changed$|"
    r"function/quadratic_form_error$|mechanism/(mode_phase|masked_error)$|optim/lr$|log10/"
)
# Categories of the custom scalars: whether they open folded, and their charts. A chart is a title and regular expressions that
# match a tag from its beginning; {weight} stands for the watched one.
OPEN, FOLDED = False, True
LAYOUT: dict[str, tuple[bool, dict[str, list[str]]]] = {
    "What became of the algorithm": (
        OPEN,
        {
            "training loss beside its baselines": [r"loss/train$", r"baseline/"],
            "relative error, held out (a zero output has 1)": [r"error/training$"],
            "drift of {weight}": [r"drift/{weight}$"],
            "lambda_max beside its boundary": [r"curvature/(lambda_max|boundary)$"],
            "preconditioned curvature beside its boundary": [r"curvature/preconditioned(_boundary)?$"],
        },
    ),
    "Beyond float32: logarithms to base 10": (FOLDED, {"log10 of what float32 cannot hold": [r"log10/"]}),
    "Where it moved": (
        FOLDED,
        {
            "drift of {weight} by block": [r"drift/{weight}/", r"leakage/"],
            "distance from the exact weights, modulo symmetry (zero weights: 1)": [r"position/(distance|block_)"],
            "weights that changed by more than rounding": [r"moved/changed$"],
            "drift of every weight": [r"drift/(?!{weight}$)[^/]+$"],
        },
    ),
    "How it computes": (
        FOLDED,
        {
            "the function on all signals": [r"function/quadratic_form_error$"],
            "mechanism": [r"mechanism/"],
            "held-out loss": [r"loss/(held_out|relative)$"],
            "relative error of the other probe signals": [r"error/(?!training$)"],
            "the task's own numbers": [r"task/"],
            "learning rate": [r"optim/lr$"],
        },
    ),
}
FLOAT32 = (1.2e-38, 3.4e38)  # sizes beyond these would be drawn as zero or infinity


class Events:
    """One events file in a run's folder.

    Args:
        folder: The run's.
        wanted: Tags to write beside those of `MAIN`; None for all.
        suffix: The end of the file's name.

    Raises:
        FileExistsError: If the file exists already, also as a link.
    """

    def __init__(self, folder: Path, wanted: Collection[str] | None = (), suffix: str = "0"):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._Event, self._Summary, self._wanted = Event, Summary, wanted
        self.logarithms: set[str] = set()  # tags that left float32's range
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{suffix}"
        self._writer = RecordWriter(open_regular(folder / name, "xb"))
        self._writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def shows(self, tag: str) -> bool:
        """Return whether a tag is written."""
        return self._wanted is None or tag in self._wanted or MAIN.match(tag) is not None

    def scalars(self, step: int, values: Mapping[str, float | None], seconds: float) -> set[str]:
        """Record named numbers of one step, at a time in seconds since 1970; None becomes nan.

        A number that float32 cannot hold is left out, and log10/<tag> holds its logarithm, from then on at every step.

        Returns:
            The tags that left float32's range for the first time: their earlier steps have no logarithm yet.
        """
        shown = {tag: math.nan if value is None else value for tag, value in values.items() if self.shows(tag)}
        beyond = {tag for tag, value in shown.items() if not holds(value)}
        new = beyond - self.logarithms
        self.logarithms |= new
        numbers = {tag: value for tag, value in shown.items() if tag not in beyond}
        numbers |= logarithms(shown, self.logarithms)
        every = [self._Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        if every:
            self._add(step, self._Summary(value=every), seconds)
        return new

    def image(self, tag: str, step: int, png: bytes) -> None:
        """Record a picture."""
        from PIL import Image

        width, height = Image.open(io.BytesIO(png)).size
        picture = self._Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=4)
        self._add(step, self._Summary(value=[self._Summary.Value(tag=tag, image=picture)]), time.time())

    def charts(self, tags: Iterable[str], weight: str) -> None:
        """Record the layout of the custom scalars: the charts of `LAYOUT` that one of these tags belongs to.

        Args:
            tags: Those that are written; others are ignored.
            weight: The watched one.
        """
        from tensorboard.plugins.custom_scalar import layout_pb2

        shown = [tag for tag in tags if self.shows(tag)]
        shown += [f"log10/{tag}" for tag in shown]  # may be needed later, and the layout is read once
        categories = []
        for category, (closed, charts) in LAYOUT.items():
            found = []
            for title, patterns in charts.items():
                named = [pattern.replace("{weight}", re.escape(weight)) for pattern in patterns]
                if any(re.match(pattern, tag) for pattern in named for tag in shown):
                    lines = layout_pb2.MultilineChartContent(tag=named)
                    found.append(layout_pb2.Chart(title=title.replace("{weight}", weight), multiline=lines))
            if found:
                categories.append(layout_pb2.Category(title=category, chart=found, closed=closed))
        layout = layout_pb2.Layout(category=categories).SerializeToString()
        self._add(0, self._of_plugin("custom_scalars__config__", "custom_scalars", b"", [layout]), time.time())

    def text(self, tag: str, step: int, markdown: str) -> None:
        """Record a text."""
        self._add(step, self._of_plugin(f"{tag}/text_summary", "text", b"", [markdown.encode()]), time.time())

    def start_session(self, settings: Mapping[str, Any]) -> None:
        """Record a run's settings as a row of the HParams tab: from now on it has one, finished or not."""
        from google.protobuf.struct_pb2 import Value  # type: ignore[import-untyped]
        from tensorboard.plugins.hparams import plugin_data_pb2

        info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for key, value in settings.items():
            if isinstance(value, bool):
                known = Value(bool_value=value)
            elif isinstance(value, int | float):
                known = Value(number_value=value)
            else:
                known = Value(string_value=str(value))
            info.hparams[key].CopyFrom(known)
        self._hparams("session_start_info", session_start_info=info)

    def end_session(self, succeeded: bool) -> None:
        """Record that a run has ended, and whether its loss stayed finite."""
        from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

        status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
        info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        self._hparams("session_end_info", session_end_info=info)

    def columns(self, settings: Mapping[str, bool], results: Iterable[str]) -> None:
        """Record which columns the HParams tab has, for all runs below this folder.

        Args:
            settings: Names, in order, and whether the values are numbers.
            results: Tags of scalars, in order.
        """
        from tensorboard.plugins.hparams import api_pb2

        kinds = {True: api_pb2.DATA_TYPE_FLOAT64, False: api_pb2.DATA_TYPE_STRING}
        hparams = [api_pb2.HParamInfo(name=name, type=kinds[number], differs=True) for name, number in settings.items()]
        metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in results]
        experiment = api_pb2.Experiment(hparam_infos=hparams, metric_infos=metrics, time_created_secs=time.time())
        self._hparams("experiment", experiment=experiment)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _hparams(self, tag: str, **content: Any) -> None:
        from tensorboard.plugins.hparams import plugin_data_pb2

        data = plugin_data_pb2.HParamsPluginData(version=0, **content).SerializeToString()
        self._add(None, self._of_plugin(f"_hparams_/{tag}", "hparams", data), time.time())

    def _of_plugin(self, tag: str, plugin: str, content: bytes, texts: Sequence[bytes] = ()) -> Any:
        """Return a summary for one of TensorBoard's plugins; its own helpers need TensorFlow."""
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
        value = self._Summary.Value(tag=tag, metadata=about)
        if texts:
            tensor = TensorProto(dtype="DT_STRING", string_val=texts, tensor_shape=TensorShapeProto())
            value.tensor.CopyFrom(tensor)
        return self._Summary(value=[value])

    def _add(self, step: int | None, summary: Any, seconds: float) -> None:
        event = self._Event(wall_time=seconds, summary=summary)
        if step is not None:
            event.step = step
        self._writer.write(event.SerializeToString())


def holds(value: float) -> bool:
    """Return whether float32 can hold a number; what is not finite is held as it is."""
    return value == 0 or not math.isfinite(value) or FLOAT32[0] <= abs(value) <= FLOAT32[1]


def logarithms(values: Mapping[str, float | None], tags: Collection[str]) -> dict[str, float]:
    """Return log10/<tag> of the positive values of these tags."""
    return {
        f"log10/{tag}": math.log10(value)
        for tag, value in values.items()
        if tag in tags and value is not None and 0 < value < math.inf
    }
