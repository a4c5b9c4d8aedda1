import copy
import io
import json
import os
import pathlib
import random
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch
import wfdb
from recorded import checkpoint as checkpoint_file
from small_models import small_extractor, small_model
from transformers import AutoModel, pipeline

import ecg_hf  # noqa: F401  registers the Auto classes and the pipeline
from ecg_hf import cli, pipelines
from ecg_hf.conversion import convert_checkpoint
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ecg_transformer.configuration_ecg_transformer import PRESETS
from ecg_hf.ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ecg_hf.ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel, ECGTransformerModel
from ecg_hf.ecg_transformer.pipeline_ecg_classification import ECGClassificationPipeline
from ecg_hf.ecg_transformer.wfdb_ecg_transformer import read_record
from ecg_hf.readers.reading import read_leads

FINDINGS = ["NORM", "MI", "STTC", "CD", "HYP"]
RECORDING = {"sampling_rate": 500, "lead_names": list(LEAD_NAMES)}


def tiny_model(labels=FINDINGS, **config) -> ECGTransformerForMultiLabel:
    # Large weights, so that the scores of records differ.
    return small_model(labels, num_samples=500, patch_size=10, initializer_range=0.3, **config).eval()


def tiny_extractor() -> ECGTransformerFeatureExtractor:
    return small_extractor(num_samples=500, window_stride=250)


def make_pipeline(model, **kwargs) -> ECGClassificationPipeline:
    return ECGClassificationPipeline(model=model, feature_extractor=tiny_extractor(), device="cpu", **kwargs)


def scores(findings) -> dict[str, float]:
    return {finding["label"]: finding["score"] for finding in findings}


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    """10 s of noise with a wandering baseline, (12, 5000) at 500 Hz, in mV, whole µV."""
    noise = np.random.default_rng(0).normal(scale=0.3, size=(12, 5000))
    return (noise + np.sin(np.linspace(0, 20, 5000))).round(3)


@pytest.fixture(scope="module")
def classifier() -> ECGClassificationPipeline:
    return make_pipeline(tiny_model())


@pytest.fixture
def record(signal, tmp_path):
    """The path of a WFDB record of `signal`."""
    return write_record(tmp_path, "00001_hr", signal)


def write_record(folder, name, signal, unit="mV", gain=1000.0, baseline=0, fmt="16"):
    wfdb.wrsamp(
        name,
        fs=500,
        units=[unit] * len(signal),
        sig_name=["AVR" if lead == "aVR" else lead for lead in LEAD_NAMES[: len(signal)]],
        d_signal=np.rint(signal.T * gain + baseline).astype(np.int64),
        fmt=[fmt] * len(signal),
        adc_gain=[gain] * len(signal),
        baseline=[baseline] * len(signal),
        write_dir=str(folder),
    )
    return folder / name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tiny_model(label_names={"NORM": "normal ECG"}).save_pretrained(folder)
    tiny_extractor().save_pretrained(folder)
    return folder


# Inputs


def test_path_dict_and_array_give_the_same_scores(classifier, record, signal):
    expected = scores(classifier(signal, **RECORDING))
    microvolts = np.rint(signal * 1000).astype(np.int16)
    inputs = [
        record,
        str(record),
        f"{record}.hea",
        f"{record}.dat",
        {"signal": signal, **RECORDING},
        {"array": microvolts, "units": "uV", **RECORDING},
        {"signal": signal.tolist(), **RECORDING, "ecg_id": 1},
    ]
    for given in inputs:
        assert scores(classifier(given)) == pytest.approx(expected, abs=1e-6)
    assert [scores(findings) for findings in classifier(inputs)] == [pytest.approx(expected, abs=1e-6)] * len(inputs)


def test_arguments_of_the_pipeline_serve_every_call(signal):
    classifier = make_pipeline(tiny_model(), **RECORDING, top_k=1)
    assert classifier(signal)[0] == classifier({"signal": signal})[0]
    shorter = {"signal": signal[:, ::5], "sampling_rate": 100}
    assert len(classifier([signal, shorter])[1]) == 1


@pytest.mark.parametrize(
    ("unit", "gain", "baseline", "fmt"),
    [("mV", 1000.0, 0, "16"), ("uV", 1.0, 0, "16"), ("V", 1e6, 0, "32"), ("mV", 200.0, 512, "16")],
)
def test_units_gain_and_baseline_of_a_file_do_not_matter(classifier, signal, tmp_path, unit, gain, baseline, fmt):
    in_unit = {"mV": 1.0, "uV": 1e3, "V": 1e-3}[unit]
    path = write_record(tmp_path, "record", signal * in_unit, unit, gain, baseline, fmt)
    tolerance = 1e-5 if gain * in_unit >= 1000 else 1e-2
    assert scores(classifier(path)) == pytest.approx(scores(classifier(signal, **RECORDING)), abs=tolerance)


def test_several_records_in_one_array_are_several_records(classifier, signal):
    expected = [classifier(record, **RECORDING) for record in (signal, signal / 2)]
    for several in (np.stack([signal, signal / 2]), torch.tensor(np.stack([signal, signal / 2]))):
        found = classifier(several, **RECORDING)
        assert [scores(findings) for findings in found] == [pytest.approx(scores(alone)) for alone in expected]
    assert classifier(np.zeros((0, 12, 5000)), **RECORDING) == []
    with pytest.raises(ValueError, match=r"got \(2, 12, 5000\).*Pass several records as a list"):
        classifier({"signal": np.stack([signal, signal]), **RECORDING})


def test_tensors_masked_arrays_and_names_of_any_kind_are_records(classifier, signal):
    expected = classifier(signal, **RECORDING)
    tensor, masked = torch.tensor(signal, requires_grad=True), np.ma.masked_array(signal, np.zeros(signal.shape, bool))
    for record in (tensor, masked, {"signal": tensor}):
        assert classifier(record, **RECORDING) == expected
    rounded = tensor.detach().bfloat16()
    assert classifier(rounded, **RECORDING) == classifier(rounded.float().numpy(), **RECORDING)
    names = {"sampling_rate": RECORDING["sampling_rate"], "lead_names": iter(RECORDING["lead_names"])}
    assert classifier([signal, signal], **names) == [expected, expected]
    masked[3, :7] = np.ma.masked
    for record in (masked, {"signal": masked.reshape(-1)}):
        with pytest.raises(ValueError, match="missing samples .*: lead aVR 7 of"):
            classifier(record, **RECORDING)


def test_rows_of_load_ptbxl_are_records(classifier, simulated_splits):
    dataset = simulated_splits["test"].select(range(3))
    rows = list(dataset)
    expected = [
        scores(
            classifier(
                np.array(row["signal"], dtype=np.int16).reshape(12, -1),
                units="uV",
                sampling_rate=100,
                lead_names=row["lead_names"],
            )
        )
        for row in rows
    ]
    millivolts = [{**row, "signal": np.array(row["signal"]) / 1000} for row in rows]
    volts_said = [{**row, "signal": np.array(row["signal"]) / 1.0, "units": "uV"} for row in rows]
    for given in (rows, dataset, dataset.with_format("numpy"), dataset.with_format("torch"), millivolts, volts_said):
        found = [scores(findings) for findings in classifier(given)]
        assert found == [pytest.approx(scores, abs=1e-6) for scores in expected]
    assert scores(classifier(rows[0])) == pytest.approx(expected[0], abs=1e-6)
    with pytest.raises(ValueError, match="no multiple of the 12 leads"):
        classifier({**rows[0], "signal": rows[0]["signal"][:-1]})
    with pytest.raises(ValueError, match="Pass several records as a list"):
        classifier(dataset[:2])
    with pytest.raises(ValueError, match=f"Record {rows[1]['ecg_id']}: .*missing samples"):
        classifier([rows[0], {**rows[1], "signal": [-(2**15), *rows[1]["signal"][1:]]}])


@pytest.mark.parametrize("units", ["mV", "uV", "V", "µV"])
@pytest.mark.parametrize("physical", [True, False])
def test_records_of_wfdb_are_records(classifier, signal, tmp_path, units, physical):
    scale, gain = {"mV": (1.0, 1000.0), "uV": (1e3, 1.0), "V": (1e-3, 1e6), "µV": (1e3, 1.0)}[units]
    path = write_record(tmp_path, "record", signal * scale, units.replace("µ", "u"), gain, fmt="32")
    found = wfdb.rdrecord(str(path), physical=physical)
    found.units = [units] * 12
    expected = scores(classifier(signal, **RECORDING))
    assert scores(classifier(found)) == pytest.approx(expected, abs=1e-5)
    assert [scores(findings) for findings in classifier([found, found])] == [pytest.approx(expected, abs=1e-5)] * 2


def test_records_of_wfdb_that_would_have_to_be_guessed_are_refused(classifier, record):
    def changed(physical=True, **fields):
        found = wfdb.rdrecord(str(record), physical=physical)
        for name, value in fields.items():
            setattr(found, name, value)
        return found

    for given, message in (
        (changed(units=["mmHg"] * 12), "00001_hr: lead I is in 'mmHg'"),
        (changed(physical=False, adc_gain=[0.0] * 12), "00001_hr: lead I has no gain"),
        (changed(p_signal=None), "00001_hr has no signals"),
        (changed(units=None), "00001_hr has the units None, expected one for each of its 12 channels"),
        (changed(units=[None] * 12), "00001_hr: lead I is in None, expected a voltage"),
        (changed(physical=False, baseline=None), "00001_hr has no baseline"),
        (changed(p_signal=np.ma.masked_all((5000, 12))), "00001_hr: .*missing samples"),
        (changed(sig_name=["x"] * 12), "00001_hr has none of the leads"),
        (changed(sig_name=["I"] * 12), "00001_hr: .*names a lead twice"),
        (changed(p_signal=np.full((5000, 12), np.nan)), "00001_hr: .*missing samples"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier(given)
    with pytest.raises(ValueError, match="Record many has several segments: .*multi_to_single"):
        classifier(wfdb.MultiRecord(segments=[changed()], record_name="many"))
    with pytest.warns(UserWarning, match="left out: PLETH"):
        found = classifier(changed(sig_name=[*LEAD_NAMES[:11], "PLETH"]))
    assert len(found) == 5


def test_a_column_of_a_dataset_is_a_list_of_records(classifier, signal, record):
    rows = [{"signal": (signal * gain).tolist(), **RECORDING} for gain in (1.0, 0.5)]
    table = datasets.Dataset.from_dict({"recording": rows, "path": [str(record), str(record)]})
    assert classifier(table["recording"]) == classifier(rows)
    assert classifier(table["path"]) == [classifier(str(record))] * 2


def test_what_read_ecg_gives_is_a_record(classifier, signal, record):
    expected = classifier(str(record))
    assert classifier(ecg_hf.read_ecg(record)) == expected
    assert classifier([ecg_hf.read_ecg(record), str(record)]) == [expected] * 2


def test_a_data_set_gives_the_same_answers_in_any_format(classifier, signal):
    rows = {"signal": [signal.ravel(), (0.5 * signal).ravel()], "sampling_rate": [500] * 2}
    table = datasets.Dataset.from_dict({"ecg_id": ["a", "b"], **rows, "lead_names": [list(LEAD_NAMES)] * 2})
    expected = classifier(table)
    for form in ("numpy", "torch", "pandas", "arrow"):
        for found, wanted in zip(classifier(table.with_format(form)), expected, strict=True):
            assert scores(found) == pytest.approx(scores(wanted), abs=1e-6), form
    assert classifier(table.to_iterable_dataset()) == expected


def test_generators_are_read_as_the_answers_are(classifier, signal):
    answers = classifier(({"signal": signal, **RECORDING} for _ in range(3)), batch_size=4)
    assert [len(findings) for findings in answers] == [5, 5, 5]


@pytest.mark.parametrize("form", ["arrays", "one array", "a file beside arrays", "data set"])
def test_a_record_without_a_name_is_told_by_its_place(classifier, signal, record, form):
    damaged = signal.copy()
    damaged[8, 100:111] = np.nan
    records = [signal, signal, damaged]
    forms = {
        "arrays": lambda: records,
        "one array": lambda: np.stack(records),
        "a file beside arrays": lambda: [str(record), *records[1:]],
        "data set": lambda: datasets.Dataset.from_dict({"signal": records}),
    }
    with pytest.raises(ValueError, match="^Record 2: The record has missing samples .*lead V3 11 of 5000"):
        classifier(forms[form](), **RECORDING, batch_size=2)
    with pytest.raises(ValueError, match="^The record has missing samples .*lead V3 11 of 5000"):
        classifier(damaged, **RECORDING)


def test_unclear_inputs_are_refused(classifier, signal, record):
    with pytest.raises(ValueError, match="`sampling_rate` must be a number of Hz above 0, got '500'"):
        classifier(record, sampling_rate="500")
    with pytest.raises(ValueError, match="`sampling_rate` is missing"):
        classifier(signal, lead_names=LEAD_NAMES)
    with pytest.raises(ValueError, match="`lead_names` must list"):
        classifier({"signal": signal, "sampling_rate": 500})
    with pytest.raises(ValueError, match="one key `signal`.*got the keys values, sampling_rate"):
        classifier({"values": signal, "sampling_rate": 500})
    with pytest.raises(ValueError, match="lacks the leads V5 V6"):
        classifier(signal[:10], sampling_rate=500, lead_names=LEAD_NAMES[:10], missing_leads="error")
    with pytest.raises(ValueError, match="The record is empty: it has no samples"):
        classifier(signal[:, :0], **RECORDING)
    for content in (b"100 12 500 5000", io.BytesIO(b"100 12 500 5000")):  # of an upload
        with pytest.raises(ValueError, match=f"is a path, .*; got {type(content).__name__}.* write it there"):
            classifier(content)
    with pytest.raises(TypeError, match="unexpected keyword"):
        classifier(signal, **RECORDING, unit="mV")


def test_swapped_axes_are_called_so_and_not_a_short_record(classifier, signal):
    for record in (signal.T, pd.DataFrame(signal.T, columns=LEAD_NAMES), {"signal": signal.T.tolist()}):
        with pytest.raises(ValueError, match=r"got \(5000, 12\): are the axes swapped"):
            classifier(record, **RECORDING)
    with pytest.raises(ValueError, match=r"got \(5000, 1\): are the axes swapped"):
        classifier(signal[:1].T, sampling_rate=500, lead_names=["I"])


@pytest.mark.parametrize("rows", [list, tuple, np.ndarray.tolist], ids=["list", "tuple", "numbers"])
def test_as_many_rows_as_leads_are_refused_and_never_taken_for_records(classifier, signal, rows):
    signal = signal[:, :4992]  # a multiple of twelve, so that each row could be twelve short leads
    with pytest.raises(ValueError, match="list of 12 rows of numbers for 12 leads: one record, or 12 flat ones"):
        classifier(rows(signal), **RECORDING)
    with pytest.raises(ValueError, match="list of 12 rows of numbers"):
        make_pipeline(classifier.model, **RECORDING)(rows(signal))
    # Other numbers of rows are flat records, and one lead is one record either way.
    assert classifier([signal.ravel()] * 2, **RECORDING) == classifier([signal] * 2, **RECORDING)
    single = {"sampling_rate": 500, "lead_names": ["I"]}
    assert classifier(rows(signal[:1]), **single) == [classifier(signal[:1], **single)]


def test_rates_of_tensors_are_numbers(classifier, signal):
    expected = classifier(signal, **RECORDING)
    assert classifier(signal, sampling_rate=torch.tensor(500), lead_names=LEAD_NAMES) == expected
    with pytest.raises(ValueError, match="the record has 0.1 s"):
        classifier(signal[:, :50], sampling_rate=torch.tensor(500), lead_names=LEAD_NAMES)


def test_damaged_files_are_refused_by_name(classifier, signal, record, tmp_path):
    with pytest.raises(FileNotFoundError, match="00002_hr: there is no such file, nor a WFDB header of that name"):
        classifier(tmp_path / "00002_hr")

    data = record.with_suffix(".dat")
    whole = data.read_bytes()
    data.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(ValueError, match="00001_hr: lead I has the checksum .* damaged"):
        classifier(record)
    data.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="00001_hr.dat is truncated: it has 1000 bytes"):
        classifier(record)
    data.unlink()
    with pytest.raises(FileNotFoundError, match="00001_hr.dat"):
        classifier(record)


def test_missing_samples_in_a_file_are_refused_by_file_lead_and_count(classifier, signal, tmp_path):
    damaged = signal.copy()
    damaged[8, 100:111] = -32.768
    path = write_record(tmp_path, "gap", damaged)
    with pytest.raises(ValueError, match="gap: samples are marked as invalid .*lead V3 11 of 5000"):
        classifier(path)


def test_a_unit_that_is_no_voltage_is_refused(classifier, signal, tmp_path):
    with pytest.raises(ValueError, match="lead I is in 'mmHg'"):
        classifier(write_record(tmp_path, "pressure", signal, unit="mmHg"))


def edit_header(path, *changes):
    text = path.with_suffix(".hea").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.with_suffix(".hea").write_text(text, encoding="utf-8")


def frames_record(folder, signal):
    """Two samples of each lead in a frame."""
    frames = np.rint(signal * 1000).astype("<i2").reshape(12, -1, 2).transpose(1, 0, 2)
    path = write_record(folder, "frames", signal)
    frames.tofile(f"{path}.dat")
    edit_header(path, (".dat 16 ", ".dat 16x2 "), ("12 500 5000", "12 250 2500"))
    return path


def segments_record(folder, signal):
    write_record(folder, "first", signal[:, :2000])
    write_record(folder, "second", signal[:, 2000:], gain=2000.0, baseline=-300)
    (folder / "segments.hea").write_text("segments/2 12 500\nfirst 2000\nsecond 3000\n")
    return folder / "segments"


def challenge_record(folder, signal):
    """As the PhysioNet Challenges store them: after a head of 24 bytes, with the date before the time."""
    path = write_record(folder, "challenge", signal)
    content = path.with_suffix(".dat").read_bytes()
    path.with_suffix(".dat").unlink()
    path.with_suffix(".mat").write_bytes(bytes(24) + content)
    edit_header(path, (".dat 16 ", ".mat 16x1+24 "), ("12 500 5000", "12 500 5000 05-Feb-2020 11:39:16"))
    return path.with_suffix(".mat")


def no_length_record(folder, signal):
    path = write_record(folder, "no_length", signal * 1000, unit="uV", gain=1.0)
    edit_header(path, ("12 500 5000", "12 500"), ("uV", "µV"))
    return path


@pytest.mark.parametrize("write", [frames_record, segments_record, challenge_record, no_length_record])
def test_a_file_has_the_same_millivolts_for_the_pipeline_and_everywhere_else(classifier, signal, tmp_path, write):
    path = write(tmp_path, signal)
    record = read_record(path)
    assert (record.sampling_rate, record.lead_names) == (500, LEAD_NAMES)
    np.testing.assert_array_equal(record.signal, np.rint(signal * 1000))
    expected = classifier(record.signal, units="uV", **RECORDING)
    assert classifier(path) == expected
    assert scores(expected) == pytest.approx(scores(classifier(signal, **RECORDING)), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("12 500 5000", "12"), "gives no sampling rate"),
        (("12 500 5000", "12 500Hz 5000"), "the sampling rate '500Hz'"),
        (("12 500 5000", "12 500 50000"), "00001_hr.dat is truncated"),
        (("1000.0(0)/mV", "0(0)/mV"), "lead I has no gain"),
        ((".dat 16 ", ".dat 16:3 "), "lead I is shifted in time"),
        ((".dat 16 ", "/x 16 "), "which is not in the record's own folder"),
    ],
)
def test_records_that_would_have_to_be_guessed_are_refused(classifier, record, change, message):
    edit_header(record, change)
    with pytest.raises(ValueError, match=f"Record .*00001_hr: .*{message}"):
        classifier(record)


def test_leads_that_the_model_cannot_use_may_be_damaged(signal, tmp_path):
    damaged = signal.copy()
    damaged[11, :100] = -32.768
    path = write_record(tmp_path, "gap", damaged)
    model = tiny_model(lead_names=["V1", "aVF"])
    extractor = ECGTransformerFeatureExtractor(sampling_rate=100, num_samples=500, lead_names=["V1", "aVF"])
    classifier = ECGClassificationPipeline(model=model, feature_extractor=extractor, device="cpu")
    assert scores(classifier(path)) == pytest.approx(scores(classifier(signal, **RECORDING)), abs=1e-6)
    # aVF is computed from I and II where it is absent.
    edit_header(path, (" 0 aVF", " 0 PLETH"))
    with pytest.warns(UserWarning, match="left out.* PLETH"):
        found = scores(classifier(path))
    rows = [row for row, name in enumerate(LEAD_NAMES) if name != "aVF"]
    recording = {"sampling_rate": 500, "lead_names": [LEAD_NAMES[row] for row in rows]}
    assert found == pytest.approx(scores(classifier(signal[rows], **recording)), abs=1e-6)


# Scores


def test_findings_come_in_descending_order_with_name_and_threshold(signal):
    model = tiny_model(label_names={"MI": "myocardial infarction"}, thresholds=[0.1, 0.2, 0.9, 0.8, 0.5])
    classifier = make_pipeline(model)
    findings = classifier(signal, **RECORDING)
    found = {finding["label"]: finding for finding in findings}
    assert sorted(found) == sorted(FINDINGS)
    assert [finding["score"] for finding in findings] == sorted(scores(findings).values(), reverse=True)
    assert found["MI"]["name"] == "myocardial infarction" and found["CD"]["name"] == "CD"
    for label, threshold in zip(FINDINGS, model.config.thresholds, strict=True):
        assert set(found[label]) == {"label", "name", "score", "threshold", "positive"}
        assert found[label]["threshold"] == threshold
        assert found[label]["positive"] == (found[label]["score"] >= threshold)
    assert classifier(signal, **RECORDING, top_k=2) == findings[:2]
    with pytest.raises(ValueError, match="top_k"):
        classifier(signal, **RECORDING, top_k=0)


@pytest.mark.parametrize("rule", ["mean_logit", "mean_probability", "max_probability"])
def test_the_score_of_a_record_is_the_aggregate_of_its_windows(signal, rule):
    model = tiny_model(temperature=2.0, window_aggregation=rule)
    windows = tiny_extractor()(signal, **RECORDING)["input_values"]
    assert len(windows) == 3
    with torch.no_grad():
        logits = model(windows).logits / 2.0
    expected = {
        "mean_logit": logits.mean(dim=0).sigmoid(),
        "mean_probability": logits.sigmoid().mean(dim=0),
        "max_probability": logits.sigmoid().amax(dim=0),
    }[rule]
    found = scores(make_pipeline(model)(signal, **RECORDING))
    assert [found[label] for label in FINDINGS] == pytest.approx(expected.tolist(), abs=1e-6)


def test_batches_and_their_order_do_not_change_a_score(classifier, signal):
    records = {
        samples: {"signal": signal[:, :samples], **RECORDING}
        for samples in (5000, 2500, 1550)  # 10, 5 and 3.1 s
    }
    expected = {samples: scores(classifier(record)) for samples, record in records.items()}
    for order in ((5000, 2500, 1550), (1550, 5000, 2500), (2500, 1550, 5000)):
        for batch_size in (1, 2, 3, 32):
            found = classifier([records[samples] for samples in order], batch_size=batch_size)
            for samples, findings in zip(order, found, strict=True):
                assert scores(findings) == pytest.approx(expected[samples], abs=1e-5)


CONVERTED = {
    "ecg_fm/checkpoint_finetuned.pt": None,
    "hubert_ecg/checkpoint_finetune_linear.pt": None,
    "st_mem/checkpoint_finetuned.pth": None,
    "ecg_jepa_kim/checkpoint_finetuned.pth": 4,
    "ecg_jepa_weimann/checkpoint_finetuned_attn.pt": None,
    "mtecg/checkpoint_gap.pth": 3,
}


@pytest.fixture(scope="module", params=["own", "own_convolutions", *CONVERTED])
def any_classifier(request):
    """A pipeline of each kind of model, with the same random linear head of large weights on each converted one."""
    if request.param == "own":
        model, extractor = tiny_model(), small_extractor(num_samples=500, return_attention_mask=True)
    elif request.param == "own_convolutions":
        config = {**PRESETS["ptbxl_100hz"], "num_samples": 500, "patch_size": None, "num_hidden_layers": 2}
        model, extractor = small_model(FINDINGS, **config), small_extractor(num_samples=500)
    else:
        heads = CONVERTED[request.param]
        model, extractor = convert_checkpoint(checkpoint_file(request.param), num_attention_heads=heads)
        torch.manual_seed(0)
        model.replace_head(dict(enumerate(FINDINGS)))
        model.classifier.weight.data.normal_(std=1.0)
        model.head_is_random = False
    return ECGClassificationPipeline(model=model.eval(), feature_extractor=extractor, device="cpu")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.filterwarnings("ignore:The leads .* are missing")
def test_no_mixture_in_a_batch_changes_a_score(any_classifier, attention, signal):
    any_classifier.model.set_attn_implementation(attention)
    filtered = scipy.signal.sosfiltfilt(scipy.signal.butter(2, 30, fs=500, output="sos"), signal)
    leads = {"all": range(12), "eight": [0, 1, 6, 7, 8, 9, 10, 11], "reversed": range(11, -1, -1), "II": [1]}
    if any_classifier.feature_extractor.lead_tokens:
        leads |= {"another eight": [2, 4, 6, 7, 8, 9, 10, 11], "V2": [7]}
    records = [
        {
            "signal": filtered[list(rows), :samples],
            "sampling_rate": 500,
            "lead_names": [LEAD_NAMES[row] for row in rows],
        }
        for samples in (5000, 2500, 1550)
        for rows in leads.values()
    ]
    alone = [scores(any_classifier(record)) for record in records]
    assert len({json.dumps(found) for found in alone}) > len(records) / 2  # the test sees differences
    for seed, batch_size in enumerate((2, 3, 7, 64)):
        order = np.random.default_rng(seed).permutation(len(records))
        found = any_classifier([records[index] for index in order], batch_size=batch_size)
        for index, findings in zip(order, found, strict=True):
            assert scores(findings) == pytest.approx(alone[index], abs=1e-5)


@pytest.mark.filterwarnings("ignore:The leads .* are missing")
def test_a_short_record_beside_long_ones_in_the_extractor_changes_no_score(any_classifier, signal):
    model, extractor = any_classifier.model, any_classifier.feature_extractor
    records = [signal, signal[:, :1550], signal[:, :2500], signal[::-1]]

    def logits(given):
        features = extractor(given, **RECORDING, return_record_index=True)
        index = features.pop("record_index")
        with torch.no_grad():
            return index, model(**features).logits

    index, together = logits(records)
    for number, record in enumerate(records):
        torch.testing.assert_close(together[index == number], logits(record)[1], atol=1e-4, rtol=1e-5)


def test_labels_keep_their_outputs_when_the_config_is_reordered(signal, tmp_path):
    labels = [f"L{index:02d}" for index in range(12)]
    model = tiny_model(labels, thresholds=[0.01 * index for index in range(12)])
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.copy_(torch.arange(12.0) / 12)
    model.save_pretrained(tmp_path)
    tiny_extractor().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = dict(sorted(config["id2label"].items()))
    config["label2id"] = dict(random.Random(0).sample(sorted(config["label2id"].items()), 12))
    (tmp_path / "config.json").write_text(
        json.dumps(dict(random.Random(1).sample(sorted(config.items()), len(config))))
    )

    findings = pipeline("ecg-classification", model=str(tmp_path), device="cpu")(signal, **RECORDING)
    assert [finding["label"] for finding in findings] == labels[::-1]
    for finding in findings:
        index = int(finding["label"][1:])
        assert finding["score"] == pytest.approx(1 / (1 + np.exp(-index / 12)), abs=1e-6)
        assert finding["threshold"] == pytest.approx(0.01 * index)


def test_one_label_gives_a_list_of_one_finding(signal):
    classifier = make_pipeline(tiny_model(["AFIB"]))
    findings = classifier(signal, **RECORDING)
    assert [finding["label"] for finding in findings] == ["AFIB"]
    assert classifier([signal, signal], **RECORDING, batch_size=1) == [[pytest.approx(findings[0])]] * 2


def test_half_precision_models_give_float32_scores(classifier, signal):
    half = make_pipeline(copy.deepcopy(classifier.model).to(torch.bfloat16))
    expected = scores(classifier(signal, **RECORDING))
    assert scores(half(signal, **RECORDING)) == pytest.approx(expected, abs=0.05)


def test_a_model_in_training_mode_gives_scores_without_dropout(signal):
    model = tiny_model(hidden_dropout_prob=0.5, drop_path_rate=0.5)
    expected = make_pipeline(model)(signal, **RECORDING)
    assert make_pipeline(model.train())(signal, **RECORDING) == expected


# Damaged checkpoints


def damaged(folder, **fields):
    """A checkpoint whose file `config.json` has been changed."""
    tiny_model().save_pretrained(folder)
    tiny_extractor().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return str(folder)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("layer_norm_eps", "temperature", "contrastive_temperature", "sampling_rate")
          for value in (NAN, INFINITE, 0.0, -1.0)],
        *[(name, value) for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
          for value in (NAN, 1.0, -0.1)],
        *[("thresholds", [0.5, value, 0.5, 0.5, 0.5]) for value in (NAN, INFINITE, 1.01, -0.1)],
        *[(name, value) for name in ("initializer_range", "position_scale", "layer_scale_init_value")
          for value in (NAN, INFINITE, -1.0)],
    ],
)  # fmt: skip
def test_impossible_numbers_in_a_configuration_are_refused_by_name(tmp_path, name, value):
    folder = damaged(tmp_path, **{name: value})
    with pytest.raises(Exception, match=f"`{name}` must"):
        pipeline("ecg-classification", model=folder, device="cpu")
    with pytest.raises(Exception, match=f"`{name}` must"):
        ECGTransformerForMultiLabel.from_pretrained(damaged(tmp_path / "good"), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("mean", "std", "clip", "sampling_rate", "normalization_eps")
          for value in (NAN, INFINITE)],
        ("mean", [NAN] + [0.0] * 11), ("std", [INFINITE] + [1.0] * 11),
        ("bandpass", [NAN, 40]), ("bandpass", [None, INFINITE]), ("bandpass_fir_seconds", INFINITE),
        ("bandpass_order", 0), ("bandpass_order", NAN),
    ],
)  # fmt: skip
def test_impossible_numbers_of_a_feature_extractor_are_refused_by_name(tmp_path, name, value):
    tiny_extractor().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**fields, name: value}))
    with pytest.raises(ValueError, match=f"`{name}` must"):
        ECGTransformerFeatureExtractor.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_scores_that_are_no_numbers_are_refused_with_checkpoint_and_record(tmp_path, signal, record, value):
    folder = damaged(tmp_path / "checkpoint")
    model = tiny_model()
    model.classifier.weight.data[1] = value
    model.save_pretrained(folder)
    classifier = pipeline("ecg-classification", model=folder, device="cpu")
    for given in (record, {"signal": signal, **RECORDING}, [{"signal": signal, **RECORDING}, record]):
        with pytest.raises(
            ValueError,
            match=f"`{folder}` gives NaN or infinite scores for (a record|Record 0|.*00001_hr): of 1 labels, MI",
        ):
            classifier(given)
    with pytest.raises(ValueError, match="00001_hr: of 1"):
        classifier([record, record], batch_size=1)


# The command line


@pytest.fixture
def others(signal, tmp_path):
    """Two records that the command must answer, whatever the one between them is."""
    (tmp_path / "good").mkdir()
    return [str(write_record(tmp_path / "good", name, signal)) for name in ("first", "last")]


def classify_beside(others, record, checkpoint, capsys) -> str:
    """What the command prints on stderr, after it has answered both other records."""
    with pytest.raises(SystemExit, match="1 of 3 records could not be classified"):
        cli.classify([others[0], str(record), others[1], "--model", str(checkpoint)])
    printed = capsys.readouterr()
    assert all(other in printed.out for other in others) and printed.out.count("normal ECG") == 2
    return printed.err


@pytest.mark.parametrize(
    "error", [TypeError("a bytes-like object"), MemoryError(), Exception("psf_read_raw"), AssertionError("no frames"),
              KeyError("fmt"), OverflowError("int too large"), RuntimeError("libsndfile"), RecursionError("depth")]
)  # fmt: skip
def test_whatever_a_record_raises_is_that_records_message(others, record, checkpoint, capsys, monkeypatch, error):
    def read(path, said):
        if "00001_hr" in str(path):
            raise error
        return read_leads(path, said)

    monkeypatch.setattr(pipelines, "read_leads", read)
    said = classify_beside(others, record, checkpoint, capsys)
    assert str(record) in said and (str(error) or type(error).__name__) in said


def test_warnings_of_a_record_are_said_of_each(signal, checkpoint, capsys, tmp_path):
    flat = signal.copy()
    flat[7] = 0.3
    flat[2:6] = [flat[1] - flat[0], -(flat[0] + flat[1]) / 2, flat[0] - flat[1] / 2, flat[1] - flat[0] / 2]
    paths = [str(write_record(tmp_path, name, given)) for name, given in (("a", flat), ("b", flat), ("c", signal))]
    cli.classify([*paths, "--model", str(checkpoint)])
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "V2" in line] == [
        f"{path}: Flat leads (constant in a record or a window): V2." for path in paths[:2]
    ]
    assert [line.split(":")[0] for line in said if "Einthoven" in line] == paths[2:]


def test_an_interrupt_ends_the_command(record, checkpoint, monkeypatch):
    def read(path, said):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipelines, "read_leads", read)
    with pytest.raises(KeyboardInterrupt):
        cli.classify([str(record), "--model", str(checkpoint)])


def test_headers_with_absurd_numbers_are_a_message(others, record, checkpoint, capsys):
    for old, new in (("1000.0(0)", f"1000.0({10**30})"), ("12 500 5000", f"12 500 {10**30}"), ("12 500", "12 1e400")):
        text = record.with_suffix(".hea").read_text()
        edit_header(record, (old, new))
        assert str(record) in classify_beside(others, record, checkpoint, capsys)
        record.with_suffix(".hea").write_text(text)


def test_a_directory_or_a_fifo_is_a_message(others, record, checkpoint, capsys, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "named.hea").mkdir()
    os.mkfifo(tmp_path / "pipe.hea")
    data = record.with_suffix(".dat")
    data.unlink()
    os.mkfifo(data)
    for given in (tmp_path / "folder", tmp_path / "named", tmp_path / "pipe", record, "/dev/zero"):
        assert str(given) in classify_beside(others, given, checkpoint, capsys)


@pytest.mark.parametrize("top_k", ["1", 1.5])
def test_a_number_of_labels_that_is_none_is_refused(classifier, signal, top_k):
    with pytest.raises(ValueError, match=f"`top_k` must be at least 1 and whole, got {top_k!r}"):
        classifier(signal, top_k=top_k, **RECORDING)


def test_an_argument_that_is_wrong_is_no_fault_of_the_records(record, checkpoint):
    with pytest.raises(ValueError, match="`top_k` must be at least 1"):
        cli.classify([str(record), "--model", str(checkpoint), "--top_k", "0"])


def test_a_checkpoint_with_nan_weights_answers_no_record(record, checkpoint, tmp_path, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    model = ECGTransformerForMultiLabel.from_pretrained(folder)
    model.ecg_transformer.norm.weight.data[0] = NAN
    model.save_pretrained(folder)
    with pytest.raises(SystemExit, match="1 of 1 records"):
        cli.classify([str(record), "--model", str(folder)])
    printed = capsys.readouterr()
    assert printed.out == "" and "NaN" in printed.err and str(folder) in printed.err and str(record) in printed.err


# Construction


def test_a_pipeline_without_feature_extractor_is_refused():
    with pytest.raises(ValueError, match="without a feature extractor"):
        ECGClassificationPipeline(model=tiny_model(), device="cpu")


def test_a_feature_extractor_of_another_model_is_refused():
    with pytest.raises(ValueError, match="`sampling_rate` is 500, the model's 100"):
        ECGClassificationPipeline(model=tiny_model(), feature_extractor=ECGTransformerFeatureExtractor(), device="cpu")


def test_a_model_without_trained_head_is_refused(tmp_path):
    encoder = ECGTransformerModel(tiny_model().config)
    with pytest.raises(RuntimeError, match="no trained classification head"):
        make_pipeline(encoder)
    encoder.save_pretrained(tmp_path)
    tiny_extractor().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no trained head"), pytest.raises(RuntimeError, match="Post-train it first"):
        pipeline("ecg-classification", model=str(tmp_path), device="cpu")


def _train_a_step(model):
    model.train()(torch.ones(2, 12, 500), labels=torch.eye(2, 5)).loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


def _merge_adapters(model):
    peft = pytest.importorskip("peft", reason="the package peft is not installed (extra `peft`)")
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
    adapted = peft.get_peft_model(model, config)
    assert model.head_is_random
    _train_a_step(model)
    adapted.merge_and_unload()


@pytest.mark.parametrize(
    "train", [_train_a_step, _merge_adapters, lambda model: model.load_state_dict(tiny_model().state_dict())]
)
def test_a_head_that_was_trained_in_another_way_serves(signal, tmp_path, train):
    ECGTransformerModel(tiny_model().config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no trained head"):
        model = ECGTransformerForMultiLabel.from_pretrained(tmp_path)
    for untrained in (model, copy.deepcopy(model).half()):
        with pytest.raises(RuntimeError, match="no trained classification head"):
            make_pipeline(untrained)
    assert copy.deepcopy(model).to("meta").head_is_random
    train(model)
    assert len(make_pipeline(model)(signal, **RECORDING)) == 5


def test_a_saved_folder_is_a_pipeline_of_the_package(checkpoint, signal):
    classifier = pipeline("ecg-classification", model=str(checkpoint), device="cpu")
    assert type(classifier) is ECGClassificationPipeline
    assert type(AutoModel.from_pretrained(checkpoint)) is ECGTransformerForMultiLabel
    findings = classifier(signal, **RECORDING)
    assert scores(findings) == scores(make_pipeline(tiny_model())(signal, **RECORDING))
    assert next(finding for finding in findings if finding["label"] == "NORM")["name"] == "normal ECG"


def test_a_saved_folder_classifies_without_the_package(checkpoint, record, signal, new_process, tmp_path):
    expected = scores(make_pipeline(tiny_model())(signal, **RECORDING))
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    script = """
import json, sys
sys.modules["ecg_hf"] = None
from transformers import pipeline
for folder in ("checkpoint", "again"):
    classifier = pipeline("ecg-classification", model=folder, device="cpu", trust_remote_code=True)
    for part in (classifier, classifier.model, classifier.feature_extractor):
        assert type(part).__module__.startswith("transformers_modules"), type(part)
    findings = classifier("00001_hr")
    if folder == "checkpoint":
        classifier.save_pretrained("again")
print(json.dumps({finding["label"]: finding["score"] for finding in findings}))
"""
    result = new_process(script, cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-6)


def test_links_and_folders_with_blanks_load(checkpoint, signal, tmp_path, monkeypatch):
    expected = scores(pipeline("ecg-classification", model=str(checkpoint), device="cpu")(signal, **RECORDING))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, "my model (new)")
    os.symlink("my model (new)", "link")
    os.mkdir("links")  # as the Hub's cache has them
    for file in pathlib.Path("my model (new)").iterdir():
        os.symlink(file.absolute(), f"links/{file.name}")
    for folder in ("my model (new)", "./link", str(tmp_path / "links")):
        classifier = pipeline("ecg-classification", model=folder, device="cpu")
        assert scores(classifier(signal, **RECORDING)) == expected


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_record_that_is_flat_in_all_leads_gets_no_findings(classifier, level):
    with pytest.raises(ValueError, match="flat in all leads: there is nothing to classify"):
        classifier(np.full((12, 5000), level), **RECORDING)
    # Also where it comes as one row, whose leads have other levels.
    with pytest.raises(ValueError, match="flat in all leads: there is nothing to classify"):
        classifier(np.repeat(np.arange(12) * level, 5000), **RECORDING)
