#!/bin/sh
# `gather_for_metrics` of accelerate drops most windows of the last records, also where there is but one process.
#
# Versions: accelerate 1.15.0, torch 2.13.0, numpy 2.4.6; Python 3.11.
#
# Long ECGs are cut into windows; a batch of records gives several outputs for each record, of which the mean is taken.
# `gather_for_metrics` collects outputs over processes, and leaves out records that were added to fill the last batch.
#
# One would guess that nothing was added in one process, so that nothing is left out; or that outputs which are not one
# for each record are refused.
#
# What happens: of the last batch as many rows are kept as it has records, whatever the rows are. Of 232 records with 10
# windows each 23 are left, and of a 24th two windows: 208 of 1,000 records take no part in the evaluation, always the
# last ones, without a warning. Where they are those of a second hospital, the sensitivity is another. The sum of
# positives of each label is cut to as many labels as the last batch has records. `gather` gives all rows, and
# so do windows that stay a dimension of their own, one row for each record.
#
# Output seen:
#     gather_for_metrics, a row for each window      792 records,   7912 windows; AF is found in 88 %
#     gather, a row for each window                 1000 records,  10000 windows; AF is found in 70 %
#     gather_for_metrics, a row for each record     1000 records,  10000 windows; AF is found in 70 %
#     processes: 1; labels of the sums in two batches: [71, 44]; warnings: 0
#     gather_for_metrics drops windows: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 venv/bin/python - <<'END'
import sys
import warnings

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

RECORDS, BATCH, WINDOWS, LABELS = 1000, 256, 10, 71
number = torch.arange(RECORDS)
hospital = (number >= 700).long()  # the last 300 records are of another hospital, where fewer are found
has_af = number % 2
draw = torch.Generator().manual_seed(0)
shift = torch.where(hospital == 1, -0.5, 2.0) * has_af
scores = shift[:, None] + torch.randn(RECORDS, WINDOWS, generator=draw)
accelerator = Accelerator(cpu=True)


def evaluate(name, gather, flat):
    """Prints and gives the numbers of records and windows, and the sensitivity of the mean over windows."""
    records, outputs = [], []
    for batch in accelerator.prepare(DataLoader(number, batch_size=BATCH)):
        own, windows = batch[:, None].expand(-1, WINDOWS), scores[batch]
        if flat:
            own, windows = own.flatten(), windows.flatten()
        own, windows = gather((own, windows))
        records.append(own.flatten())
        outputs.append(windows.flatten())
    records, outputs = torch.cat(records).numpy(), torch.cat(outputs).numpy()
    seen = np.unique(records)
    called = {record: outputs[records == record].mean() > 0.5 for record in seen}
    found = np.mean([called[record] for record in seen if has_af[record]])
    print(f"{name:44} {len(seen):5} records, {len(records):6} windows; AF is found in {100 * found:.0f} %")
    return len(seen), len(records), found


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    dropped = evaluate("gather_for_metrics, a row for each window", accelerator.gather_for_metrics, True)
    whole = evaluate("gather, a row for each window", accelerator.gather, True)
    rows = evaluate("gather_for_metrics, a row for each record", accelerator.gather_for_metrics, False)
    lengths = []
    for batch in accelerator.prepare(DataLoader(number[:300], batch_size=BATCH)):
        positives = torch.ones(LABELS)  # of each label in this batch
        lengths.append(len(accelerator.gather_for_metrics(positives)))
print(f"processes: {accelerator.num_processes}; labels of the sums in two batches: {lengths}; warnings: {len(caught)}")

last = RECORDS % BATCH
if (
    dropped[:2] == (RECORDS - last + -(-last // WINDOWS), (RECORDS - last) * WINDOWS + last)
    and whole[:2] == rows[:2] == (RECORDS, RECORDS * WINDOWS)
    and dropped[2] > whole[2] + 0.1
    and lengths == [71, 44]
    and not caught
):
    print("gather_for_metrics drops windows: still so")
else:
    sys.exit("gather_for_metrics drops windows: no longer so")
END
