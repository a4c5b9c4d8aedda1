import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

import ecg_hf  # noqa: F401  registers the Auto classes
from ecg_hf.ecg_transformer import feature_extraction_ecg_transformer as module
from ecg_hf.ecg_transformer import signal_steps_ecg_transformer as signal_steps
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor

MEAN = [0.01 * lead for lead in range(12)]
STD = [0.1 + 0.02 * lead for lead in range(12)]


def template(sampling_rate: int, seconds: float) -> np.ndarray:
    """A simulated ECG (12, samples) in mV, whole µV; the limb leads obey Einthoven, V1-V6 are multiples of lead I."""
    phase = (np.arange(round(sampling_rate * seconds)) / sampling_rate) % 0.8
    wave = {  # amplitude (mV), centre and width (s) of P, R, S and T
        "I": [(0.08, 0.15, 0.02), (0.9, 0.3, 0.01), (-0.2, 0.33, 0.01), (0.2, 0.55, 0.04)],
        "II": [(0.12, 0.15, 0.02), (1.2, 0.3, 0.01), (-0.3, 0.33, 0.01), (0.3, 0.55, 0.04)],
    }
    one, two = (
        sum(height * np.exp(-(((phase - centre) / width) ** 2) / 2) for height, centre, width in wave[lead]).round(3)
        for lead in ("I", "II")
    )
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.stack([*limb, *(one * factor for factor in (0.3, 0.6, 0.9, 1.1, 1.0, 0.8))]).round(3)


def in_microvolts(signal: np.ndarray) -> np.ndarray:
    return np.rint(signal * 1000).astype(np.int16)


@pytest.fixture
def extractor():
    return ECGTransformerFeatureExtractor(
        sampling_rate=100, num_samples=250, window_stride=125, mean=MEAN, std=STD, clip=10
    )


@pytest.fixture
def raw_extractor():
    """5 s at 100 Hz, in mV: nothing but leads, rate and windows."""
    return ECGTransformerFeatureExtractor(sampling_rate=100, num_samples=500)


def extract(extractor, signal, sampling_rate=100, lead_names=LEAD_NAMES, **kwargs):
    return extractor(signal, sampling_rate=sampling_rate, lead_names=lead_names, **kwargs)["input_values"]


# Leads


def test_order_and_spelling_of_leads_do_not_matter(extractor):
    signal = template(500, 10)
    expected = extract(extractor, signal, 500)
    orders = [
        ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"],
        [" i", "II", "v1", "v2", "V3 ", "V4", "V5", "V6", "III", "avr", "aVL", "AVF"],
        list(reversed(LEAD_NAMES)),
    ]
    places = {name.casefold(): row for row, name in enumerate(LEAD_NAMES)}
    for order in orders:
        rows = [places[name.strip().casefold()] for name in order]
        assert torch.equal(extract(extractor, signal[rows], 500, order), expected)


@pytest.mark.parametrize(
    "lead_names",
    [None, [], "II", 2, [*LEAD_NAMES[:11], "V5"], [*LEAD_NAMES[:11], "v1 "], [*LEAD_NAMES[:11], "V7"], [b"I"]],
    ids=["none", "empty", "string", "number", "twice", "twice_folded", "unknown", "bytes"],
)
def test_wrong_lead_names_are_refused_with_the_names_expected(extractor, lead_names):
    with pytest.raises(ValueError, match="I II III aVR aVL aVF V1 V2 V3 V4 V5 V6"):
        extract(extractor, template(100, 10), lead_names=lead_names)


@pytest.mark.parametrize("pair", [("I", "II"), ("I", "III"), ("II", "III")])
def test_two_limb_leads_give_the_other_four(raw_extractor, pair, recwarn):
    signal = template(100, 5)
    rows = [LEAD_NAMES.index(lead) for lead in (*pair, "V1", "V2", "V3", "V4", "V5", "V6")]
    computed = extract(raw_extractor, signal[rows], lead_names=[LEAD_NAMES[row] for row in rows])
    torch.testing.assert_close(computed, extract(raw_extractor, signal), rtol=0, atol=1.1e-3)
    assert not recwarn.list


def test_missing_leads_are_zero_after_normalisation_and_named(extractor):
    signal = template(100, 10)
    with pytest.warns(UserWarning, match="V5 V6"):
        values = extract(extractor, signal[:10], lead_names=LEAD_NAMES[:10])
    assert torch.equal(values[:, :10], extract(extractor, signal)[:, :10])
    assert not values[:, 10:].any()
    with pytest.warns(UserWarning, match="I III aVR aVL aVF V1"):
        values = extract(extractor, signal[1:2], lead_names=["II"])
    assert values.any(dim=2).any(dim=0).tolist() == [lead == "II" for lead in LEAD_NAMES]


def test_missing_leads_are_refused_on_request(extractor):
    with pytest.raises(ValueError, match="record lacks the leads V5 V6"):
        extract(extractor, template(100, 10)[:10], lead_names=LEAD_NAMES[:10], missing_leads="error")
    with pytest.raises(ValueError, match="missing_leads"):
        extract(extractor, template(100, 10), missing_leads="drop")


def test_a_record_without_any_lead_of_the_model_is_refused():
    extractor = ECGTransformerFeatureExtractor(100, 250, lead_names=["V1"])
    with pytest.raises(ValueError, match="none of the model's leads: expected some of V1, got II"):
        extract(extractor, template(100, 10)[1:2], lead_names=["II"])


def test_a_model_of_fewer_leads_takes_its_own(extractor):
    chosen = [6, 0, 11]
    small = ECGTransformerFeatureExtractor(
        100, 250, lead_names=["v1", "I", "V6"], mean=[MEAN[i] for i in chosen], std=[STD[i] for i in chosen]
    )
    signal = template(100, 2.5)
    assert torch.equal(extract(small, signal), extract(extractor, signal)[:, chosen])


def test_flat_leads_are_allowed(extractor):
    signal = template(100, 10)
    signal[7] = 0.0
    assert torch.isfinite(extract(extractor, signal)).all()


def test_lead_tokens_keep_exactly_the_leads_given():
    extractor = ECGTransformerFeatureExtractor(100, 250, mean=MEAN, std=STD, lead_tokens=True)
    signal = template(100, 5)
    full = extractor(signal, sampling_rate=100, lead_names=LEAD_NAMES)
    assert full["lead_ids"].tolist() == [list(range(12))] * 2
    some = extractor(signal[[7, 1]], sampling_rate=100, lead_names=["V2", "II"])
    assert some["lead_ids"].dtype == torch.int64 and some["lead_ids"].tolist() == [[1, 7]] * 2
    assert torch.equal(some["input_values"], full["input_values"][:, [1, 7]])
    with pytest.raises(ValueError, match="Record 1 has I"):
        extract(extractor, [signal[:2], signal[:1]], lead_names=[["I", "II"], ["I"]])
    with pytest.raises(ValueError, match="lacks the leads I III"):
        extract(extractor, signal[1:2], lead_names=["II"], missing_leads="error")


# Units and values


def test_units_give_the_same_bits(extractor):
    signal = template(100, 10)
    expected = extract(extractor, signal)
    for dtype in ("<f4", ">f4"):
        assert torch.equal(extract(extractor, signal.astype(dtype)), expected)
    assert torch.equal(extract(extractor, in_microvolts(signal), units="uV"), expected)
    for dtype in (np.int64, ">i2", ">f4"):
        assert torch.equal(extract(extractor, in_microvolts(signal).astype(dtype), units="uV"), expected)
    torch.testing.assert_close(extract(extractor, signal * 1000, units="uV"), expected, rtol=0, atol=5e-6)


def test_integers_without_units_are_refused(extractor):
    with pytest.raises(ValueError, match="give their `units`"):
        extract(extractor, in_microvolts(template(100, 10)))
    with pytest.raises(ValueError, match="`units` must be one of mV, uV, got `V`"):
        extract(extractor, template(100, 10), units="V")


def test_values_that_cannot_be_millivolts_are_refused(extractor):
    signal = template(100, 10)
    with pytest.raises(ValueError, match=r"beyond ±32.767 mV.*units=\"uV\""):
        extract(extractor, signal * 1000)
    signal[4, 7] = 32.767
    extract(extractor, signal.astype(np.float32))
    signal[4, 7] = -32.768
    with pytest.raises(ValueError, match="lead aVL 32.768"):
        extract(extractor, signal)
    unsigned = in_microvolts(template(100, 10)).astype(np.uint16)
    with pytest.raises(ValueError, match="largest in uV: lead I 65[0-9]*.*unsigned ones. Bring them to µV") as caught:
        extract(extractor, unsigned, units="uV")
    assert "Give" not in str(caught.value)


@pytest.mark.parametrize("mark", [np.nan, np.inf, -32768])
def test_missing_samples_are_named_before_they_spread(mark):
    extractor = ECGTransformerFeatureExtractor(250, 1250)
    signal = template(500, 10)
    damaged = in_microvolts(signal) if mark == -32768 else signal.copy()
    damaged[8, 100:111] = mark
    records = [in_microvolts(signal) if mark == -32768 else signal, damaged]
    with pytest.raises(ValueError, match="Record 1 has missing samples .* lead V3 11 of 5000"):
        extract(extractor, records, 500, units="uV" if mark == -32768 else None)


@pytest.mark.parametrize("to_array", [np.array, in_microvolts])
@pytest.mark.parametrize("given", [list, np.ma.stack, lambda records: [list(record) for record in records]])
def test_masked_samples_are_missing(extractor, to_array, given):
    signal = template(100, 10)
    masked = np.ma.masked_array(to_array(signal), np.zeros(signal.shape, bool))
    units = "uV" if to_array is in_microvolts else None
    expected = extract(extractor, to_array(signal), units=units)
    assert torch.equal(extract(extractor, masked, units=units), expected)
    hidden = masked.copy()
    hidden[8, 100:111] = np.ma.masked
    with pytest.raises(ValueError, match="Record 1 has missing samples .* lead V3 11 of 1000"):
        extract(extractor, given([masked, hidden]), units=units)


def test_signals_that_are_no_numbers_are_refused(extractor):
    for dtype in (bool, complex, str):
        with pytest.raises(TypeError, match="integers or floats"):
            extract(extractor, template(100, 10).astype(dtype))


def test_the_signal_of_the_caller_is_left_alone(extractor):
    signal = template(100, 2.5).astype(np.float32)
    before = signal.copy()
    extract(extractor, signal)
    extract(extractor, signal[None])
    np.testing.assert_array_equal(signal, before)


# Shapes


def test_swapped_axes_are_refused_and_never_guessed(extractor):
    with pytest.raises(ValueError, match="are the axes swapped"):
        extract(extractor, template(100, 10).T)
    with pytest.raises(ValueError, match="Record 1: .*are the axes swapped"):
        extract(extractor, [template(100, 10), template(100, 10).T])


@pytest.mark.parametrize("shape", [(1000,), (2, 2, 12, 1000), (11, 1000), (0,), ()])
def test_other_shapes_are_refused(extractor, shape):
    with pytest.raises(ValueError, match=r"\(leads, samples\)"):
        extract(extractor, np.zeros(shape))


def test_leads_of_unequal_lengths_are_refused(extractor):
    leads = [*template(100, 10)[:11], template(100, 5)[11]]
    for record in (leads, [lead.tolist() for lead in leads]):
        with pytest.raises(ValueError, match="lists of unequal lengths"):
            extract(extractor, record)


def test_empty_records_are_refused(extractor):
    with pytest.raises(ValueError, match="Record 1 is empty"):
        extract(extractor, [template(100, 10), np.zeros((12, 0))])


@pytest.mark.parametrize("sampling_rate", [None, 0, -100, float("nan"), float("inf"), "100", True, [100, 100]])
def test_missing_and_impossible_rates_are_refused(extractor, sampling_rate):
    with pytest.raises(ValueError, match="`sampling_rate`"):
        extract(extractor, template(100, 10), sampling_rate)


def test_lists_arrays_and_tensors_are_the_same_records(extractor):
    signal = template(100, 10)
    expected = extract(extractor, [signal, signal])
    assert expected.dtype == torch.float32 and expected.shape == (14, 12, 250)
    for records in (np.stack([signal, signal]), torch.tensor(np.stack([signal, signal])), [signal.tolist()] * 2):
        assert torch.equal(extract(extractor, records), expected)
    assert torch.equal(extract(extractor, signal.tolist()), expected[:7])
    assert torch.equal(extract(extractor, signal, np.float32(100), np.array(LEAD_NAMES)), expected[:7])
    wanting_gradients = torch.tensor(signal, requires_grad=True)
    for record in (wanting_gradients, list(wanting_gradients)):
        assert torch.equal(extract(extractor, record), expected[:7])
    rounded = torch.tensor(signal, dtype=torch.bfloat16)
    assert torch.equal(extract(extractor, [rounded, rounded])[:7], extract(extractor, rounded.float().numpy()))
    for rates in (torch.tensor(100), torch.tensor([100.0]), [torch.tensor(100)]):
        assert torch.equal(extract(extractor, signal, rates), expected[:7])
    for names in (iter(LEAD_NAMES), dict.fromkeys(LEAD_NAMES).keys()):
        assert torch.equal(extract(extractor, signal, lead_names=names), expected[:7])
    as_numpy = extract(extractor, signal, return_tensors="np")
    assert isinstance(as_numpy, np.ndarray)
    np.testing.assert_array_equal(as_numpy, expected[:7].numpy())


def test_unequal_records_give_the_bits_of_single_ones(extractor):
    long, short = template(100, 10), template(500, 3.1)
    reverse = list(reversed(LEAD_NAMES))
    batch = extractor(
        [short[::-1], long, short[::-1], long[:, :240]],
        sampling_rate=[500, 100, 500, 100],
        lead_names=[reverse, LEAD_NAMES, reverse, LEAD_NAMES],
        return_record_index=True,
    )
    single = [extract(extractor, short, 500), extract(extractor, long), extract(extractor, long[:, :240])]
    assert batch["record_index"].tolist() == [0] * 2 + [1] * 7 + [2] * 2 + [3]
    assert batch["record_index"].dtype == torch.int64
    assert torch.equal(batch["input_values"], torch.cat([single[0], single[1], single[0], single[2]]))


def test_the_output_holds_what_the_model_takes_and_nothing_else(extractor):
    signal = template(100, 10)
    assert set(extractor(signal, sampling_rate=100, lead_names=LEAD_NAMES)) == {"input_values"}
    features = extractor(signal, sampling_rate=100, lead_names=LEAD_NAMES, return_record_index=True)
    assert set(features) == {"input_values", "record_index"}


# Windows


def test_windows_cover_the_record_and_the_last_ends_with_it(raw_extractor):
    signal = template(100, 12.3)
    features = raw_extractor(signal, sampling_rate=100, lead_names=LEAD_NAMES, return_record_index=True)
    expected = np.stack([signal[:, start : start + 500] for start in (0, 500, 730)]).astype(np.float32)
    np.testing.assert_array_equal(features["input_values"], expected)
    assert features["record_index"].tolist() == [0, 0, 0]
    assert extract(raw_extractor, signal[:, :1000]).shape == (2, 12, 500)


def test_windows_overlap_by_the_stride(raw_extractor):
    raw_extractor.window_stride = 250
    values = extract(raw_extractor, template(100, 10))
    assert values.shape == (3, 12, 500)
    assert torch.equal(values[0, :, 250:], values[1, :, :250])


def test_windows_may_leave_the_end_out(raw_extractor):
    raw_extractor.cover_end = False
    signal = template(100, 12.3)
    assert torch.equal(extract(raw_extractor, signal), extract(raw_extractor, signal[:, :1000]))
    assert extract(raw_extractor, signal[:, :490]).shape == (1, 12, 500)


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (250, [0]),
        (251, [0]),
        (252, [0, 1, 2]),
        (253, [0, 1, 2]),
        (501, [0, 125, 250]),
        (100, [0]),
        (3000, [0, 1375, 2750]),
    ],
)
def test_a_number_of_windows_is_spread_over_the_record(length, starts):
    extractor = ECGTransformerFeatureExtractor(100, 250, num_windows=3)
    signal = np.tile(np.arange(length) / 1000, (12, 1))
    assert extract(extractor, signal)[:, 0, 0].tolist() == pytest.approx([start / 1000 for start in starts])


def test_the_mask_of_padding_is_there_only_where_something_is_padded(raw_extractor):
    raw_extractor.return_attention_mask = True
    signal = template(100, 10)
    assert set(raw_extractor(signal, sampling_rate=100, lead_names=LEAD_NAMES)) == {"input_values"}
    features = raw_extractor([signal, signal[:, :490]], sampling_rate=100, lead_names=LEAD_NAMES)
    assert features["attention_mask"].sum(dim=1).tolist() == [500, 500, 490]


def test_short_records_are_padded_after_normalisation(raw_extractor):
    raw_extractor.mean, raw_extractor.std = MEAN, STD
    signal = template(100, 10)
    values = extract(raw_extractor, signal[:, :490])
    assert values.shape == (1, 12, 500)
    assert torch.equal(values[0, :, :490], extract(raw_extractor, signal)[0, :, :490])
    assert not values[..., 490:].any()


def test_a_crop_position_gives_one_window_of_the_record(extractor):
    signals = [in_microvolts(template(100, 10)), in_microvolts(template(500, 10)), in_microvolts(template(100, 2))]
    positions = [0.5, 0.9999, 0.7]
    values = extract(extractor, signals, [100, 500, 100], units="uV", crop_positions=positions)
    assert values.shape == (3, 12, 250)
    start = int(0.5 * 751)
    assert torch.equal(values[0], extract(extractor, signals[0][:, start : start + 250], units="uV")[0])
    assert torch.equal(values[1], extract(extractor, signals[1], 500, units="uV")[-1])
    assert torch.equal(values[2], extract(extractor, signals[2], units="uV")[0])


def test_several_crop_positions_give_as_many_windows_of_each_record(extractor):
    signals = [template(100, 10), template(100, 10)[:, ::-1]]
    positions = np.array([[0.1, 0.9, 0.4], [0.7, 0.2, 0.3]])
    values = extract(extractor, signals, crop_positions=positions)
    one_by_one = [
        extract(extractor, signal, crop_positions=position)
        for signal, row in zip(signals, positions, strict=True)
        for position in row
    ]
    np.testing.assert_array_equal(values, np.concatenate(one_by_one))


@pytest.mark.parametrize("positions", [[0.5], [0.5, 1.0], [0.5, -0.1], [0.5, float("nan")]])
def test_crop_positions_are_checked(extractor, positions):
    with pytest.raises(ValueError, match="crop_positions"):
        extract(extractor, [template(100, 10)] * 2, crop_positions=positions)


# Resampling and filters


@pytest.mark.parametrize(
    ("source", "target"), [(500, 100), (500, 250), (360, 100), (100, 250), (257, 100), (128.5, 100)]
)
def test_resampling_keeps_a_sine_up_to_its_ends(source, target):
    extractor = ECGTransformerFeatureExtractor(target, 10 * target)
    samples = round(10 * source)
    times, targets = np.arange(samples) / source, np.arange(10 * target) / target
    signal = np.tile(0.3 + np.sin(2 * np.pi * 5 * times), (12, 1))
    resampled = extract(extractor, signal, source)[0].numpy()
    expected = 0.3 + np.sin(2 * np.pi * 5 * targets)
    assert np.abs(resampled - expected).max() < 0.02
    margin = target // 2
    assert np.abs(resampled - expected)[:, margin:-margin].max() < 2e-3


def test_resampling_removes_what_would_alias(raw_extractor):
    times = np.arange(2500) / 500
    hum = np.tile(np.sin(2 * np.pi * 95 * times), (12, 1))
    assert extract(raw_extractor, hum, 500)[0, :, 50:-50].abs().max() < 0.01


def test_what_cannot_be_resampled_is_refused(raw_extractor):
    with pytest.raises(ValueError, match="1 samples at 500 Hz cannot be resampled to 100 Hz"):
        extract(raw_extractor, np.zeros((12, 1)), 500)


def test_bandpass_keeps_the_pass_band_of_each_lead_in_phase(raw_extractor):
    raw_extractor.num_samples = 2000
    times = np.arange(2000) / 100
    kept = np.linspace(-1, 1, 12)[:, None] * np.sin(2 * np.pi * 5 * times)
    signal = kept + 0.8 + 0.5 * np.sin(2 * np.pi * 48 * times)
    for bandpass, offset in (([0.5, 30.0], 0.0), ([None, 30.0], 0.8)):
        raw_extractor.bandpass = bandpass
        filtered = extract(raw_extractor, signal)[0].numpy()
        assert np.abs(filtered - kept - offset)[:, 500:-500].max() < 0.02
    with pytest.raises(ValueError, match="too short for `bandpass`: 3 samples"):
        extract(raw_extractor, signal[:, :3])


def test_a_fir_bandpass_keeps_the_pass_band_of_each_lead_in_phase(raw_extractor):
    times = np.arange(1000) / 100
    kept = np.linspace(-1, 1, 12)[:, None] * np.sin(2 * np.pi * 5 * times)
    signal = kept + 0.5 * np.sin(2 * np.pi * 48 * times)
    raw_extractor.num_samples, raw_extractor.bandpass_fir_seconds = 1000, 1.0
    for bandpass in ([1.0, 30.0], [None, 30.0]):
        raw_extractor.bandpass = bandpass
        assert np.abs(extract(raw_extractor, signal)[0].numpy() - kept)[:, 200:-200].max() < 0.02
    with pytest.raises(ValueError, match="Record 1, step `bandpass`: .*too short for `bandpass`: 300 samples"):
        extract(raw_extractor, [signal, signal[:, :300]])


def test_a_band_beyond_half_the_rate_of_a_record_is_refused():
    steps = ["leads", "bandpass", "resample", "windows"]
    signal = template(100, 10)
    for fir_seconds in (None, 0.3):
        extractor = ECGTransformerFeatureExtractor(
            100, 500, bandpass=[0.5, 47.0], bandpass_fir_seconds=fir_seconds, steps=steps
        )
        with pytest.raises(ValueError, match="Record 1, step `bandpass`: .*fs/2"):
            extract(extractor, [signal, signal], [100, 90])


def test_linear_resampling_keeps_the_first_and_the_last_sample(raw_extractor):
    raw_extractor.resample_method, raw_extractor.num_samples = "linear", 199
    signal = template(50, 2)
    resampled = extract(raw_extractor, signal, 50.25)[0].numpy()
    np.testing.assert_allclose(resampled[:, ::2], signal, atol=1e-6)
    np.testing.assert_allclose(resampled[:, 1::2], (signal[:, 1:] + signal[:, :-1]) / 2, atol=1e-6)


def test_decimation_counts_samples_at_the_rate_of_the_model():
    steps = ["leads", "resample", "windows", "decimate"]
    extractor = ECGTransformerFeatureExtractor(100, 500, decimation=5, window_stride=250, steps=steps)
    times = np.arange(1000) / 100
    signal = np.tile(np.sin(2 * np.pi * 5 * np.arange(2500) / 250), (12, 1))
    values = extract(extractor, signal, 250)
    assert values.shape == (3, 12, 500)
    inner = values[:, :, 20:-20].numpy()
    expected = np.sin(2 * np.pi * 5 * times)
    for window, start in zip(inner, (0, 250, 500), strict=True):
        assert np.abs(window - expected[start + 20 : start + 480]).max() < 0.01


def test_constant_leads_stay_finite_without_an_epsilon(raw_extractor):
    signal = template(100, 5)
    signal[3] = 0.1
    raw_extractor.steps = ["leads", "resample", "windows", "zscore"]
    values = extract(raw_extractor, signal)[0]
    assert not values[3].any()
    torch.testing.assert_close(values[0].std(correction=0), torch.tensor(1.0))
    raw_extractor.zscore_per_lead = False
    everything = extract(raw_extractor, signal)[0]
    torch.testing.assert_close(everything.std(correction=0), torch.tensor(1.0))
    assert everything[3].unique().numel() == 1 and everything[3, 0] != 0
    raw_extractor.steps[-1] = "minmax"
    values = extract(raw_extractor, signal)[0]
    assert (values[3] == -1).all() and values[0].aminmax() == (-1, 1)


def test_normalisation_is_per_lead_and_clipped(raw_extractor):
    signal = template(100, 5)
    raw_extractor.mean, raw_extractor.std, raw_extractor.clip = np.array(MEAN), STD, 3.0
    expected = np.clip((signal - np.array(MEAN)[:, None]) / np.array(STD)[:, None], -3, 3)
    np.testing.assert_allclose(extract(raw_extractor, signal)[0], expected, atol=1e-5)


def test_the_order_of_the_steps_is_a_setting():
    signal = template(100, 10) + np.linspace(-1, 1, 1000)
    settings = {"sampling_rate": 100, "num_samples": 500, "bandpass": [1.0, 40.0]}
    record_first = ECGTransformerFeatureExtractor(**settings)
    window_first = ECGTransformerFeatureExtractor(**settings, steps=["leads", "resample", "windows", "bandpass"])
    alone = extract(record_first, signal[:, 500:])[0]
    assert torch.equal(extract(window_first, signal)[1], alone)
    assert not torch.equal(extract(record_first, signal)[1], alone)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling_rate": 0},
        {"num_samples": 2.5},
        {"window_stride": 5001},
        {"clip": 0},
        {"bandpass": [40.0, 0.5]},
        {"bandpass": [0.5]},
        {"mean": [0.0, 0.1]},
        {"mean": float("nan")},
        {"std": 0.0},
        {"steps": ["leads", "resample", "standardize", "windows"]},
        {"steps": ["leads", "resample", "normalize"]},
        {"steps": ["leads", "windows", "resample"]},
        {"steps": ["leads", "resample", "windows", "windows"]},
        {"steps": ["leads", "resample", "windows"], "decimation": 5},
        {"decimation": 0},
        {"num_windows": 0},
        {"num_windows": 3, "window_stride": 100},
        {"resample_method": "spline"},
        {"bandpass_fir_seconds": 0},
        {"normalization_eps": -1e-8},
        {"lead_names": ["I", "V9"]},
    ],
    ids=lambda settings: "_".join(settings),
)
def test_impossible_settings_are_refused(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=f"`{name}`"):
        ECGTransformerFeatureExtractor(**settings)


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="no field `windowstride`"):
        ECGTransformerFeatureExtractor(windowstride=125)


@pytest.mark.parametrize(("old", "new", "hum"), [(500, 100, 60), (1000, 250, 150), (400, 100, 60)])
def test_hum_that_the_new_rate_cannot_hold_does_not_fold_into_the_ecg(old, new, hum):
    """As it does in findings/neurokit2_resampling_aliases_hum.sh."""
    signal = np.tile(0.1 * np.sin(2 * np.pi * hum * np.arange(30 * old) / old), (12, 1))
    extractor = ECGTransformerFeatureExtractor(sampling_rate=new, num_samples=30 * new)
    values = extract(extractor, signal, old, return_tensors="np")[0]
    inner = values[6] * np.hanning(30 * new)  # without the record's ends
    spectrum = np.abs(np.fft.rfft(inner))[np.fft.rfftfreq(30 * new, 1 / new) == new - hum]
    assert spectrum.max() * 4 / (30 * new) < 0.001


# Long records


@pytest.mark.parametrize("rate", [257, 500, 1000, 90, 100])
@pytest.mark.parametrize("units", ["uV", "mV"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"round_to_float16": True},
        {"bandpass": [0.5, None]},
        {"steps": ["leads", "resample", "windows", "zscore"]},
    ],
)
@pytest.mark.filterwarnings("ignore:.*flat", "ignore:.*limb", "ignore:.*Einthoven")
def test_crops_of_a_long_record_are_those_of_the_whole_resampled_record(rate, units, settings, monkeypatch):
    settings = {"sampling_rate": 100, "num_samples": 250, "std": 0.3, **settings}
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 300, (12, 180 * rate)).round().astype(np.int16)
    signal = signal if units == "uV" else (signal / 1000.0).astype(np.float32)
    positions = [[0.0, 0.31, 0.99999]]
    signal[5] = 0  # a flat lead
    extractor = ECGTransformerFeatureExtractor(**settings)
    crops = extract(extractor, signal, rate, units=units, crop_positions=positions)
    monkeypatch.setattr(module, "LONG_RECORD", 10**9)
    assert torch.equal(crops, extract(extractor, signal, rate, units=units, crop_positions=positions))
    assert crops.any(dim=2).tolist() == [[row != 5 for row in range(12)]] * 3


def test_of_a_long_record_little_more_than_its_crops_is_resampled(monkeypatch):
    lengths, plain = [], signal_steps.resample

    def watch(values, *arguments):
        lengths.append(values.shape[-1])
        return plain(values, *arguments)

    monkeypatch.setattr(signal_steps, "resample", watch)
    monkeypatch.setattr(module, "resample", watch)
    signal = np.random.default_rng(0).normal(0, 0.3, (12, 1800 * 257))
    extractor = ECGTransformerFeatureExtractor(sampling_rate=100, num_samples=250, std=0.3)
    crops = extract(extractor, signal, 257, crop_positions=[[0.2, 0.9]])
    assert crops.shape == (2, 12, 250) and len(lengths) == 2
    # 2.5 s, what the filter reaches on both sides, and the way to a common sample of both rates.
    assert max(lengths) < 14 * 257


# Saving


def test_saving_and_loading_keeps_every_number(extractor, tmp_path):
    extractor.std = np.array(STD)
    extractor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["auto_map"] == {
        "AutoFeatureExtractor": "feature_extraction_ecg_transformer.ECGTransformerFeatureExtractor"
    }
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is ECGTransformerFeatureExtractor
    assert loaded.to_json_string() == extractor.to_json_string()
    signal = template(500, 10)
    assert torch.equal(extract(loaded, signal, 500), extract(extractor, signal, 500))
    assert ECGTransformerFeatureExtractor.from_pretrained(tmp_path, window_stride=50).window_stride == 50


def test_arguments_of_loading_count_or_are_refused(extractor, tmp_path):
    extractor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    fields = json.loads(file.read_text())
    # A file of an older version lacks fields.
    file.write_text(
        json.dumps({name: value for name, value in fields.items() if name not in ("clip", "window_stride")})
    )
    for kind in (ECGTransformerFeatureExtractor, AutoFeatureExtractor):
        loaded = kind.from_pretrained(tmp_path, clip=3.0, window_stride=50, std=2.0)
        assert (loaded.clip, loaded.window_stride, loaded.std) == (3.0, 50, 2.0)
        with pytest.raises(TypeError, match="has no field `window_strid`"):
            kind.from_pretrained(tmp_path, window_strid=50)
    loaded, unused = ECGTransformerFeatureExtractor.from_pretrained(
        tmp_path, window_strid=50, return_unused_kwargs=True
    )
    assert unused == {"window_strid": 50}


def test_the_json_follows_the_numbers(extractor):
    before = extractor.to_json_string()
    extractor.std = [2 * std for std in STD]
    assert extractor.to_json_string() != before
    extractor.std = STD
    assert extractor.to_json_string() == before


def test_pickled_extractor_gives_the_same_bits(extractor):
    signal = template(500, 10)
    assert torch.equal(extract(pickle.loads(pickle.dumps(extractor)), signal, 500), extract(extractor, signal, 500))


def test_a_saved_folder_loads_without_the_package_and_saves_again(extractor, new_process, tmp_path):
    extractor.save_pretrained(tmp_path / "first")
    script = """
import sys
sys.modules["ecg_hf"] = None
from transformers import AutoFeatureExtractor
extractor = AutoFeatureExtractor.from_pretrained("first", trust_remote_code=True)
assert type(extractor).__module__.startswith("transformers_modules")
extractor.save_pretrained("second")
again = AutoFeatureExtractor.from_pretrained("second", trust_remote_code=True)
assert again.to_json_string() == extractor.to_json_string()
"""
    new_process(script, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules").check_returncode()
    first, second = ({file.name for file in (tmp_path / name).iterdir()} for name in ("first", "second"))
    assert "pipeline_ecg_classification.py" in first
    # An extractor by itself fetches, and passes on, what it needs.
    assert second == first & second
    assert {name for name in second if "modeling" in name or "pipeline" in name} == set()


# Flat leads

FLAT_STEPS = {
    "st_mem": {"steps": ["leads", "resample", "windows", "bandpass", "zscore"], "zscore_per_lead": False},
    "window": {"steps": ["leads", "resample", "windows", "bandpass", "zscore"]},
    "record": {"steps": ["leads", "resample", "bandpass", "windows", "zscore"]},
    "before_leads": {"steps": ["bandpass", "leads", "resample", "zscore", "windows"]},
    "no_filter": {"steps": ["leads", "resample", "zscore", "windows"], "bandpass": None},
    "low_pass": {"steps": ["leads", "bandpass", "resample", "windows", "zscore"], "bandpass": [None, 40.0]},
    "fir": {"steps": ["leads", "bandpass", "resample", "minmax", "windows"], "bandpass_fir_seconds": 0.3},
    "window_minmax": {"steps": ["leads", "resample", "bandpass", "windows", "minmax"]},
    "band_pass_alone": {"steps": ["leads", "bandpass", "resample", "windows"]},
}


@pytest.fixture(params=FLAT_STEPS.values(), ids=FLAT_STEPS)
def scaling_extractor(request):
    settings = {"sampling_rate": 250, "num_samples": 1250, "bandpass": [0.67, 40.0], "bandpass_order": 5}
    return ECGTransformerFeatureExtractor(**{**settings, **request.param})


@pytest.mark.parametrize("offset", [0.0, 0.3, -32.0, 1e-4])
@pytest.mark.parametrize("method", ["polyphase", "fourier", "linear"])
def test_flat_leads_come_out_as_nothing_and_are_named(scaling_extractor, offset, method):
    scaling_extractor.resample_method = method
    nothing = -1.0 if "minmax" in scaling_extractor.steps else 0.0
    signal = template(500, 10)
    signal[7] = offset
    whole = np.full_like(signal, offset)
    for given, leads in ((signal, "V2"), (whole, "I, II, III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6")):
        for values in (given, given.astype(np.float32), np.rint(given * 1000).astype(np.int16)):
            units = "uV" if values.dtype.kind == "i" else None
            with pytest.warns(UserWarning, match=rf"Flat leads \(constant .*\): {leads}\."):
                found = extract(scaling_extractor, values, 500, units=units)
            assert (found[:, 7] == nothing).all()
            assert (found == nothing).all() if given is whole else found[:, 1].std() > 0.1


def test_flat_windows_of_a_record_that_is_not_flat_come_out_as_nothing(scaling_extractor):
    if "windows" in scaling_extractor.steps[-1:]:
        pytest.skip("these steps scale whole records")
    signal = template(500, 30)
    signal[7, 5000:] = 0.3
    with pytest.warns(UserWarning, match="Flat leads .*: V2"):
        found = extract(scaling_extractor, signal, 500)
    nothing = -1.0 if "minmax" in scaling_extractor.steps else 0.0
    assert (found[3:, 7] == nothing).all() and found[0, 7].std() > 0.1
    with pytest.warns(UserWarning, match="Flat leads .*: V2"):
        crop = extract(scaling_extractor, signal, 500, crop_positions=0.9)
    assert (crop[0, 7] == nothing).all()


def test_rounding_is_judged_against_the_records_size(scaling_extractor):
    signal = template(500, 10)
    signal[7] = 0.3 + 1e-8 * np.random.default_rng(0).normal(size=5000)
    with pytest.warns(UserWarning, match="Flat leads"):
        found = extract(scaling_extractor, signal, 500)
    assert found[:, 7].std() == 0
    # An ECG of a microvolt is one.
    small = extract(scaling_extractor, template(500, 10) * 1e-3, 500)
    assert small.isfinite().all() and small[:, 7].std() > 0


def test_flat_leads_are_named_once_and_counted(extractor, recwarn):
    flat = template(100, 10)
    flat[10:] = 0.25
    extract(extractor, [template(100, 10), flat, template(100, 5), flat[:, :600]])
    (warning,) = recwarn.list
    assert str(warning.message).endswith("V5 (2 of 4 records), V6 (2 of 4 records).")
    recwarn.clear()
    # Leads that are computed, and flat; leads that are absent are no flat ones.
    with pytest.warns(UserWarning) as found:
        extract(extractor, np.stack([template(100, 10)[0]] * 2), lead_names=["I", "II"])
    texts = [str(warning.message) for warning in found]
    assert len(texts) == 2 and "V1 V2" in texts[0] and texts[1].endswith(": III.")


def test_an_offset_is_warned_of_unless_a_step_removes_it(extractor, recwarn):
    ecg = template(100, 10)
    given = [ecg, ecg[:, :600] + 5, ecg + 0.1]
    extract(extractor, given)
    (warning,) = recwarn.list
    assert str(warning.message).startswith(
        "1 of 3 records (first: 1) stay above or below 0 mV in some lead, by up to 5"
    )
    recwarn.clear()
    extract(extractor, np.where(np.arange(12)[:, None] == 7, -1000 * ecg - 3000, 1000 * ecg), units="uV")
    (warning,) = recwarn.list
    assert "record stays" in str(warning.message) and "Subtract the median of each lead" in str(warning.message)
    recwarn.clear()
    steps = ["leads", "resample", "bandpass", "windows"]
    for removing in ({"bandpass": [0.5, None]}, {"steps": [*steps, "zscore"]}, {"steps": [*steps, "minmax"]}):
        extract(ECGTransformerFeatureExtractor(sampling_rate=100, num_samples=250, **removing), given)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="1 of 3 records"):
        low_pass = ECGTransformerFeatureExtractor(sampling_rate=100, num_samples=250, bandpass=[None, 40])
        extract(low_pass, given)


@pytest.mark.parametrize("unit, units", [(1e-3, None), (1, "uV")], ids=["volts", "millivolts as microvolts"])
def test_voltages_of_another_unit_are_warned_of(extractor, recwarn, unit, units):
    ecg = template(100, 10)
    extract(extractor, [ecg * unit, ecg[:, :600] * unit], units=units)
    (warning,) = recwarn.list
    assert str(warning.message).startswith("2 of 2 records (first: 0) extend over 0.0")
    assert "another unit, such as V" in str(warning.message)
    recwarn.clear()
    extract(extractor, ecg * 0.1)  # of low voltage
    assert not recwarn.list


# Limb leads


def swapped(signal, *names):
    order = list(range(12))
    for one, other in zip(names[::2], names[1::2], strict=True):
        order[LEAD_NAMES.index(one)], order[LEAD_NAMES.index(other)] = LEAD_NAMES.index(other), LEAD_NAMES.index(one)
    return signal[order]


LIMB_LEADS = LEAD_NAMES[:6]
ALIKE = [("I", "aVF"), ("III", "aVL")]  # in this template, to some 0.1 mV
PAIRS = [pair for pair in itertools.combinations(LIMB_LEADS, 2) if pair not in ALIKE]


@pytest.mark.parametrize("rate", [100, 500])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_exchanged_limb_leads_are_named(raw_extractor, pair, rate):
    signal = swapped(template(rate, 10), *pair)
    for values, units in ((signal, "mV"), (in_microvolts(signal), "uV")):
        with pytest.warns(UserWarning, match=f"by up to .* µV.*mend it: exchanging {pair[0]} and {pair[1]}\\.$"):
            extract(raw_extractor, values, rate, units=units)


@pytest.mark.parametrize("lead", LIMB_LEADS)
def test_a_reversed_limb_lead_is_named(raw_extractor, lead):
    signal = template(100, 10)
    signal[LEAD_NAMES.index(lead)] *= -1
    with pytest.warns(UserWarning, match=f"mend it: reversing {lead}\\.$"):
        extract(raw_extractor, signal)


def test_three_limb_leads_are_enough_to_see_and_too_few_to_tell(raw_extractor):
    rows = [1, 0, 2, *range(6, 12)]
    names = ["I", "II", "III", *LEAD_NAMES[6:]]
    with pytest.warns(UserWarning, match="exchanging I and II or .*reversing III"):
        extract(raw_extractor, template(100, 10)[rows], lead_names=names)


def test_exchanged_limb_leads_are_counted_in_a_batch(raw_extractor, recwarn):
    good = template(100, 10)
    unlike = good.copy()
    unlike[3] = np.random.default_rng(0).normal(scale=0.5, size=1000)
    batch = [good, swapped(good, "I", "II"), good[:, :700], swapped(good, "I", "II")[:, :700], unlike]
    extract(raw_extractor, batch)
    (warning,) = recwarn.list
    text = str(warning.message)
    assert "limb leads of 3 of 5 records (first: 1)" in text
    assert text.endswith("exchanging I and II (2); no single exchange or reversal (1).")


def test_well_formed_limb_leads_are_not_warned_of(raw_extractor, recwarn):
    signal = template(100, 10)
    drift = np.random.default_rng(0).normal(scale=0.001, size=signal.shape)
    glitch = signal.copy()
    glitch[2, 100:110] += 2.0
    flat = signal.copy()
    for given in (signal, signal + drift, signal + 0.4 * np.arange(12)[:, None] / 12, glitch, -signal):
        extract(raw_extractor, given)
        extract(raw_extractor, in_microvolts(given), units="uV")
    extract(raw_extractor, swapped(signal, "I", "II"), crop_positions=0.5)
    extract(raw_extractor, swapped(signal, "I", "II")[[0, 1, 6]], lead_names=["I", "II", "V1"])
    assert [str(w.message) for w in recwarn.list if "missing" not in str(w.message)] == []
    flat[3] = 0
    with pytest.warns(UserWarning, match="Flat leads .*: aVR") as found:
        extract(raw_extractor, flat)
    assert len(found) == 1


def test_real_records_are_well_formed_and_their_exchanges_named(ptbxl_100hz, raw_extractor, recwarn):
    from ecg_hf.ecg_transformer.wfdb_ecg_transformer import read_record

    headers = sorted((ptbxl_100hz / "records100" / "00000").glob("*.hea"))[:60]
    signals = [read_record(path).signal for path in headers]
    extract(raw_extractor, signals, units="uV")
    assert not recwarn.list
    for pair in (("I", "II"), ("II", "III"), ("aVR", "aVL"), ("aVL", "aVF")):
        with pytest.warns(UserWarning, match=rf"exchanging {pair[0]} and {pair[1]} \(60\)\.$"):
            extract(raw_extractor, [swapped(signal, *pair) for signal in signals], units="uV")


# Flat signals


def test_a_flat_signal_holds_one_lead_after_another(extractor):
    signal = in_microvolts(template(100, 10))
    expected = extract(extractor, signal, units="uV")
    for flat in (signal.reshape(-1), signal.reshape(-1).tolist(), torch.tensor(signal.reshape(-1))):
        assert torch.equal(extract(extractor, flat, units="uV"), expected)
    shorter = signal[:, :700]
    several = [signal.reshape(-1), shorter.reshape(-1), signal]
    together = extract(extractor, several, lead_names=[LEAD_NAMES] * 3, units="uV")
    assert torch.equal(together, extract(extractor, [signal, shorter, signal], units="uV"))
    table = np.stack([signal.reshape(-1)] * 2)
    found = extract(extractor, table, lead_names=np.array([LEAD_NAMES] * 2), units="uV")
    assert torch.equal(found, torch.cat([expected, expected]))
    with pytest.raises(ValueError, match=r"\(leads, samples\).*got 11999 values, no multiple of the 12 leads"):
        extract(extractor, np.zeros(11999))
    with pytest.raises(ValueError, match="give their `units`"):
        extract(extractor, signal.reshape(-1))
