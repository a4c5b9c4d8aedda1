#!/bin/sh
# `vitaldb` reads WFDB records of a fractional rate with holes, and moves what follows them by a sample.
#
# Versions: vitaldb 1.7.2, wfdb 4.3.1, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1; Python 3.11.
#
# `vitaldb` reads WFDB records beside its own format, and knows those of MIMIC-IV by name: monitors of intensive care,
# ECG at 249.89 Hz, with date and time of the first sample. It takes the samples from `wfdb`.
#
# One would guess that it gives the samples that `wfdb` gives.
#
# What happens: samples are cut into pieces of 249, about a second each, and put together again by their times in
# seconds since 1970. Such a number is not exact, and is rounded up to the next sample: four pieces in ten come one
# sample late. A NaN stands before a late piece, its last sample is lost, and its R waves are moved. There is no
# warning. A filter makes NaN of the whole record. Without the date the holes are fewer; at 250 Hz all is right.
#
# Output seen:
#     10 minutes of lead II          samples   NaN   other than wfdb   greatest error   NaN after a filter
#     249.89 Hz, with date and time  149934    257   39563             0.37 mV          all
#     249.89 Hz, without             149934    6     903               0.37 mV          all
#     250 Hz, with date and time     150000    0     0                 0.00 mV          none
#     vitaldb cuts holes into fractional rates: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check vitaldb==1.7.2 wfdb==4.3.1 numpy==2.4.6 \
    pandas==2.3.3 scipy==1.17.1
cd "$folder"
mkdir data
OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import datetime
import sys

import numpy as np
import scipy.signal
import vitaldb
import wfdb

MINUTES = 10
START = datetime.datetime(2180, 7, 23, 8, 12, 33, 361000)


def ecg(times):
    """75 beats a minute, P, QRS and T in uV."""
    phase = (times + 0.3) % 0.8 - 0.3
    waves = ((-0.16, 0.02, 150), (-0.02, 0.006, -120), (0.0, 0.01, 1100), (0.025, 0.008, -250), (0.28, 0.05, 300))
    return sum(height * np.exp(-(((phase - middle) / width) ** 2)) for middle, width, height in waves)


print("10 minutes of lead II          samples   NaN   other than wfdb   greatest error   NaN after a filter")
results = []
for rate, start in ((249.89, START), (249.89, None), (250, START)):
    samples = np.rint(ecg(np.arange(int(MINUTES * 60 * rate)) / rate)).astype(np.int16)
    described = {"fs": rate, "units": ["mV"], "sig_name": ["II"], "base_datetime": start, "write_dir": "data"}
    wfdb.wrsamp("record", d_signal=samples[:, None], fmt=["16"], adc_gain=[1000], baseline=[0], **described)
    expected = wfdb.rdsamp("data/record")[0][:, 0]
    read = vitaldb.VitalFile("data/record.hea").to_numpy(["II"], 1 / rate)[:, 0]
    gaps = np.isnan(read)
    errors = np.abs(read[: len(expected)] - expected)[~gaps[: len(expected)]]
    low = scipy.signal.butter(2, 40, fs=rate, output="sos")
    lost = np.isnan(scipy.signal.sosfiltfilt(low, read)).mean()
    holes, other, greatest = gaps.sum(), (errors > 1e-4).sum(), errors.max()
    results.append((holes, other, greatest, lost))
    name = f"{rate} Hz, with{' date and time' if start else 'out'}"
    filtered = {1.0: "all", 0.0: "none"}.get(lost, f"{lost:.0%}")
    print(f"{name:30} {len(read):<9} {holes:<5} {other:<17} {greatest:.2f} mV          {filtered}")

dated, undated, whole = results
still = dated[0] > 100 and dated[1] > 10000 and dated[2] > 0.1 and dated[3] == undated[3] == 1
if still and not any(whole[:2]) and whole[3] == 0:
    print("vitaldb cuts holes into fractional rates: still so")
else:
    sys.exit("vitaldb cuts holes into fractional rates: no longer so")
END
