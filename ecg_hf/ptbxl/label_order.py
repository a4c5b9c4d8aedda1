"""The names of a data set's labels, which travel with it: by them labels find the logits they belong to."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence

import datasets

_LINE = "Labels, in order: "


def name_labels(
    dataset: datasets.Dataset | datasets.DatasetDict, names: Sequence[str]
) -> datasets.Dataset | datasets.DatasetDict:
    """The data set, or each split, with the names of the columns of `labels` in a line of its description, in place of
    other names.

    The description goes through `select`, `map`, `concatenate_datasets` and `save_to_disk`, but not through Parquet.
    Raises `ValueError` for names that are there twice.
    """
    if isinstance(dataset, Mapping):
        return type(dataset)({name: name_labels(split, names) for name, split in dataset.items()})
    names = [names] if isinstance(names, str) else list(names)
    if len(set(names)) < len(names):
        raise ValueError(f"`names` has a name twice: {', '.join(names)}.")
    named = copy.deepcopy(dataset)  # of the description; rows are shared
    lines = [line for line in (named.info.description or "").splitlines() if not line.startswith(_LINE)]
    named.info.description = "\n".join([*lines, _LINE + json.dumps(names)])
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
