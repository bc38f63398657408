"""What a run draws: its figures, and pictures of its weights for TensorBoard. matplotlib is imported when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from wavebase.experiment.config import ProbeSettings
from wavebase.records.folder import RunFolder

WEIGHT = "weight_hh_cell"


def draw_figures(probe: ProbeSettings, folder: RunFolder, summary: Mapping[str, Any]) -> list[str]:
    """Draw the figures that a configuration names into the run's folder.

    Returns:
        The files' names below `figures`.

    Raises:
        ConfigError: For a name that is not registered.
    """
    from wavebase.figures.style import png, vector

    made = []
    for draw in probe.functions("figures"):
        if (figure := draw(folder, summary)) is not None:
            kinds = {"png": png(figure)}
            if probe.figure_format != "png":
                kinds[probe.figure_format] = vector(figure, probe.figure_format)
            for kind, content in kinds.items():
                folder.save_figure(draw.__name__, content, kind)
                made.append(f"{draw.__name__}.{kind}")
    return made


class WeightImages:
    """Pictures of a net's recurrent weights among a run's events.

    The first is drawn with the first checkpoint after its step, so that training does not wait for matplotlib.

    Args:
        folder: The run's. blocks: The construction's, whose borders are drawn.
        wanted: Whether to draw at all.
    """

    def __init__(self, folder: RunFolder, blocks: Mapping[str, slice], wanted: bool):
        self.folder, self.blocks, self.wanted = folder, blocks, wanted
        self.waiting: tuple[int, Tensor] | None = None

    def keep(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights of a step for a picture."""
        if self.wanted and WEIGHT in weights:
            self.waiting = step, weights[WEIGHT].clone()

    def draw(self) -> None:
        """Draw what was kept."""
        if self.waiting is None:
            return
        from wavebase.figures.weights import weight_image

        (step, weight), self.waiting, tag = self.waiting, None, f"weights/{WEIGHT}"
        image = weight_image(weight.cpu().numpy(), self.blocks, f"{tag} at step {step}")
        self.folder.events.image(tag, step, image)
