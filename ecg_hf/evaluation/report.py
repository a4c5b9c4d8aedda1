"""`report.md`: what `report.json` says, in sentences and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..ecg_transformer.common_ecg_transformer import REGRESSION, SINGLE_LABEL
from ..runs.progress import METRIC_NAMES
from .calibration import TEMPERATURES
from .changes import INPUT_RATES, MAINS_HERTZ
from .figures import FOLDER, LABELS, PRECISION_RECALL, RELIABILITY, ROBUSTNESS, SUBGROUPS
from .measures import MIN_POSITIVES, Areas, Errors
from .operating_points import RATES, STORED

MAX_ROWS = 20
"""Labels of one table; the others are in `report.json`."""

_RATE_NAMES = {"ppv": "PPV", "f1": "F1"}
_INTERVALS = (
    "In brackets are 95 % intervals for the mean value that test sets of this size would give: patients drawn anew, "
    "same model."
)


def report_text(report: Mapping, measure: Areas | Errors, figures: Sequence[str]) -> str:
    """The whole file; `figures` are the names of those that were drawn."""
    sections = [_head(report), _metrics(report), _comparison(report, measure), _operating_points(report)]
    sections += [_calibration(report), _subgroups(report, measure), _robustness(report, measure)]
    pictures = {1: (LABELS, PRECISION_RECALL), 4: (RELIABILITY,), 5: (SUBGROUPS,), 6: (ROBUSTNESS,)}
    texts = []
    for place, lines in enumerate(sections):
        texts += lines
        texts += [_picture(name) for name in pictures.get(place, ()) if name in figures]
    return "\n\n".join(texts) + "\n"


def _picture(name: str) -> str:
    return f"![{name.replace('_', ' ').capitalize()}]({FOLDER}/{name}.png)"


def _head(report: Mapping) -> Iterator[str]:
    yield f"# Evaluation of {report['model']}"
    metrics = report["metrics"]
    yield (
        f"{metrics['num_records']:,} records of {report['num_patients']:,} patients: the split `{report['split']}` of "
        f"{report['data']}. A record whose patient is unknown counts as one of its own. {_INTERVALS}"
    )
    if report["split"] == "validation":
        yield (
            "**These are the validation records**, on which epoch, thresholds and temperature are chosen: all figures "
            "are optimistic. Judge the model on the test split."
        )
    if report["split"] == "train":
        yield "**These are the training records**: the figures say how well the model remembers them."


# ---- Metrics ----


def _metrics(report: Mapping) -> Iterator[str]:
    metrics = report["metrics"]
    yield "## Metrics"
    names = [name for name in metrics["intervals"] if name not in ("calibration_error", "brier_score")]
    yield _table(["", "value"], ([METRIC_NAMES.get(name, name), _of(metrics["intervals"][name])] for name in names))
    is_regression = report["problem_type"] == REGRESSION
    count = "num_known" if is_regression else "num_positive"
    of_labels = ("mae", "rmse", "r2") if is_regression else ("auroc", "auprc")
    rows = [
        [name, values[count], values["num_known"], *(_with_ends(values, metric) for metric in of_labels)]
        for name, values in metrics["per_label"].items()
    ]
    head = ["label", "positives", "known", *(METRIC_NAMES.get(name, name.upper()) for name in of_labels)]
    if is_regression:
        head, rows = [head[0], *head[2:]], [[row[0], *row[2:]] for row in rows]
    yield from _limited(head, rows, [values[count] for values in metrics["per_label"].values()])
    if undefined := [name for name, values in metrics["per_label"].items() if values[of_labels[-1]] is None]:
        yield f"Undefined, and left out of the means, for want of differing records: {', '.join(undefined)}."


# ---- Another checkpoint ----


def _comparison(report: Mapping, measure: Areas | Errors) -> Iterator[str]:
    found = report["metrics"].get("comparison")
    if found is None:
        return
    yield f"## Compared with {found['model']}"
    rows = [
        [METRIC_NAMES[name], _of(report["metrics"]["intervals"][name]), f"{other:.3f}", _of(difference, "+.3f")]
        for (name, other), difference in zip(found["other"].items(), found["difference"].values(), strict=True)
    ]
    yield _table(["", report["model"], found["model"], "difference"], rows)
    yield (
        f"Both were judged on these records; {measure.better} is better. The interval of a difference comes from the "
        "same random halves of the patients for both. Where it holds 0, these records do not tell which is better. It "
        "is for other patients and these two models: another seed of the training may differ by more."
    )


def difference_text(found: Mapping) -> str:
    """What [`comparison.compare`] found, in one line."""
    return ", ".join(f"{METRIC_NAMES[name]} {_of(of_name, '+.3f')}" for name, of_name in found["difference"].items())


# ---- Operating points ----


def _operating_points(report: Mapping) -> Iterator[str]:
    yield "## Operating points"
    points = report["operating_points"]
    if points is None:
        kind = "numbers" if report["problem_type"] == REGRESSION else "the most probable class is the answer"
        yield f"There are none: a model of this kind has no thresholds ({kind})."
        return
    targets = points["targets"]
    titles = {
        "max_f1": "Best F1 on validation",
        "sensitivity": f"Sensitivity of at least {targets['sensitivity']:g} on validation",
        "specificity": f"Specificity of at least {targets['specificity']:g} on validation",
        STORED: "Thresholds of the checkpoint" + ("" if points["has_stored"] else " (none: 0.5 for each label)"),
    }
    if points["chosen_on"] is None:
        yield "No threshold was chosen, since there are no validation records; those of the checkpoint are judged."
    else:
        yield (
            f"Thresholds chosen on the {points['num_validation_records']:,} validation records, and what they do on "
            f"the {report['split']} records. A finding is called present at its threshold or above."
        )
    yield (
        "Intervals of sensitivity, specificity and PPV have the wider ends of Wilson's interval, with the patients as "
        "trials, and that of random halves of the patients; of F1 that of the halves. PPV and F1 hold for the "
        "frequencies of these records."
    )
    counts = [values["num_positive"] for values in report["metrics"]["per_label"].values()]
    head = ["label", "threshold", *(_RATE_NAMES.get(rate, rate) for rate in RATES)]
    for rule, found in points["rules"].items():
        yield f"### {titles[rule]}"
        rows = [_point_row(name, values) for name, values in found.items()]
        yield from _limited(head, rows, counts)


def _point_row(name: str, values: Mapping | None) -> list[str]:
    if values is None:
        return [name, "none", *[""] * len(RATES)]
    return [name, f"{values['threshold']:.3f}", *(_of(values[rate]) for rate in RATES)]


# ---- Calibration ----


def _calibration(report: Mapping) -> Iterator[str]:
    yield "## Calibration"
    found = report["calibration"]
    if found is None:
        yield "There is none: numbers have no probabilities."
        return
    if found["fitted_on"] is None:
        yield "No temperature was fitted, since there are no validation records."
    else:
        fitted = found["fitted_temperature"]
        yield (
            f"The temperature {fitted:.4g}, by which the logits of windows are divided before they are aggregated, "
            "has the lowest cross-entropy on the validation records. "
            + (
                "All other figures of this report are at it."
                if found["is_used"]
                else "All other figures of this report are at that of the checkpoint; `--fit_temperature` takes the "
                "fitted one."
            )
        )
        if not TEMPERATURES[0] * 1.01 < fitted < TEMPERATURES[1] / 1.01:
            yield "It stands at the end of what is searched: the validation records are too few, or too easy, for one."
        if found["is_written"]:
            thresholds = (
                ", with the thresholds of the best F1 at it; a label without one keeps the checkpoint's own, brought "
                "to this temperature"
            )
            yield f"It was written into the checkpoint{thresholds if report['operating_points'] else ''}."
    rows = [
        [
            *(name, f"{values['temperature']:.4g}", _of(values["calibration_error"]), _of(values["brier_score"])),
            f"{values['validation_loss']:.4f}" if "validation_loss" in values else "",
        ]
        for name, values in found["curves"].items()
    ]
    yield _table(["", "temperature", "calibration error", "Brier score", "cross-entropy on validation"], rows)
    if "uncalibrated" in found["curves"]:
        yield "*Before* is at the temperature that the checkpoint has already, *uncalibrated* at 1, without one."
    classes = " of each class against the rest" if report["problem_type"] == SINGLE_LABEL else " of all labels"
    yield (
        f"The calibration error is the mean difference between probability and share of positives over ten bins of "
        f"the probabilities{classes} (0 is perfect). A temperature changes how sure the model is, not how often it "
        "says yes: what lies on one side of the diagonal stays there."
    )


# ---- Groups ----


def _subgroups(report: Mapping, measure: Areas | Errors) -> Iterator[str]:
    yield "## Groups of records"
    if not report["subgroups"]:
        yield "None was looked at: name columns of the records' table by `--subgroup_columns`."
        return
    yield (
        f"Means over the labels that have at least {MIN_POSITIVES} {measure.counted} in the group; in italics those "
        "of all records over the same labels, since groups with other labels have other means. AUPRC also follows how "
        "frequent a label is in a group."
        if isinstance(measure, Areas)
        else f"Means over the targets with at least {MIN_POSITIVES} {measure.counted} in the group; in italics those "
        "of all records over the same targets."
    )
    head = ["group", "records", "patients", "labels", measure.counted, *measure.names.values()]
    for column, found in report["subgroups"].items():
        yield f"### {column}"
        rows = [
            [
                group,
                *(f"{values[name]:,}" for name in ("num_records", "num_patients", "num_labels", "num_counted")),
                *(f"{_of(values[name])}, *{values['all_records'][name]:.3f}*" for name in measure.names),
            ]
            for group, values in found["groups"].items()
        ]
        if rows:
            yield _table(head, rows)
        if found["left_out"]:
            named = ", ".join(f"{_cell(group)} ({count:,})" for group, count in found["left_out"].items())
            yield f"Without a label that has {MIN_POSITIVES} {measure.counted} (records): {named}."


# ---- Robustness ----


def _robustness(report: Mapping, measure: Areas | Errors) -> Iterator[str]:
    yield "## Robustness"
    found = report["robustness"]
    if found is None:
        yield "Not looked at: `--robustness true` judges the model on the same records with faults and noise."
        return
    if found["changes"] is None:
        yield f"No label has at least {MIN_POSITIVES} {measure.counted} among {found['num_records']:,} records."
        return
    values = " and ".join(f"{title} {found['unchanged'][name]:.3f}" for name, title in measure.names.items())
    yield (
        f"{found['num_records']:,} records, unchanged and with one change each; unchanged they have {values}, over "
        f"the {found['num_labels']} labels with at least {MIN_POSITIVES} {measure.counted}. Differences to that, with "
        f"intervals over the same halves of the patients; {'less' if measure.better == 'higher' else 'more'} is worse."
    )
    rows = [
        [change["title"], *(_of(change[name], "+.3f") for name in measure.names)]
        for change in found["changes"].values()
    ]
    yield _table(["change", *measure.names.values()], rows)
    yield (
        "A missing lead is flat at 0 mV. Noise arises at electrodes, so that leads share it; amplitudes are those of "
        f"one electrode. Records at another rate than {' or '.join(map(str, INPUT_RATES))} Hz are resampled to it and "
        f"by the model back to its own. At 100 Hz, {MAINS_HERTZ} Hz hum is just at the limit of what samples can show."
    )
    if found["left_out"]:
        yield f"Left out, since some records lack the leads: {', '.join(found['left_out'])}."


# ---- Cells ----


def _limited(head: Sequence[str], rows: Sequence[Sequence[object]], counts: Sequence[int]) -> Iterator[str]:
    """A table of the rows with the highest counts, in their order, and a line about the others."""
    shown = set(sorted(range(len(rows)), key=lambda row: -counts[row])[:MAX_ROWS])
    yield _table(head, (row for place, row in enumerate(rows) if place in shown))
    if hidden := len(rows) - len(shown):
        yield f"{hidden} more, with smaller counts, are in `report.json`."


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(cell: object) -> str:
    return " ".join(str(cell).replace("|", "\\|").split())


def _of(interval: Mapping[str, float | None] | None, form: str = ".3f") -> str:
    if interval is None or interval["value"] is None:
        return "undefined"
    ends = "" if interval["low"] is None else f" [{interval['low']:{form}}, {interval['high']:{form}}]"
    return f"{interval['value']:{form}}{ends}"


def _with_ends(values: Mapping, name: str) -> str:
    low, high = values.get(f"{name}_interval") or (None, None)
    return _of({"value": values[name], "low": low, "high": high})


__all__ = ["MAX_ROWS", "difference_text", "report_text"]
