#!/usr/bin/env bash
# NeuroKit2 0.3.0: `signal_resample` without a `method` takes no low-pass when it lowers the sampling rate.
#
# Guess of a good engineer: mains hum of 60 Hz in a 500 Hz ECG is gone after resampling to 100 Hz, since 100 Hz can only
# hold what is below 50 Hz; so do scipy.signal.resample_poly and `method="poly"` of the same function.
# Seen: two thirds of its amplitude are left, at 40 Hz, inside the band of the ECG, where no later filter can tell it
# from the heart. The default, "interpolation", is a spline through the samples. Output:
#
#   neurokit2 0.3.0, numpy 2.4.6, scipy 1.17.1
#   hum of 0.1000 mV at 60 Hz, sampled at 500 Hz
#   signal_resample, default method: 0.0662 mV at 40 Hz
#   signal_resample, method="poly":  0.0002 mV at 40 Hz
#   scipy.signal.resample_poly:      0.0002 mV at 40 Hz
#
# ecg_hf resamples by scipy.signal.resample_poly; tests/test_feature_extraction.py holds it to this.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet neurokit2==0.3.0 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import scipy
from scipy.signal import resample_poly

warnings.filterwarnings("ignore")
import neurokit2

OLD, NEW, HUM = 500, 100, 60
hum = 0.1 * np.sin(2 * np.pi * HUM * np.arange(30 * OLD) / OLD)


def alias(values):
    """Amplitude at the frequency to which the hum folds."""
    times = np.arange(len(values)) / NEW
    return 2 * abs(np.mean(np.asarray(values) * np.exp(-2j * np.pi * (NEW - HUM) * times)))


default = alias(neurokit2.signal_resample(hum, sampling_rate=OLD, desired_sampling_rate=NEW))
poly = alias(neurokit2.signal_resample(hum, sampling_rate=OLD, desired_sampling_rate=NEW, method="poly"))
filtered = alias(resample_poly(hum, NEW, OLD))
print(f"neurokit2 {neurokit2.__version__}, numpy {np.__version__}, scipy {scipy.__version__}")
print(f"hum of 0.1000 mV at {HUM} Hz, sampled at {OLD} Hz")
print(f"signal_resample, default method: {default:.4f} mV at {NEW - HUM} Hz")
print(f'signal_resample, method="poly":  {poly:.4f} mV at {NEW - HUM} Hz')
print(f"scipy.signal.resample_poly:      {filtered:.4f} mV at {NEW - HUM} Hz")
assert 0.05 < default < 0.08 and poly < 0.001 and filtered < 0.001, "the behaviour has changed"
PYTHON
