"""A run's learning curves as one picture."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2166ac", "#d6604d", "#8c8c8c"


def draw_curves(rows: list[dict[str, str]], path: Path, title: str) -> None:
    """Loss and top-1 by epoch, the recipe's steps side by side, from the rows of `metrics.csv`; a PNG at `path`."""
    figure = Figure(figsize=(9, 6.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, top1_axes = figure.subplots(2, 1, sharex=True)
    epochs = [row for row in rows if row["event"] == "epoch"]
    steps = list(dict.fromkeys(row["step"] for row in epochs))
    start, bounds = 0.0, []
    for place, step in enumerate(steps):
        own = [row for row in epochs if row["step"] == step]
        x = [start + float(row["epoch"]) for row in own]
        evaluated = [(at, row) for at, row in zip(x, own, strict=True) if row["val_top1"]]
        label = place == 0
        for axes, key in ((loss_axes, "loss"), (top1_axes, "top1")):
            axes.plot(x, [float(row[f"train_{key}"]) for row in own], color=GREY, lw=1.4, label="training" * label)
            axes.plot(
                [at for at, _ in evaluated],
                [float(row[f"val_{key}"]) for _, row in evaluated],
                color=(BLUE, ORANGE)[key == "top1"],
                lw=1.8,
                marker="o" if len(evaluated) < 25 else None,
                ms=3.5,
                label="evaluation" * label,
            )
        bounds.append((start, x[-1], step, evaluated))
        start = x[-1]
    for begin, end, step, evaluated in bounds:
        for axes in (loss_axes, top1_axes):
            if begin:
                axes.axvline(begin, color="black", lw=0.8, ls=":")
        loss_axes.annotate(
            step,
            ((begin + end) / 2, 1),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
        )
        if evaluated:
            at, row = evaluated[-1]
            top1_axes.annotate(
                f"{float(row['val_top1']):.2f} %",
                (at, float(row["val_top1"])),
                (-4, -14),
                textcoords="offset points",
                ha="right",
                color=ORANGE,
                fontweight="bold",
            )
    figure.suptitle(title)
    loss_axes.set_ylabel("loss")
    top1_axes.set_ylabel("top-1 accuracy (%)")
    top1_axes.set_xlabel("epochs")
    for axes in (loss_axes, top1_axes):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
