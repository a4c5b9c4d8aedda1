#!/bin/sh
# A cast of `datasets` to class names in another order keeps the numbers, so that AF becomes sinus rhythm.
#
# Versions: datasets 5.2.0; Python 3.11.
#
# Two hospitals have the same classes in another order. `concatenate_datasets` refuses them, as their features differ;
# so one casts the second to the features of the first.
#
# One would guess that the cast goes by the names: a record of class AF is AF afterwards, or the cast is refused.
#
# What happens: the numbers stay, and take the names of the new order. All records of the second hospital get the label
# of another class, with neither a warning nor an error, by `cast` and by `cast_column`; so do classes of which one is
# new. A cast to text gives the numbers as text, not the names. `align_labels_with_mapping` goes by the names.
#
# Output seen:
#     first hospital                       AF AF SR SR SR paced         0 of 6 wrong
#     second hospital                      AF AF SR SR SR paced         0 of 6 wrong
#     concatenate_datasets: The features can't be aligned because the key rhythm ...
#     cast to the first one's features     SR SR AF AF AF paced         5 of 6 wrong
#     cast_column                          SR SR AF AF AF paced         5 of 6 wrong
#     ... with a class more                SVT SVT AF AF AF SR          6 of 6 wrong
#     both hospitals: {'SR': 5, 'AF': 5, 'paced': 2} instead of {'SR': 6, 'AF': 4, 'paced': 2}
#     cast to text: 0 0 1 1 1 2
#     align_labels_with_mapping            AF AF SR SR SR paced         0 of 6 wrong
#     datasets exchanges classes: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python -W error - <<'END'
import sys

import datasets
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

datasets.disable_progress_bars()
RHYTHMS = ["AF", "AF", "SR", "SR", "SR", "paced"]


def hospital(names):
    classes = ClassLabel(names=names)
    records = {"rhythm": [classes.str2int(rhythm) for rhythm in RHYTHMS]}
    return Dataset.from_dict(records, features=Features({"rhythm": classes}))


def rhythms(dataset):
    feature = dataset.features["rhythm"]
    return [feature.int2str(cell) if isinstance(feature, ClassLabel) else cell for cell in dataset["rhythm"][:]]


def show(name, dataset):
    found = rhythms(dataset)
    wrong = sum(one != other for one, other in zip(found, RHYTHMS, strict=True))
    print(f"{name:36} {' '.join(found):28} {wrong} of {len(RHYTHMS)} wrong")
    return wrong


first, second = hospital(["SR", "AF", "paced"]), hospital(["AF", "SR", "paced"])
wrong = [show("first hospital", first), show("second hospital", second)]
try:
    concatenate_datasets([first, second])
    refused = False
except ValueError as error:
    refused = True
    print("concatenate_datasets:", str(error).split(" of features")[0] + " ...")
exchanged = [
    show("cast to the first one's features", second.cast(first.features)),
    show("cast_column", second.cast_column("rhythm", first.features["rhythm"])),
    show("... with a class more", second.cast_column("rhythm", ClassLabel(names=["SVT", "AF", "SR", "paced"]))),
]
both = concatenate_datasets([first, second.cast(first.features)])
counts = {name: rhythms(both).count(name) for name in ("SR", "AF", "paced")}
print("both hospitals:", counts, "instead of", {name: 2 * RHYTHMS.count(name) for name in counts})
as_text = rhythms(second.cast_column("rhythm", Value("string")))
print("cast to text:", " ".join(as_text))
mapping = {name: number for number, name in enumerate(first.features["rhythm"].names)}
aligned = show("align_labels_with_mapping", second.align_labels_with_mapping(mapping, "rhythm"))

if wrong == [0, 0] and refused and exchanged == [5, 5, 6] and as_text == list("001112") and aligned == 0:
    print("datasets exchanges classes: still so")
else:
    sys.exit("datasets exchanges classes: no longer so")
END
