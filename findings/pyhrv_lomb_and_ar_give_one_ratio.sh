#!/bin/sh
# LF/HF of pyhrv by Lomb's method and by autoregression is about .4 and .5, whatever the heart does.
#
# Versions: pyhrv 0.5.0, biosppy 2.2.4, spectrum 0.10.0, nolds 0.5.2, numpy 2.4.6, scipy 1.17.1; Python 3.11.
#
# `pyhrv` gives the power of low (LF, .04 to .15 Hz) and high frequencies (HF, .15 to .4 Hz) of RR intervals in ms^2 by
# three methods: `welch_psd`, `lomb_psd` and `ar_psd`. Intervals of 5 min that swing by 40 ms at .1 Hz and by 20 ms at
# .25 Hz have 40^2/2 = 800 ms^2 of LF, 200 of HF, and a ratio of 4.
#
# One would guess that the methods differ by some percent, and that all find the frequencies that are there.
#
# What happens: Welch's is right. Lomb's is computed at the angular frequencies 2 pi/f instead of 2 pi f, with time in
# ms, and is normalised to 1, then called ms^2. The autoregressive one sums decibels, as if they were power, of
# intervals with their mean. Both give nearly the same for hearts with LF alone, HF alone or both: a ratio of 4, or of a
# quarter, is .4 and .5, and a heart without LF has 500 to 5,000 ms^2 of it. Peaks are not at .1 and .25 Hz.
#
# Output seen:
#     true          Welch                          Lomb                           autoregressive
#       LF   HF     LF   HF   ratio  peaks (Hz)   LF   HF   ratio  peaks (Hz)   LF   HF   ratio  peaks (Hz)
#      800  200    800  197    4.07  0.100 0.250  637 1476    0.43  0.105 0.177 5086 9167    0.55  0.040 0.150
#      450  450    450  442    1.02  0.100 0.250  621 1519    0.41  0.082 0.219 5051 9341    0.54  0.040 0.150
#      200  800    200  786    0.25  0.100 0.250  626 1518    0.41  0.058 0.291 5023 9513    0.53  0.040 0.150
#      800    0    800    1 1255.84  0.100 0.250  661 1509    0.44  0.045 0.236 5085 8985    0.57  0.040 0.150
#        0  800      1  786    0.00  0.100 0.250  476 1474    0.32  0.040 0.206 5007 9516    0.53  0.040 0.150
#     pyhrv gives one ratio by Lomb and autoregression: still so
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyhrv==0.5.0 biosppy==2.2.4 spectrum==0.10.0 \
  nolds==0.5.2 peakutils==1.3.5 numpy==2.4.6 scipy==1.17.1 matplotlib==3.11.2 'setuptools<81'
cd "$folder"
MPLBACKEND=Agg OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'END'
import sys

import numpy as np
from pyhrv.frequency_domain import ar_psd, lomb_psd, welch_psd

METHODS = (("Welch", "fft", welch_psd), ("Lomb", "lomb", lomb_psd), ("autoregressive", "ar", ar_psd))


def intervals(low, high):
    """RR intervals in ms of 5 min, round 900 ms, that swing by so many ms at .1 and .25 Hz."""
    time, found = 0, []
    while time < 300:
        found.append(900 + low * np.sin(2 * np.pi * 0.1 * time) + high * np.sin(2 * np.pi * 0.25 * time))
        time += found[-1] / 1000
    return np.array(found)


print(f"{'true':10}   " + "".join(f" {name:30}" for name, _, _ in METHODS))
print("  LF   HF  " + "   LF   HF   ratio  peaks (Hz)" * 3)
powers, ratios, peaks = ({key: [] for _, key, _ in METHODS} for _ in range(3))
for low, high in ((40, 20), (30, 30), (20, 40), (40, 1), (1, 40)):
    print(f"{low**2 / 2:4.0f} {high**2 / 2:4.0f}  ", end="")
    for _, key, method in METHODS:
        result = method(nni=intervals(low, high), show=False)
        _, *power = result[f"{key}_abs"]
        _, *peak = result[f"{key}_peak"]
        ratio = result[f"{key}_ratio"]
        print(f" {power[0]:4.0f} {power[1]:4.0f} {ratio:7.2f}  {peak[0]:.3f} {peak[1]:.3f}", end="")
        powers[key].append(power)
        ratios[key].append(ratio)
        peaks[key].append(peak)
    print()

welch_is_right = np.allclose(ratios["fft"][:3], (4, 1, 0.25), rtol=0.05) and ratios["fft"][3] > 500
welch_is_right = welch_is_right and np.allclose(powers["fft"][0], (800, 200), rtol=0.05)
one_ratio = all(0.3 < ratio < 0.7 for key in ("lomb", "ar") for ratio in ratios[key])
invented = min(powers[key][4][0] for key in ("lomb", "ar")) > 400
peaks_are_elsewhere = not any(np.allclose(peak, (0.1, 0.25), atol=0.01) for key in ("lomb", "ar") for peak in peaks[key])
if welch_is_right and one_ratio and invented and peaks_are_elsewhere:
    print("pyhrv gives one ratio by Lomb and autoregression: still so")
else:
    sys.exit("pyhrv gives one ratio by Lomb and autoregression: no longer so")
END
