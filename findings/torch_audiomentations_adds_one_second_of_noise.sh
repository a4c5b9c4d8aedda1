#!/bin/sh
# `AddColoredNoise` of torch-audiomentations adds one second of noise again and again, the same to all leads.
#
# Versions: torch-audiomentations 0.12.0, torch 2.13.0, torchaudio 2.11.1, scikit-learn 1.9.1, numpy 2.4.6; Python 3.11.
#
# `AddColoredNoise` adds noise of a given signal-to-noise ratio, to make a network robust or to see how robust it is. It
# takes batches of several channels at any sampling rate.
#
# One would guess that noise is drawn for each sample of each lead, or at least for each sample.
#
# What happens: noise is drawn for one second and put behind itself to the end of the record, and all leads get it, each
# at its own height; `mode="per_channel"` draws for each lead. The noise has a rate of 60 a minute: a mean of beats at
# that rate keeps all of it, and at -3 dB all hearts of 75 /min have 60 by autocorrelation. A classifier learns to take
# one lead from another: trained and tested so at -6 dB its AUROC for ST elevation is 1.00, with independent noise .63,
# less than one has that was trained without noise. There is no warning.
#
# Output seen:
#     noise                     between   with itself    left in the mean   rate at 75 /min, -3 dB
#                               two leads 1 s later      of 10 beats
#     of the package            1.00      1.00           1.00               60
#       mode="per_channel"      0.07      1.00           1.00               60
#     independent               0.02      0.00           0.32               75
#     AUROC of ST elevation     tested with noise of the package   independent   without
#     trained with it           1.00                               0.63          1.00
#     with independent noise    0.61                               0.68          1.00
#     without                   0.62                               0.71          1.00
#     torch-audiomentations adds one second of noise: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch-audiomentations==0.12.0 torch==2.13.0 \
    torchaudio==2.11.1 scikit-learn==1.9.1 numpy==2.4.6
# the compiled part wants CUDA beside it; without that part the same functions run in Python
find "$folder/venv" -name _torchaudio.so -delete
cd "$folder"
OMP_NUM_THREADS=1 venv/bin/python -W error::UserWarning - <<'END'
import sys

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch_audiomentations import AddColoredNoise

RECORDS, RATE, SECONDS = 600, 500, 10
LEADS = torch.tensor([0.6, 1.0, -0.7, 1.3])[:, None]  # I, II, V1 and V5
ST = slice(50, 95, 5)  # samples after R


def ecgs(beats_a_minute, elevated=False):
    """Records in mV that begin with R; an elevated ST segment is .1 mV high in V5, and .05 mV in lead I."""
    phase = (torch.arange(RATE * SECONDS) / RATE + 0.3) % (60 / beats_a_minute) - 0.3
    waves = ((-0.16, 0.02, 0.12), (0.0, 0.015, 1.0), (0.035, 0.012, -0.25), (0.28, 0.05, 0.3))
    lead = sum(height * torch.exp(-(((phase - middle) / width) ** 2)) for middle, width, height in waves)
    segment = torch.exp(-(((phase - 0.15) / 0.06) ** 4)) * torch.tensor([0.05, 0, 0, 0.1])[:, None]
    records = (LEADS * lead).expand(RECORDS, -1, -1) * (0.8 + 0.4 * torch.rand(RECORDS, 1, 1))
    has_finding = torch.arange(RECORDS) % 2 if elevated else torch.zeros(RECORDS)
    return records + segment * has_finding[:, None, None], has_finding


def of_package(records, snr, mode="per_example"):
    add = AddColoredNoise(snr, snr, 0.0, 0.0, mode=mode, p=1.0, sample_rate=RATE, output_type="dict")
    return add(samples=records, sample_rate=RATE).samples


def independent(records, snr):
    height = records.square().mean(-1, keepdim=True).sqrt() / 10 ** (snr / 20)
    return records + height * torch.randn(records.shape)


def beats_a_minute(records):
    """By the autocorrelation of all leads together."""
    spectrum = torch.fft.rfft(records - records.mean(-1, keepdim=True), 2 * RATE * SECONDS)
    correlation = torch.fft.irfft(spectrum.abs() ** 2).sum(1)
    lags = torch.arange(round(0.4 * RATE), round(1.5 * RATE))
    return 60 * RATE / lags[correlation[:, lags].argmax(-1)]


def of_first_st(records):
    return records[:, :, ST].flatten(1).numpy()


torch.manual_seed(0)
at_60, at_75 = ecgs(60)[0][:50], ecgs(75)[0][:50]
print("noise                     between   with itself    left in the mean   rate at 75 /min, -3 dB")
print("                          two leads 1 s later      of 10 beats")
seen = {}
for name, add, arguments in (
    ("of the package", of_package, ()),
    ('  mode="per_channel"', of_package, ("per_channel",)),
    ("independent", independent, ()),
):
    noise = add(at_60, 0.0, *arguments) - at_60
    between = torch.corrcoef(noise[0])[0, 1].item()
    later = torch.corrcoef(torch.stack([noise[0, 0, :-RATE], noise[0, 0, RATE:]]))[0, 1].item()
    left = (noise.unflatten(-1, (SECONDS, RATE)).mean(2).std() / noise.std()).item()
    rates = beats_a_minute(add(at_75, -3.0, *arguments))
    seen[name.strip()] = between, later, left, rates.mean().item()
    print(f"{name:25} {between:.2f}      {later:.2f}           {left:.2f}               {rates.mean():.0f}")

train, has_finding = ecgs(75, elevated=True)
test, _ = ecgs(75, elevated=True)
print("AUROC of ST elevation     tested with noise of the package   independent   without")
areas = {}
for name, add in (("trained with it", of_package), ("with independent noise", independent), ("without", None)):
    noisy = add(train, -6.0) if add else train
    model = LogisticRegression(C=1.0, max_iter=5000).fit(of_first_st(noisy), has_finding)
    areas[name] = [
        roc_auc_score(has_finding, model.decision_function(of_first_st(records)))
        for records in (of_package(test, -6.0), independent(test, -6.0), test)
    ]
    print("{:25} {:.2f}                               {:.2f}          {:.2f}".format(name, *areas[name]))

with_it = seen["of the package"]
if (
    min(with_it[:3]) > 0.99 and abs(with_it[3] - 60) < 1
    and max(map(abs, seen["independent"][:3])) < 0.4 and abs(seen["independent"][3] - 75) < 1
    and areas["trained with it"][0] > areas["trained with it"][1] + 0.2
):
    print("torch-audiomentations adds one second of noise: still so")
else:
    sys.exit("torch-audiomentations adds one second of noise: no longer so")
END
