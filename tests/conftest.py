import os
import pathlib
import subprocess
import sys

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = pathlib.Path(os.environ.get("ECG_HF_SHARED", pathlib.Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def unpacked_ptbxl(tmp_path_factory):
    """The folder of `unpack.py`: ``ptbxl_100hz`` (all records) and ``ptbxl`` (508 records at 500 Hz)."""
    unpack = SHARED / "data" / "unpack.py"
    if not unpack.is_file():
        pytest.skip(f"the packed PTB-XL is not at {unpack.parent}")
    target = tmp_path_factory.mktemp("ptbxl")
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
