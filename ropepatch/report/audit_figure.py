"""An audit as a picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ropepatch.errors import UsageError
from ropepatch.report.text import clean

if TYPE_CHECKING:
    from ropepatch.audit.result import Audit


def png(result: Audit) -> bytes:
    """Length by depth for each variant side by side, one row of maps a task.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UsageError("a picture needs matplotlib", hint="pip install 'ropepatch[plot]'") from None
    columns, rows = len(result.variants), len(result.tasks)
    figure = Figure(
        figsize=(1.2 + 2.9 * columns, 0.9 + (0.9 + 0.42 * len(result.lengths)) * rows), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    image: Any = None
    for row, task in enumerate(result.tasks):
        for column, variant in enumerate(result.variants):
            image = _map(axes[row][column], result, variant, task)
            axes[row][column].set_title(clean(f"{variant}: {task}"), fontsize=10)
        axes[row][0].set_ylabel("tokens")
    for axis in axes[-1]:
        axis.set_xlabel("depth")
    figure.colorbar(image, ax=axes, label="found", shrink=0.9)
    figure.suptitle(f"trained on {result.trained:,} tokens, {result.samples} texts a cell", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _map(axis: Any, result: Audit, variant: str, task: str) -> Any:
    import numpy as np

    cells = {(c["length"], c["depth"]): c for c in result.cells if (c["variant"], c["task"]) == (variant, task)}
    values = np.full((len(result.lengths), len(result.depths)), np.nan)
    for y, length in enumerate(result.lengths):
        for x, depth in enumerate(result.depths):
            cell = cells.get((length, depth))
            if cell is None:
                continue
            if cell["status"] != "measured":
                axis.text(x, y, "-", ha="center", va="center", fontsize=7)
                continue
            values[y, x] = cell["k"] / cell["n"]
            dark = values[y, x] < 0.6
            axis.text(x, y, str(cell["k"]), ha="center", va="center", fontsize=7, color="white" if dark else "black")
    image = axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(result.depths)), [f"{depth:.2g}" for depth in result.depths], fontsize=7)
    axis.set_yticks(range(len(result.lengths)), [f"{length:,}" for length in result.lengths], fontsize=7)
    return image
