#!/bin/sh
# A code that is not among the names of a `ClassLabel` of datasets becomes the class at that place.
#
# Versions: datasets 5.2.0, numpy 2.4.6; Python 3.11.
#
# The statements of many ECG data sets are numbers: AHA codes (1 normal, 22 sinus bradycardia, 50 atrial
# fibrillation, ...), Minnesota codes. A study takes some of them, as the names of a `ClassLabel`, and casts the
# column of codes.
#
# One would guess that a record with a code which was not taken is refused, as "XX" is; or that it has no class.
#
# What happens: the code is taken for a place among the names. Without a warning a normal ECG, code 1, gets the second
# name, sinus bradycardia; code 3, abnormal, the fourth, atrial premature complexes. So do all ways tried:
# `cast_column`, features given to `from_dict`, `map`, `load_dataset` of a CSV file and `str2int`. A code that is higher
# than the number of names, and a name in letters, are refused.
#
# Output seen:
#     names: 21 22 23 30 50
#     code    cast_column   from_dict     map           load_dataset  str2int
#     50      50            50            50            50            50
#     22      22            22            22            22            22
#     1       22            22            22            22            22
#     3       30            30            30            30            30
#     147     refused       refused       refused       refused       refused
#     XX      refused       refused       refused       refused       refused
#     of 600 records sinus bradycardia is said of 450, and 150 have it
#     datasets takes codes for places: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 numpy==2.4.6
cd "$folder"
export HF_HUB_OFFLINE=1 HF_HOME="$folder/home" HF_DATASETS_DISABLE_PROGRESS_BARS=1
venv/bin/python -W error::UserWarning - <<'END'
import sys
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value, load_dataset

NAMES = ["21", "22", "23", "30", "50"]  # sinus tachycardia, sinus bradycardia, sinus arrhythmia, atrial premature, AF
label = ClassLabel(names=NAMES)
features = Features({"code": label})


def as_text(codes):
    return Dataset.from_dict({"code": codes}, features=Features({"code": Value("string")}))


def cast_column(code):
    return as_text([code]).cast_column("code", label)["code"][0]


def from_dict(code):
    return Dataset.from_dict({"code": [code]}, features=features)["code"][0]


def by_map(code):
    return as_text([code]).map(lambda record: {"code": record["code"]}, features=features)["code"][0]


def from_csv(code):
    Path(f"{code}.csv").write_text(f"code\n{code}\n")
    return load_dataset("csv", data_files=f"{code}.csv", features=features, split="train")["code"][0]


ways = {
    "cast_column": cast_column,
    "from_dict": from_dict,
    "map": by_map,
    "load_dataset": from_csv,
    "str2int": label.str2int,
}
print("names:", *NAMES)
print(f"{'code':8}" + "".join(f"{name:14}" for name in ways).rstrip())
seen = {}
for code in ("50", "22", "1", "3", "147", "XX"):
    seen[code] = []
    for way in ways.values():
        try:
            seen[code].append(NAMES[way(code)])
        except Exception as error:  # the error of another package may be wrapped
            assert "nvalid" in f"{error} {error.__cause__}", error
            seen[code].append("refused")
    print(f"{code:8}" + "".join(f"{text:14}" for text in seen[code]).rstrip())

codes = ["1"] * 300 + ["21"] * 100 + ["22"] * 150 + ["50"] * 50
given = as_text(codes).cast_column("code", label)["code"][:]
called = [NAMES[place] == "22" for place in given]
right = sum(code == "22" for code in codes)
print(f"of {len(codes)} records sinus bradycardia is said of {sum(called)}, and {right} have it")
expected = {"50": "50", "22": "22", "1": "22", "3": "30", "147": "refused", "XX": "refused"}
if seen == {code: [text] * len(ways) for code, text in expected.items()} and sum(called) == 450:
    print("datasets takes codes for places: still so")
else:
    sys.exit("datasets takes codes for places: no longer so")
END
