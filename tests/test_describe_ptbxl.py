"""What `training/describe_ptbxl.py` measures, on records made for it, and the two rates of real ones."""

import json
import pathlib

import describe_ptbxl
import numpy as np
import pandas as pd
import pytest
from describe_ptbxl import Rates, describe_500, describe_leads, describe_table, held_ends

from ecg_hf import read_ecg, simulate_ptbxl

SHIPPED = pathlib.Path(__file__).parents[1] / "hub_cards/ecg-transformer-ptbxl-100hz"


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 300, (12, samples)).round().astype(np.int16)


@pytest.mark.parametrize(("start", "end"), [(1, 1), (1, 52), (6, 47), (14, 60)])
def test_held_ends_are_those_of_all_leads_at_once(start, end):
    signal = noise(5000)
    signal[:, :start], signal[:, 5000 - end :] = signal[:, [start - 1]], signal[:, [-end]]
    assert held_ends(signal) == (start, end)
    signal[7, -1] += 1
    assert held_ends(signal) == (start, 1)


def test_a_flat_record_is_held_throughout():
    assert held_ends(np.zeros((12, 50), np.int16)) == (50, 50)


def test_every_fifth_sample_is_told_from_the_others():
    signal = noise(5000)
    signal[:, ::5] = signal[:, ::5] // 5 * 5
    signal[3:6] = 1  # of leads that are computed nothing is said
    found = describe_500(iter([signal]))["multiples_of_5_uv"]
    assert found["every fifth sample"] == 1 and found["the others"] == pytest.approx(0.2, abs=0.01)


def test_broken_limb_leads_are_counted():
    def limbs(error: int) -> np.ndarray:
        signal = noise(1000)
        signal[2] = signal[1] - signal[0]
        signal[2, 500] += error
        return signal

    records = [limbs(0), limbs(1), limbs(-3), limbs(2000)]
    records[0][9] = 7
    found = describe_leads(iter(records))
    assert found["einthoven"] == {"more than 1 µV": 2, "more than 5 µV": 1, "more than 1000 µV": 1}
    assert found["records_with_a_constant_lead"] == 1 and found["num_records"] == 4


@pytest.mark.parametrize("shift_ms", [-2.0, 0.0, 1.25])
def test_a_shift_and_a_filter_are_found_again(shift_ms):
    rates, frequencies = Rates(), np.fft.rfftfreq(5000, 1 / 500)
    gain = np.clip((47 - frequencies) / 6, 0, 1)  # flat to 41 Hz, nothing from 47 Hz on
    for seed in range(3):
        fast = noise(5000, seed)
        spectrum = np.fft.rfft(fast, axis=1) * gain * np.exp(2j * np.pi * frequencies * shift_ms / 1000)
        rates.add(fast, np.fft.irfft(spectrum, n=5000, axis=1)[:, ::5])
    found = rates.describe()
    assert found["shift_ms"] == pytest.approx(shift_ms, abs=0.02)
    assert found["gain"][10] == pytest.approx(1, abs=0.02) and found["gain"][44] == pytest.approx(0.5, abs=0.03)
    assert found["gain"][48] < 0.02
    assert found["difference_from_what_the_transfer_gives_uv"]["most"] < 0.3 * found["difference_uv"]["least"]


def test_likelihoods_and_validation_are_those_of_the_rows_that_tell():
    rows = [
        ("{'NORM': 100.0, 'SR': 0.0}", True, 1),
        ("{'IMI': 0.0, 'NDT': 0.0}", False, 1),
        ("{'NORM': 0.0, 'SR': 0.0}", None, 1),
        ("{'LVH': 50.0}", True, 9),
    ]
    found = describe_table(pd.DataFrame(rows, columns=["scp_codes", "validated_by_human", "strat_fold"]))
    # NDT is of both kinds.
    assert found["zero_likelihood"] == {"diagnostic": 2 / 4, "form": 1.0, "rhythm": 1.0}
    assert found["validated_by_human"] == {1: 0.5, 9: 1.0}
    assert found["num_rows"] == 4 and found["rows_that_say_who_validated"] == 3


def test_the_command_describes_a_folder(tmp_path, capsys):
    folder = simulate_ptbxl(tmp_path / "ptbxl", 4, seed=2, sampling_rates=(100, 500))
    report = describe_ptbxl.main(["--data_dir", str(folder), "--json", str(tmp_path / "report.json")])
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["both rates"]["num_records"] == report["records at 500 Hz"]["num_records"] == 4
    assert "shift_ms: " in capsys.readouterr().out
    slow_alone = simulate_ptbxl(tmp_path / "slow", 3, seed=2)
    report = describe_ptbxl.main(["--data_dir", str(slow_alone), "--max_records", "2"])
    assert report.keys() == {"table", "records at 100 Hz"} and report["records at 100 Hz"]["num_records"] == 2


def test_the_features_of_the_two_rates_agree(ptbxl_100hz, ptbxl_500hz):
    """On real records, whatever the shift, the filter and the held end do."""
    from transformers import pipeline

    embed = pipeline("feature-extraction", model=str(SHIPPED))
    fast = sorted(ptbxl_500hz.glob("records500/*/*.hea"))[::25]
    names = [file.relative_to(ptbxl_500hz).with_suffix("").as_posix() for file in fast]
    pairs = [(ptbxl_500hz / name, ptbxl_100hz / name.replace("500", "100", 1).replace("_hr", "_lr")) for name in names]
    pairs = [pair for pair in pairs if pair[1].with_suffix(".hea").is_file()]
    assert len(pairs) >= 10 and read_ecg(pairs[0][1]).sampling_rate == 100
    vectors = np.array([[embed(str(path)) for path in pair] for pair in pairs])
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(axis=-1)
    others = (vectors[:, 0] * np.roll(vectors[:, 1], 1, axis=0)).sum(axis=-1)
    assert cosines.min() >= 0.99 and others.mean() < 0.9
