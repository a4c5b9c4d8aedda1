"""The page of `ecg-hf demo`: what it answers to uploads of all kinds, in the process and in a real browser."""

import base64
import csv
import importlib.util
import io
import json
import pathlib
import re
import shutil
import socket
import types

import numpy as np
import pandas as pd
import pytest
import wfdb
from small_models import small_extractor, small_model
from transformers import pipeline

from ecg_hf import ECGTransformerModel, cli
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES

gradio = pytest.importorskip("gradio", reason="the extra `demo` is not installed")

from ecg_hf.demo.page import Page, build_page, serve  # noqa: E402
from ecg_hf.demo.viewer import Viewer  # noqa: E402

FINDINGS = ["NORM", "MI", "STTC", "CD", "HYP"]
BINS = {"count": [0] * 9 + [4], "num_positive": [0] * 9 + [3]}
CHROMIUM = shutil.which("chromium")


def ecg(seed: int = 1, seconds: float = 10, rate: int = 500) -> np.ndarray:
    """(12, samples) int16 in µV."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    beats = np.exp(-(((time % 0.8) - 0.3) ** 2) / 0.0005)
    one, two = 900 * beats + generator.normal(0, 20, (2, len(time)))
    chest = 1000 * beats + generator.normal(0, 20, (6, len(time)))
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([limbs, chest]).round().astype(np.int16)


def write_wfdb(folder: pathlib.Path, name: str, signal: np.ndarray) -> list[str]:
    wfdb.wrsamp(
        name,
        fs=500,
        units=["mV"] * 12,
        sig_name=list(LEAD_NAMES),
        d_signal=signal.T.astype(np.int64),
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        write_dir=str(folder),
    )
    return [str(folder / f"{name}{ending}") for ending in (".hea", ".dat")]


def write_dicom(folder: pathlib.Path, steps: np.ndarray) -> str:
    """Steps of 5 µV from 10 µV on."""
    waveforms = pytest.importorskip("test_readers_devices")
    return str(waveforms.write_dicom(folder, waveforms.dicom_group(steps)))


def save(folder: pathlib.Path, labels=FINDINGS, metrics: dict | None = None, **fields) -> str:
    small_model(labels, num_samples=500, patch_size=10, initializer_range=0.3, **fields).save_pretrained(folder)
    small_extractor(num_samples=500, window_stride=250).save_pretrained(folder)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return str(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    bins = {label: {"count": [10] * 10, "num_positive": list(range(10))} for label in FINDINGS}
    metrics = {"validation": {"reliability": {label: BINS for label in FINDINGS}}, "test": {"reliability": bins}}
    return save(tmp_path_factory.mktemp("checkpoints") / "five", metrics=metrics, label_names={"NORM": "normal ECG"})


@pytest.fixture(scope="module")
def page(checkpoint) -> Page:
    return Page(Viewer(checkpoint))


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[str]:
    return write_wfdb(tmp_path_factory.mktemp("wfdb"), "rec", ecg())


def read(page: Page, *paths: str, rate=None, units="", leads=""):
    return page.read([str(path) for path in paths], rate, units, leads)


def click(row: int):
    return types.SimpleNamespace(index=[row, 0])


def text_of(html: str) -> str:
    return re.sub(r"<[^>]+>", " ", html)


def png_size(html: str) -> tuple[int, int]:
    data = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", html)[1])
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


# One record


def test_a_wfdb_pair_gives_the_paper_and_the_findings_of_the_pipeline(page, checkpoint, pair):
    shown = read(page, *pair)
    width, height = png_size(shown.picture)
    assert width > 1500 and height > 500 and "aVR" in shown.picture and "rec.hea" in shown.picture
    assert shown.messages == "" and not shown.overview["visible"] and not shown.download["visible"]
    expected = pipeline("ecg-classification", model=checkpoint)(pair[0])
    rows = shown.findings["value"]
    assert [row[0] for row in rows] == [finding["label"] for finding in expected]
    titles = page.viewer.columns()
    assert titles == ["code", "verdict", "probability", "threshold", "had it at such a probability", "meaning"]
    for row, finding in zip(rows, expected, strict=True):
        cells = dict(zip(titles, row, strict=True))
        assert cells["probability"] == f"{finding['score']:.3f}" and cells["threshold"] == "0.500"
        assert cells["verdict"] == ("present" if finding["score"] >= 0.5 else "absent")
        assert cells["meaning"] == ("normal ECG" if cells["code"] == "NORM" else cells["code"])


def test_a_dicom_gives_what_its_wfdb_gives(page, tmp_path):
    steps = ecg() // 5
    of_wfdb = read(page, *write_wfdb(tmp_path, "rec", steps * 5 + 10))
    of_dicom = read(page, write_dicom(tmp_path, steps))
    assert of_dicom.findings == of_wfdb.findings and png_size(of_dicom.picture) == png_size(of_wfdb.picture)


def test_an_array_needs_what_it_does_not_say(page, tmp_path):
    path = tmp_path / "rec.npy"
    np.save(path, ecg())
    refused = read(page, path)
    assert "sampling_rate" in refused.messages and "ecg-error" in refused.messages and refused.picture == ""
    said = read(page, path, rate=500, units="uV", leads=", ".join(LEAD_NAMES))
    assert "ecg-error" not in said.messages and png_size(said.picture)
    (tmp_path / "rec.json").write_text(json.dumps({"sampling_rate": 500, "units": "uV", "lead_names": LEAD_NAMES}))
    beside = read(page, path, tmp_path / "rec.json")
    assert beside.findings["value"] == said.findings["value"] and len(beside.upload.items) == 1
    assert "`lead_names` must list" in text_of(read(page, path, rate=500, units="uV", leads="I J").messages)
    assert "`sampling_rate`" in read(page, path, rate=-1, units="uV").messages


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rec.dcm", b"\0" * 128 + b"DICM" + b"\7" * 300, "rec.dcm"),
        ("rec.edf", b"0       " + b" " * 40, "rec.edf"),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "pictures are not read"),
        ("rec.hea", b"rec 12 500 5000\nrec.dat 16\n", "rec"),
        ("rec.dat", b"\1\2" * 100, "its WFDB header rec.hea does not exist"),
        ("empty.csv", b"", "the file is empty"),
        ("<img src=x onerror=alert(1)>.xml", b"<other/>", "root element"),
    ],
)
def test_a_broken_file_is_a_sentence(page, tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    shown = read(page, path)
    assert words in shown.messages and shown.picture == "" and not shown.findings["visible"]
    assert "ecg-error" in shown.messages and "/tmp" not in shown.messages and "ecg-hf-demo-" not in shown.messages
    assert "<img" not in shown.messages


def test_no_file_is_a_note(page):
    assert "no file yet" in page.read(None, None, "", "").messages


def test_of_a_long_record_the_first_minute_is_drawn(page, tmp_path):
    shown = read(page, *write_wfdb(tmp_path, "long", ecg(seconds=61)))
    assert "The first 60 s of 61 s are drawn" in shown.messages
    assert png_size(shown.picture)[0] > 60 * 25 / 25.4 * 150


def test_what_is_read_with_a_warning_says_so(page, tmp_path):
    path = tmp_path / "two.npy"
    np.save(path, ecg()[:2])
    shown = read(page, path, rate=500, units="uV", leads="I II")
    assert "V1" in shown.messages and "ecg-note" in shown.messages and len(shown.findings["value"]) == len(FINDINGS)


# Several records


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("several")
    files = [file for seed in (1, 2) for file in write_wfdb(folder, f"r{seed}", ecg(seed))]
    (folder / "broken.edf").write_bytes(b"0       ")
    return [*files, str(folder / "broken.edf")]


def test_several_files_give_a_table_and_the_csv_of_the_command(page, checkpoint, several, tmp_path):
    shown = read(page, *several)
    rows = shown.overview["value"]
    assert shown.overview["visible"] and [row[0] for row in rows] == ["r1.hea", "r2.hea", "broken.edf"]
    assert [bool(row[2]) for row in rows] == [False, False, True] and shown.picture == ""
    path = tmp_path / "scores.csv"
    cli.classify([several[0], several[2], "--model", checkpoint, "--wide", "--output", str(path)])
    expected = pd.read_csv(path).assign(record=["r1.hea", "r2.hea"])
    pd.testing.assert_frame_equal(pd.read_csv(shown.download["value"]), expected)
    for label, value in (cell.split() for cell in rows[0][1].split(", ")):
        assert float(value) == pytest.approx(expected[label][0], abs=0.005) and expected[label][0] >= 0.5


def test_a_click_on_a_record_shows_it_and_the_table_stays(page, several):
    shown = read(page, *several)
    alone = read(page, *several[2:4])
    chosen = page.choose(shown.upload, click(1))
    assert chosen.findings["value"] == alone.findings["value"] and png_size(chosen.picture)
    assert "visible" not in chosen.overview and "visible" not in chosen.download
    broken = page.choose(shown.upload, click(2))
    assert "broken.edf" in broken.messages and broken.picture == ""


def test_two_files_of_one_name_are_refused(page, pair, several, tmp_path):
    shutil.copyfile(several[0], tmp_path / "rec.hea")
    assert "Two files are named rec.hea" in read(page, *pair, tmp_path / "rec.hea").messages


def test_the_files_of_an_upload_go_with_it(page, pair):
    folder = pathlib.Path(read(page, *pair).upload.folder.name)
    assert not folder.exists()
    assert pathlib.Path(pair[0]).exists()


# What a finding rests on, and how often it was there


def test_a_click_on_a_finding_draws_what_it_rests_on(page, pair):
    shown = read(page, *pair)
    drawn = page.explain(shown.upload, 0, click(2))
    label = shown.findings["value"][2][0]
    assert png_size(drawn) and f"What {label} " in drawn
    assert len(re.findall(r"\d s \([+-]\d", text_of(drawn))) == 5
    other = page.explain(shown.upload, 0, click(0))
    assert other != drawn


def test_the_share_that_had_it_is_that_of_the_bin(page):
    calibration = page.viewer.calibration
    assert calibration.split == "test"
    # Wilson's interval of 7 in 10, as in Brown et al. 2001.
    n, k, z = 10, 7, 1.959963984540054
    middle, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * np.sqrt(k * (n - k) / n + z * z / 4)
    expected = f"70 % [{middle - half:.0%}, {middle + half:.0%}] of 10".replace("%]", " %]").replace("%,", " %,")
    assert calibration.said_of("MI", 0.75) == expected
    assert calibration.said_of("MI", 0.7) == expected and calibration.said_of("MI", 0.699) != expected
    assert calibration.said_of("MI", 1.0).startswith("90 %")


@pytest.mark.parametrize("metrics", [None, {}, {"test": {"num_records": 3}}])
def test_without_bins_there_is_no_column_and_a_sentence(tmp_path, pair, metrics):
    page = Page(Viewer(save(tmp_path / "model", metrics=metrics)))
    assert "had it at such a probability" not in page.viewer.columns()
    shown = read(page, *pair)
    assert "is not known" in shown.hint and len(shown.findings["value"][0]) == 5


def test_bins_of_the_validation_records_serve_where_there_are_no_others(tmp_path):
    metrics = {"validation": {"reliability": {label: BINS for label in FINDINGS}}, "test": None}
    viewer = Viewer(save(tmp_path / "model", metrics=metrics))
    assert viewer.calibration.split == "validation" and "validation records" in viewer.words_on_calibration()
    assert viewer.calibration.said_of("HYP", 0.5) == "no such record"


@pytest.mark.parametrize(
    ("problem_type", "columns"),
    [
        ("single_label_classification", ["code", "verdict", "probability", "meaning"]),
        ("regression", ["code", "value", "meaning"]),
    ],
)
def test_models_of_other_targets_have_their_own_columns(tmp_path, pair, several, problem_type, columns):
    page = Page(Viewer(save(tmp_path / "model", labels=["a", "b", "c"], problem_type=problem_type)))
    assert page.viewer.columns() == columns
    rows = read(page, *pair).findings["value"]
    assert len(rows) == 3 and {len(row) for row in rows} == {len(columns)}
    if problem_type != "regression":
        assert [row[1] for row in rows] == ["present", "absent", "absent"]
    assert all(row[1] for row in read(page, *several).overview["value"][:2])


# The command


def test_an_encoder_is_refused(tmp_path):
    small_model(None, ECGTransformerModel, num_samples=500, patch_size=10).save_pretrained(tmp_path)
    small_extractor(num_samples=500).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="no trained classification head"):
        build_page(str(tmp_path))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--export_space", "folder"], "--model"),
        (["--model", "m", "--push_to_hub", "a/b"], "--export_space"),
        (["--model", "m", "--export_space", "folder", "--port", "7000"], "--port"),
        (["--model", ".", "--export_space", "folder"], "published checkpoint"),
        (["--model", "a/b/c", "--export_space", "folder"], "published checkpoint"),
        (["--model", "a/b", "--export_space", "."], "is not empty"),
    ],
)
def test_flags_that_do_not_fit(flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", *flags])
    assert ended.value.code == 2 and words in capsys.readouterr().err and not (tmp_path / "folder").exists()


def test_without_gradio_the_command_says_what_to_install(checkpoint, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    monkeypatch.delitem(__import__("sys").modules, "ecg_hf.demo.page")
    with pytest.raises(SystemExit):
        cli.main(["demo", "--model", checkpoint])
    assert "pip install 'ecg-hf[demo]'" in capsys.readouterr().err


def test_the_space_has_the_version_of_gradio_that_is_tested():
    from ecg_hf.demo.space import SDK_VERSION

    project = (pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text()
    lowest = re.search(r"gradio>=([\d.]+),<(\d+)", project)
    assert SDK_VERSION.startswith(lowest[1]) and int(SDK_VERSION.split(".")[0]) < int(lowest[2])


# Served


@pytest.fixture(scope="module")
def connections():
    """The addresses that this process connects to."""
    seen, connect = [], socket.socket.connect

    def watched(self, address):
        seen.append(address)
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched)
        yield seen


@pytest.fixture(scope="module")
def address(page, connections):
    yield serve(page.blocks, block=False)
    page.blocks.close()


def test_the_page_is_on_this_machine_alone(page, address, connections):
    assert address.startswith("http://127.0.0.1:") and page.blocks.share_url is None
    assert not page.blocks.analytics_enabled
    hosts = {where[0] for where in connections if isinstance(where, tuple)}
    assert hosts <= {"127.0.0.1", "localhost", "::1"}


def test_a_port_that_cannot_be_had_is_an_error(page, checkpoint, address):
    other = Page(page.viewer).blocks
    with pytest.raises(ValueError, match="between 1 and 65535"):
        serve(other, port=0, block=False)
    with pytest.raises(OSError):
        serve(other, port=int(address.rstrip("/").rsplit(":", 1)[1]), block=False)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no `chromium` on the path")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the package playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])


def test_a_browser_shows_uploads_and_asks_nobody_else(browser, address, pair, tmp_path):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(20_000)
    tab, asked = context.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    drop = tab.locator("#files input[type=file]")

    drop.set_input_files(pair)
    tab.locator("#picture img").wait_for()
    assert tab.locator("#picture img").evaluate("image => image.naturalWidth") > 1500
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.locator("#findings").get_by_text("STTC", exact=True).last.click()
    tab.locator("#attribution img").wait_for()
    assert "What STTC" in tab.locator("#attribution").inner_text()

    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"\0" * 128 + b"DICM" + b"\7" * 300)
    tab.locator("#files").get_by_label("Clear").click()
    tab.locator("#picture img").wait_for(state="detached")
    drop.set_input_files([str(broken)])
    tab.locator("#messages .ecg-error").wait_for()
    assert "broken.dcm" in tab.locator("#messages").inner_text()

    if importlib.util.find_spec("pydicom") is not None:
        tab.locator("#files").get_by_label("Clear").click()
        tab.locator("#messages .ecg-error").wait_for(state="detached")
        drop.set_input_files([write_dicom(tmp_path, ecg() // 5), *pair])
        tab.locator("#overview").get_by_text("rec.dcm").last.click()
        tab.locator("#picture img").wait_for()
        with tab.expect_download() as download:
            tab.locator("#csv").click()
        table = list(csv.DictReader(io.StringIO(pathlib.Path(download.value.path()).read_text())))
        assert [row["record"] for row in table] == ["rec.dcm", "rec.hea"]
    context.close()
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address.split("/")[2]}
