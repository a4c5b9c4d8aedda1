"""What other libraries do when they lower a sampling rate, and the extractor must not (see `findings/`)."""

import numpy as np
import pytest

from ecg_hf import ECGTransformerFeatureExtractor
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES


@pytest.mark.parametrize(("old", "new", "hum"), [(500, 100, 60), (1000, 250, 150), (400, 100, 60)])
def test_hum_that_the_new_rate_cannot_hold_does_not_fold_into_the_ecg(old, new, hum):
    samples = 30 * old
    signal = np.tile(0.1 * np.sin(2 * np.pi * hum * np.arange(samples) / old), (12, 1))
    extractor = ECGTransformerFeatureExtractor(sampling_rate=new, num_samples=30 * new)
    values = extractor(signal, sampling_rate=old, lead_names=LEAD_NAMES, return_tensors="np")["input_values"][0]
    frequencies = np.fft.rfftfreq(30 * new, 1 / new)
    inner = values[6] * np.hanning(30 * new)  # without the record's ends
    amplitude = np.abs(np.fft.rfft(inner))[frequencies == new - hum][0] * 4 / (30 * new)
    assert amplitude < 0.001
