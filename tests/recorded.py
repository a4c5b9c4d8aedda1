"""What the code of the authors of six public ECG Transformers gave, as the tests read it.

`CUT` is in the repository (tests/fixtures/README.md says how it was cut down), `WHOLE` in the shared folder, for those
who have it.
"""

import functools
import json
import pathlib
from dataclasses import dataclass

import pytest
import torch
from conftest import SHARED
from cut_fixtures import STEP
from safetensors.torch import load_file

from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES


@dataclass(frozen=True)
class Fixtures:
    """A folder with one folder for each family of checkpoints."""

    name: str
    path: pathlib.Path
    step: int
    """1 where all tokens and samples of processed records are here, 10 where every tenth is."""

    def __str__(self):
        return self.name

    def tensors(self, family: str, name: str = "io") -> dict[str, torch.Tensor]:
        """Of `io.safetensors` or `preprocess.safetensors`."""
        return _tensors(self, family, name)

    def has(self, file: str) -> bool:
        """Whether the checkpoint `family/name` is here."""
        return (self.path / file).exists()

    def recording(self, family: str, number: int = 0, raw: str = "raw") -> dict:
        """A raw record as the feature extractor takes it."""
        facts = {"sampling_rate": 250 if raw == "raw250" else 500, "lead_names": list(LEAD_NAMES)}
        if family == "ecg_fm" and number > 0:
            about = json.loads((self.path / family / "meta.json").read_text())["preprocessing"]["records"][number]
            facts = {"sampling_rate": about["sample_rate"], "lead_names": about["lead_names"]}
        return {"signal": self.tensors(family, "preprocess")[f"{raw}/{number}"].numpy(), **facts}


@functools.cache
def _tensors(fixtures: Fixtures, family: str, name: str) -> dict[str, torch.Tensor]:
    tensors = load_file(fixtures.path / family / f"{name}.safetensors")
    if name == "preprocess" and "raw/0" not in tensors:
        # All families have the same record first: it is kept once, in whole microvolts.
        tensors["raw/0"] = load_file(fixtures.path / "record.safetensors")["microvolts"].float() / 1000
    return tensors


CUT = Fixtures("cut", pathlib.Path(__file__).parent / "fixtures", STEP)
WHOLE = Fixtures("whole", SHARED / "fixtures", 1)


def checkpoint(file: str) -> pathlib.Path:
    """The checkpoint `family/name`; the two folders have the same bytes."""
    return (CUT if CUT.has(file) else WHOLE).path / file


def _absent(what: str):
    return pytest.mark.skip(reason=f"{what} of the shared fixtures, which are not at {WHOLE.path}")


needs_whole = pytest.mark.skipif(not WHOLE.path.is_dir(), reason=f"the shared fixtures are not at {WHOLE.path}")


def on_both(cases, is_in):
    """Parameters (fixtures, case): what `is_in` finds in the cut, and everything where the shared fixtures are."""
    cases = list(cases)

    def parameter(fixtures, case):
        parts = case if isinstance(case, tuple) else [case]
        return pytest.param(fixtures, case, id="-".join(map(str, [fixtures, *parts])))

    cut = [parameter(CUT, case) for case in cases if is_in(CUT, case)]
    if not WHOLE.path.is_dir():  # one skip that says so, not one for each case
        return [*cut, pytest.param(WHOLE, None, id=f"{WHOLE}", marks=_absent(f"{len(cases)} cases"))]
    return [*cut, *(parameter(WHOLE, case) for case in cases)]


def checkpoints(*files: str):
    """Parameters: those in the repository, and the others where the shared fixtures are."""
    present = [file for file in files if CUT.has(file) or WHOLE.has(file)]
    absent = [file for file in files if file not in present]
    return [*present, *([pytest.param(None, id=f"{WHOLE}", marks=_absent(", ".join(absent)))] if absent else [])]
