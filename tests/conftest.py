import copy
import gc
import os
import pathlib
import subprocess
import sys

import pytest
from filelock import FileLock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# One thread gives the same bits on every machine, and tests don't fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = pathlib.Path(os.environ.get("ECG_HF_SHARED", pathlib.Path(__file__).parents[2] / "shared"))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Nothing of what is imported is garbage, and to look for it takes a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def small_collections():
    """Transformers collects garbage around each training, which takes a fifth of a second or more with all libraries
    in memory: what was loaded before a module is left out of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def shallow_presets():
    """Encoders that are made by the name of their size have two blocks, not eight or twelve, which is a third of the
    time of a small run and more; `whole_presets` is for tests of their sizes. -> The depths that they have."""
    from ecg_hf.ecg_transformer.configuration_ecg_transformer import PRESETS

    depths = {name: sizes["num_hidden_layers"] for name, sizes in PRESETS.items()}
    with pytest.MonkeyPatch.context() as patch:
        for sizes in PRESETS.values():
            patch.setitem(sizes, "num_hidden_layers", 2)
        yield depths


@pytest.fixture
def whole_presets(shallow_presets, monkeypatch):
    from ecg_hf.ecg_transformer.configuration_ecg_transformer import PRESETS

    for name, depth in shallow_presets.items():
        monkeypatch.setitem(PRESETS[name], "num_hidden_layers", depth)


class _Cells:
    """A table of wfdb's header fields as a dictionary: pandas takes long for a cell, of which a header needs 1,000."""

    def __init__(self, table):
        self.index = list(table.index)
        self.loc = {(row, column): table.loc[row, column] for row in table.index for column in table.columns}

    def copy(self):
        other = copy.copy(self)
        other.index = list(self.index)
        return other

    def drop(self, row, inplace):
        self.index.remove(row)


@pytest.fixture(scope="session", autouse=True)
def quick_wfdb():
    """Tests write more than a thousand records, for each of which wfdb would take a twentieth of a second."""
    from wfdb.io import _header

    with pytest.MonkeyPatch.context() as patch:
        for name in ("RECORD_SPECS", "SIGNAL_SPECS"):
            patch.setattr(_header, name, _Cells(getattr(_header, name)))
        yield


@pytest.fixture(scope="session")
def new_process():
    """Runs code as `python -c` does, without the time that the slow libraries take to load: see `NewProcesses`."""
    from new_process import NewProcesses

    processes = NewProcesses()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def unpacked_ptbxl(tmp_path_factory):
    """The folder of `unpack.py`: ``ptbxl_100hz`` (all records) and ``ptbxl`` (508 records at 500 Hz)."""
    unpack = SHARED / "data" / "unpack.py"
    if not unpack.is_file():
        pytest.skip(f"the packed PTB-XL is not at {unpack.parent}")
    # Test processes that run side by side share one copy; unpacking again takes a second.
    target = tmp_path_factory.getbasetemp().parent / "unpacked-ptbxl"
    with FileLock(f"{target}.lock"):
        subprocess.run([sys.executable, str(unpack), str(target)], check=True, capture_output=True)
    return target


def _real_records(request, variable: str, name: str) -> pathlib.Path:
    if folder := os.environ.get(variable):
        return pathlib.Path(folder)
    return request.getfixturevalue("unpacked_ptbxl") / name


@pytest.fixture(scope="session")
def ptbxl_100hz(request):
    """All of PTB-XL at 100 Hz in PhysioNet's layout, from ECG_HF_PTBXL_100HZ or unpacked."""
    return _real_records(request, "ECG_HF_PTBXL_100HZ", "ptbxl_100hz")


@pytest.fixture(scope="session")
def ptbxl_500hz(request):
    """508 records of PTB-XL at 500 Hz in PhysioNet's layout, from ECG_HF_PTBXL_500HZ or unpacked."""
    return _real_records(request, "ECG_HF_PTBXL_500HZ", "ptbxl")


@pytest.fixture(scope="module")
def pictures_not_drawn():
    """For modules of many runs that look at no picture: the files are written, but empty, and nothing is drawn, which
    is nearly half of the time of a small run."""
    from matplotlib.figure import Figure

    from ecg_hf import card_curves, cards, plotting
    from ecg_hf.runs import trainer

    def savefig(figure, file, **kwargs):
        if not hasattr(file, "write"):
            pathlib.Path(file).touch()

    def plot(values, path, *arguments):
        pathlib.Path(path).touch()

    def save_figure(figure, *paths):
        for path in paths:
            path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        patch.setattr(plotting, "_give_palette", lambda png: None)
        patch.setattr(trainer, "plot_learning_curves", plot)
        patch.setattr(cards, "plot_label_metrics", plot)
        patch.setattr(card_curves, "curve_figures", lambda *arguments: dict.fromkeys(card_curves.CURVES))
        patch.setattr(card_curves, "save_figure", save_figure)
        yield


@pytest.fixture(scope="session")
def simulated_folder(tmp_path_factory):
    """160 simulated records at 100 Hz in PTB-XL's layout: 128 for training, 16 for validation, 16 for the test."""
    from ecg_hf.synthetic import simulate_ptbxl

    return simulate_ptbxl(tmp_path_factory.mktemp("simulated") / "ptbxl", 160, seed=1, sampling_rates=(100,))


@pytest.fixture(scope="session")
def simulated_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def simulated_splits(simulated_folder, simulated_cache):
    """The superdiagnostic task of `simulated_folder`."""
    from ecg_hf import load_ptbxl

    return load_ptbxl(simulated_folder, "superdiagnostic", 100, cache_dir=simulated_cache)
