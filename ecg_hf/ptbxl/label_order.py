"""The names of a data set's labels, which travel with it: by them labels find the logits they belong to."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence

import datasets

_LINE = "Labels, in order: "


def name_labels(dataset: datasets.Dataset, names: Sequence[str]) -> datasets.Dataset:
    """The data set with the names of the columns of `labels` in a line of its description, in place of other names.

    The description goes through `select`, `map`, `concatenate_datasets` and `save_to_disk`, but not through Parquet.
    """
    named = copy.deepcopy(dataset)  # of the description; rows are shared
    lines = [line for line in (named.info.description or "").splitlines() if not line.startswith(_LINE)]
    named.info.description = "\n".join([*lines, _LINE + json.dumps(list(names))])
    return named


def label_names_of(dataset: datasets.Dataset) -> list[str] | None:
    """The names of the columns of `labels`; None if nobody has written them down.

    Raises `ValueError` where data sets with different labels were put together.
    """
    lines = set(re.findall(rf"^{_LINE}(.*)$", dataset.info.description or "", flags=re.MULTILINE))
    if len(lines) > 1:
        raise ValueError(
            f"Records with different labels were put together: {' and '.join(sorted(lines))}. Bring their labels into "
            "one order first."
        )
    return json.loads(lines.pop()) if lines else None


__all__ = ["label_names_of", "name_labels"]
