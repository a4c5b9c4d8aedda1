"""The steps of six public encoders against records that their authors' code processed (tests/fixtures)."""

import numpy as np
import pytest
import torch
from recorded import CUT, WHOLE, needs_whole, on_both

from ecg_hf.conversion.ecg_jepa_weimann import PTBXL_MEAN, PTBXL_STD
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor

# Largest deviation, relative to the standard deviation of the expected values.
TOLERANCE = 1e-4

KIM_LEADS = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]
KIM = {
    "sampling_rate": 250,
    "num_samples": 2500,
    "lead_names": KIM_LEADS,
    "lead_tokens": True,
    "resample_method": "fourier",
}
WEIMANN = {
    "clip": 5.0,
    "round_to_float16": True,
    "resample_method": "fourier",
    "cover_end": False,
    "steps": ["leads", "resample", "windows", "normalize"],
}
SETTINGS = {
    "st_mem": {
        "sampling_rate": 250,
        "num_samples": 2250,
        "lead_tokens": True,
        "num_windows": 3,
        "resample_method": "fourier",
        "bandpass": [0.67, 40.0],
        "bandpass_order": 5,
        "zscore_per_lead": False,
        "steps": ["leads", "resample", "windows", "bandpass", "zscore"],
    },
    "ecg_fm": {
        "sampling_rate": 500,
        "num_samples": 2500,
        "resample_method": "linear",
        "cover_end": False,
        "normalization_eps": 1e-8,
        "return_attention_mask": True,
        "steps": ["leads", "resample", "zscore", "windows"],
    },
    "hubert_ecg": {
        "sampling_rate": 100,
        "num_samples": 500,
        "decimation": 5,
        "resample_method": "fourier",
        "bandpass": [0.05, 47.0],
        "bandpass_fir_seconds": 0.3,
        "cover_end": False,
        "normalization_eps": 1e-8,
        "steps": ["leads", "bandpass", "resample", "minmax", "windows", "decimate"],
    },
    "ecg_jepa_kim": {**KIM, "steps": ["leads", "resample", "windows"]},
    "ecg_jepa_kim_finetuned": {
        **KIM,
        "bandpass": [0.67, 40.0],
        "bandpass_order": 5,
        "steps": ["leads", "resample", "windows", "bandpass"],
    },
    "ecg_jepa_weimann": {**WEIMANN, "sampling_rate": 500, "num_samples": 1250, "window_stride": 625},
    "ecg_jepa_weimann_3_leads": {
        **WEIMANN,
        "sampling_rate": 250,
        "num_samples": 625,
        "window_stride": 312,
        "lead_names": ["II", "V1", "V5"],
    },
    "mtecg": {},
}


def source_of(model: str) -> str:
    return next(source for source in SETTINGS if model.startswith(source))


def numbers_of(model: str, fixtures=CUT) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in fixtures.tensors(source_of(model), "preprocess").items()}


def extractor_of(model: str) -> ECGTransformerFeatureExtractor:
    """With the statistics of Weimann's fixture, which lists them for the 12 standard leads."""
    extractor = ECGTransformerFeatureExtractor(**SETTINGS[model])
    if model.startswith("ecg_jepa_weimann"):
        numbers = numbers_of(model)
        rows = [LEAD_NAMES.index(name) for name in extractor.lead_names]
        suffix = "_250hz" if extractor.sampling_rate == 250 else ""
        extractor.mean, extractor.std = numbers[f"mean{suffix}"][rows], numbers[f"std{suffix}"][rows]
    return extractor


def recording_of(model: str, record: int = 0, fixtures=CUT):
    """(signal, sampling rate, lead names)"""
    return tuple(fixtures.recording(source_of(model), record).values())


def processed(model: str, record: int, fixtures) -> np.ndarray:
    """The windows that the authors' code makes of a record; of the cut every tenth sample of each."""
    numbers = numbers_of(model, fixtures)
    if model == "hubert_ecg":
        return hubert_windows(numbers, f"processed/{record}")
    key = {"ecg_jepa_kim_finetuned": "processed_finetune", "ecg_jepa_weimann_3_leads": "processed_250hz_II_V1_V5"}
    windows = numbers[f"{key.get(model, 'processed')}/{record}"]
    return windows[None] if source_of(model) == "ecg_jepa_kim" else windows


def hubert_windows(numbers, name: str) -> np.ndarray:
    return np.stack([numbers[f"{name}_window{window}"].reshape(12, -1) for window in (0, 1)])


CASES = [(model, record) for model in SETTINGS for record in range(3 if model == "ecg_fm" else 2)]
on_records = pytest.mark.parametrize(("fixtures", "case"), on_both(CASES, lambda fixtures, case: case[1] == 0))
on_whole_too = pytest.mark.parametrize("fixtures", [CUT, pytest.param(WHOLE, marks=needs_whole)], ids=str)
on_models = pytest.mark.parametrize(("fixtures", "model"), on_both(SETTINGS, lambda fixtures, model: True))


def extract(extractor, signal, sampling_rate=500, lead_names=LEAD_NAMES, **kwargs) -> np.ndarray:
    features = extractor(signal, sampling_rate=sampling_rate, lead_names=lead_names, return_tensors="np", **kwargs)
    return features["input_values"]


def assert_parity(values: np.ndarray, expected: np.ndarray, fixtures=CUT):
    values = values[..., :: fixtures.step]
    assert values.shape == expected.shape and values.dtype == np.float32
    expected = expected.astype(np.float64)
    assert np.abs(values - expected).max() <= TOLERANCE * expected.std()


@on_records
def test_windows_are_those_of_the_authors(fixtures, case):
    values = extract(extractor_of(case[0]), *recording_of(*case, fixtures))
    assert values.shape[-1] == SETTINGS[case[0]].get("num_samples", 5000)
    assert_parity(values, processed(*case, fixtures), fixtures)


@on_models
def test_leads_are_matched_by_name(fixtures, model):
    signal, rate, names = recording_of(model)
    order = np.random.default_rng(0).permutation(12)
    values = extract(extractor_of(model), signal[order], rate, [names[row].upper() for row in order])
    assert_parity(values, processed(model, 0, fixtures), fixtures)


@pytest.mark.parametrize("model", SETTINGS)
def test_a_batch_gives_the_bits_of_single_records(model):
    extractor = extractor_of(model)
    signal, *facts = recording_of(model)
    recordings = [(signal, *facts), (signal[:, ::-1], *facts), (signal, *facts)]
    together = extract(extractor, *(list(values) for values in zip(*recordings, strict=True)))
    np.testing.assert_array_equal(together, np.concatenate([extract(extractor, *one) for one in recordings]))


@pytest.mark.parametrize("model", SETTINGS)
def test_saving_and_loading_keeps_the_bits(model, tmp_path):
    extractor = extractor_of(model)
    extractor.save_pretrained(tmp_path)
    loaded = ECGTransformerFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_json_string() == extractor.to_json_string()
    recording = recording_of(model)
    np.testing.assert_array_equal(extract(loaded, *recording), extract(extractor, *recording))


@on_models
def test_microvolts_give_the_windows_of_millivolts(fixtures, model):
    signal, rate, names = recording_of(model)
    values = extract(extractor_of(model), np.rint(signal * 1000).astype(np.int16), rate, names, units="uV")
    assert_parity(values, processed(model, 0, fixtures), fixtures)


# ST-MEM


@on_whole_too
def test_st_mem_standardises_over_the_leads_that_are_given(fixtures):
    numbers, extractor = numbers_of("st_mem", fixtures), extractor_of("st_mem")
    limb = extractor(numbers["raw/0"][:6], sampling_rate=500, lead_names=LEAD_NAMES[:6])
    assert limb["lead_ids"].tolist() == [list(range(6))] * 3
    assert_parity(limb["input_values"][:, 0].numpy(), numbers["limb_lead_lead0/0"], fixtures)
    alone = extractor(numbers["raw/0"][1:2], sampling_rate=500, lead_names=["II"])
    assert alone["lead_ids"].tolist() == [[1]] * 3
    assert_parity(alone["input_values"].numpy(), numbers["lead2/0"], fixtures)


@on_whole_too
def test_st_mem_places_its_windows_by_the_length_of_the_record(fixtures):
    numbers = numbers_of("st_mem", fixtures)
    values = extract(extractor_of("st_mem"), numbers["raw/0"], 400)[:, 0]
    assert_parity(values, numbers["as_if_400hz_lead0/0"], fixtures)


# HuBERT-ECG


@needs_whole
def test_hubert_filters_at_the_rate_of_the_record():
    numbers = numbers_of("hubert_ecg", WHOLE)
    values = extract(extractor_of("hubert_ecg"), numbers["raw250/0"], 250)
    assert_parity(values, hubert_windows(numbers, "processed250/0"), WHOLE)


@on_whole_too
def test_hubert_puts_flat_leads_at_the_lower_end(fixtures):
    numbers = numbers_of("hubert_ecg", fixtures)
    signal = numbers["raw/0"].copy()
    signal[4] = 0
    values = extract(extractor_of("hubert_ecg"), signal)[0]
    assert_parity(values, numbers["special/flat_lead4"].reshape(12, -1), fixtures)


@on_whole_too
def test_hubert_stacks_leads_of_another_length(fixtures):
    numbers = numbers_of("hubert_ecg", fixtures)
    extractor = extractor_of("hubert_ecg")
    extractor.num_samples = 300
    values = extract(extractor, numbers["raw/0"])[0]
    assert_parity(values, numbers["special/short_1500"].reshape(12, -1), fixtures)


def test_hubert_gives_every_whole_window():
    signal, *_ = recording_of("hubert_ecg")
    extractor = extractor_of("hubert_ecg")
    assert extract(extractor, np.tile(signal, 2)[:, :7499]).shape == (2, 12, 500)
    short = extract(extractor, signal[:, :1502])
    assert short.shape == (1, 12, 500) and short[..., 299].any() and not short[..., 300:].any()
    with pytest.warns(UserWarning, match="V6"):
        values = extract(extractor, signal[:11], lead_names=LEAD_NAMES[:11])
    assert not values[:, 11].any()


# ECG-FM


def test_ecg_fm_drops_what_fills_no_window_and_masks_padding():
    signal, *_ = recording_of("ecg_fm")
    extractor = extractor_of("ecg_fm")
    whole = extractor(signal[:, :4999], sampling_rate=500, lead_names=LEAD_NAMES)
    assert set(whole) == {"input_values"} and len(whole["input_values"]) == 1
    mixed = extractor([signal[:, :2300], signal], sampling_rate=500, lead_names=LEAD_NAMES)
    assert mixed["attention_mask"].dtype == torch.int64
    assert mixed["attention_mask"].sum(dim=1).tolist() == [2300, 2500, 2500]
    assert mixed["attention_mask"][0, :2300].all() and not mixed["input_values"][0, :, 2300:].any()


# ECG-JEPA


@on_whole_too
def test_kim_takes_any_subset_of_its_leads_in_any_order(fixtures):
    signal, rate, _ = recording_of("ecg_jepa_kim")
    expected = processed("ecg_jepa_kim", 0, fixtures)
    names = ["V6", "III", "V1", "V3"]
    rows = [LEAD_NAMES.index(name) for name in names]
    features = extractor_of("ecg_jepa_kim")(signal[rows], sampling_rate=rate, lead_names=names)
    assert features["lead_ids"].tolist() == [[2, 4, 7]]
    assert_parity(features["input_values"].numpy(), expected[:, [2, 4, 7]], fixtures)


@on_whole_too
def test_weimann_takes_other_statistics_and_windows_as_attributes(fixtures):
    numbers, extractor = numbers_of("ecg_jepa_weimann", fixtures), extractor_of("ecg_jepa_weimann")
    # Their pre-training has its statistics of PTB-XL in float16.
    extractor.mean, extractor.std = np.float16(PTBXL_MEAN), np.float16(PTBXL_STD)
    extractor.num_samples = 5000
    values = extract(extractor, numbers["raw/0"])[0]
    assert_parity(values, numbers["processed_pretraining_statistics/0"], fixtures)


def test_weimann_gives_as_many_windows_as_fit():
    signal, *_ = recording_of("ecg_jepa_weimann")
    extractor = extractor_of("ecg_jepa_weimann")
    assert [len(extract(extractor, signal[:, :length])) for length in (5000, 4999, 1250, 1000)] == [7, 6, 1, 1]
