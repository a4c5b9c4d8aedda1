"""Draws the README's pictures into this folder: `python training/guides/figures.py MODEL RECORD`.

`stages.svg` shows the two stages, `ecg.png` the record with the model's findings and where the first one comes from.
In the README the model is `hub_cards/ecg-transformer-ptbxl-100hz-superdiagnostic`, and the record
`simulated/records100/00000/00051_lr` of its section *Try it*, with hypertrophy (LVH) and ischaemia (ISC_).
"""

import argparse
import io
import pathlib

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from transformers import pipeline

from ecg_hf import plot_ecg, read_ecg
from ecg_hf.inference.attribution import explain

FROZEN, TRAINED, SKIPPED = "#dfe8f1", "#fbd9a5", "#ffffff"
EDGE, TEXT = "#444444", "#222222"
LEADS, SECONDS, DOTS_PER_INCH = ("II", "V1", "V5", "V6"), 5, 90
NUM_BLOCKS, WIDTH, HEIGHT = 4, 1.25, 1.0


def box(axes, left: float, bottom: float, text: str, color: str, dashed: bool = False) -> None:
    style = {"facecolor": color, "edgecolor": EDGE, "linestyle": "--" if dashed else "-", "linewidth": 1}
    axes.add_patch(FancyBboxPatch((left, bottom), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.12", **style))
    axes.text(left + WIDTH / 2, bottom + HEIGHT / 2, text, ha="center", va="center", fontsize=9, color=TEXT)


def arrow(axes, start: float, end: float, y: float, curve: float = 0.0) -> None:
    style = {"arrowstyle": "-|>", "color": EDGE, "linewidth": 1, "connectionstyle": f"arc3,rad={curve}"}
    axes.annotate("", (end, y), (start, y), arrowprops=style)


def stage(axes, bottom: float, title: str, blocks: str, skipped: tuple[int, ...]) -> None:
    """One row: windows, patches, the encoder's blocks, head, findings."""
    step, middle = WIDTH + 0.35, bottom + HEIGHT / 2
    axes.text(0, bottom + HEIGHT + 0.55, title, fontsize=10.5, weight="bold", color=TEXT)
    names = ["patches", *(f"block {number + 1}" for number in range(NUM_BLOCKS)), "new head"]
    axes.text(0, middle, "ECG\nwindows", ha="left", va="center", fontsize=9, color=TEXT)
    left = 1.1
    for place, name in enumerate(names):
        is_head, is_skipped = place == len(names) - 1, place - 1 in skipped
        color = TRAINED if is_head else SKIPPED if is_skipped else blocks
        arrow(axes, left - 0.33, left - 0.02, middle)
        box(axes, left, bottom, name, color, dashed=is_skipped)
        if is_skipped:
            arrow(axes, left - 0.25, left + WIDTH + 0.3, bottom + HEIGHT + 0.08, curve=-0.22)
        left += step
    arrow(axes, left - 0.33, left - 0.02, middle)
    axes.text(left + 0.05, middle, "labels", ha="left", va="center", fontsize=9, color=TEXT)


def draw_stages() -> Figure:
    figure = Figure(figsize=(8.6, 4.1))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(-0.1, 11.6), ylim=(-1.0, 4.6), aspect="equal")
    axes.axis("off")
    stage(axes, 2.6, "1. Linear probe: only the head is trained, on features of the frozen encoder", FROZEN, ())
    title = "2. Fine-tuning with stochastic depth: all weights are trained, blocks are skipped at random"
    stage(axes, 0.1, title, TRAINED, (2,))
    for left, color, name in (
        (0, FROZEN, "frozen"),
        (1.6, TRAINED, "trained"),
        (3.3, SKIPPED, "skipped for this record"),
    ):
        style = {"facecolor": color, "edgecolor": EDGE, "linestyle": "--" if color == SKIPPED else "-"}
        axes.add_patch(FancyBboxPatch((left, -0.8), 0.32, 0.32, boxstyle="square,pad=0", linewidth=1, **style))
        axes.text(left + 0.45, -0.65, name, va="center", fontsize=9, color=TEXT)
    return figure


def draw_ecg(model: str, path: str) -> Image.Image:
    """Half of a record, with what speaks for its first finding; in few colours, which make the file small."""
    classifier = pipeline("ecg-classification", model=model)
    findings, record = classifier(path), read_ecg(path)
    (found,) = explain(classifier.model, classifier.feature_extractor, record, findings[0]["label"])
    rows, samples = [found.lead_names.index(name) for name in LEADS], int(SECONDS * found.sampling_rate)
    figure = plot_ecg(
        found.signal[rows, :samples],
        sampling_rate=found.sampling_rate,
        lead_names=LEADS,
        title=f"A simulated ECG: where {findings[0]['name']} comes from",
        findings=findings,
        marks=found.smoothed()[rows, :samples] * found.sampling_rate,
        marks_unit="logit per second, orange for the finding, blue against it",
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DOTS_PER_INCH)
    return Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a post-trained checkpoint")
    parser.add_argument("record", help="an ECG file")
    arguments = parser.parse_args()
    folder = pathlib.Path(__file__).parent
    matplotlib.rcParams["svg.hashsalt"] = "ecg_hf"  # the same bytes each time
    draw_stages().savefig(folder / "stages.svg", metadata={"Date": None}, facecolor="white")
    draw_ecg(arguments.model, arguments.record).save(folder / "ecg.png", optimize=True)


if __name__ == "__main__":
    main()
