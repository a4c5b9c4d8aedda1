"""README and guides: each block is run in order, in one folder, on simulated records; links and pictures exist."""

import csv
import json
import pathlib
import re
import shutil

import datasets
import numpy as np
import pytest
import test_challenge
import test_code15
from documents import DOCUMENTS, GUIDES, LANGUAGES, ROOT, Block, blocks_of, run_block, run_command
from test_tables import write_record

from ecg_hf import simulate_ptbxl
from ecg_hf.synthetic import simulate_ecg

README, *OTHERS = DOCUMENTS
FIXTURES = ROOT / "tests/fixtures"
STATEMENTS = {"NORM": "normal", "CLBBB": "block", "AFIB": "fibrillation"}

# The authors' files by the names that they have in the guide, and what a user of other sizes than theirs adds.
PUBLIC = {
    "encoder.pth": "st_mem/checkpoint_finetuned.pth",
    "mimic_iv_ecg_physionet_pretrained.pt": "ecg_fm/checkpoint_finetuned.pt",
    "hubert_ecg_base.pt": "hubert_ecg/checkpoint_finetune_linear.pt",
    "multiblock_epoch100.pth": "ecg_jepa_kim/checkpoint_finetuned.pth",
    "chkpt_100000.min.pt": "ecg_jepa_weimann/checkpoint_finetuned_attn.pt",
    "checkpoint.pth": "mtecg/checkpoint_gap.pth",
}


def write_ecgs(folder: pathlib.Path) -> None:
    """Sixty records and their table, which has a column for each kind of target."""
    (folder / "records").mkdir()
    rows = [["path", "patient", "AF", "LBBB", "rhythm", "age", "report"]]
    for index in range(60):
        rng, code = np.random.default_rng(index), list(STATEMENTS)[index % 3]
        write_record(
            folder / "records", f"{index:04}", simulate_ecg([code], sampling_rate=500, rng=rng)[:, ::2] / 1000
        )
        labels = [int(code == "AFIB"), int(code == "CLBBB"), STATEMENTS[code]]
        rows.append([f"records/{index:04}", index // 2, *labels, 30 + index, f"Ruhe-EKG: {code}"])
    with open(folder / "ecgs.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    np.savetxt(folder / "lead_one.csv", simulate_ecg(["NORM"], sampling_rate=500, rng=rng)[0, ::2] / 1000, fmt="%.4f")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory, pictures_not_drawn):
    """The folder that a reader works in, after the blocks of the README."""
    folder = tmp_path_factory.mktemp("reader")
    write_ecgs(folder)
    simulate_ptbxl(folder / "PTBXL", 100, seed=1, sampling_rates=(100,))
    test_challenge.write_folder(folder / "CHALLENGE")
    test_code15.write_folder(folder / "CODE15")
    for name, file in PUBLIC.items():
        shutil.copyfile(FIXTURES / file, folder / name)
    for name in ("hub_cards", "training"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache of datasets")
        run_document(README)
        yield folder


def run_document(path: pathlib.Path) -> None:
    scope = {"__name__": "reader"}
    for block in blocks_of(path):
        try:
            run_block(block, scope)
        except (Exception, SystemExit) as error:
            error.add_note(f"in the block at {path.relative_to(ROOT)}:{block.line}")
            raise


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_as_they_stand(scratch):
    findings = list(csv.DictReader(open("findings.csv", encoding="utf-8")))
    assert len(findings) == 120 and {row["label"] for row in findings} == {"AF", "LBBB"}
    assert json.loads(pathlib.Path("runs/mine-test/metrics.json").read_text())["split"] == "test"
    assert np.load("features.npy").shape == (100, 128)


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_the_blocks_of_a_guide_run_as_they_stand(path, scratch):
    run_document(path)


def test_the_section_on_own_ecgs_is_short():
    text = README.read_text(encoding="utf-8")
    section = text[text.index("## Your own ECGs") :]
    shell, python = blocks_of(README, section[: section.index("\n## ", 5)])
    assert [words[:2] for words in shell.commands] == [["ecg-hf", name] for name in ("train", "evaluate", "classify")]
    assert len(shell.text.splitlines()) <= 5 and len(python.text.splitlines()) <= 8


def test_the_readme_has_at_most_a_thousand_words():
    assert len(README.read_text(encoding="utf-8").split()) <= 1000


def test_each_guide_is_run_and_in_the_readme():
    guides = sorted(GUIDES.glob("*.md"))
    assert set(guides) <= set(DOCUMENTS) and len(guides) >= 8
    text = README.read_text(encoding="utf-8")
    assert [guide.name for guide in guides if f"(training/guides/{guide.name})" not in text] == []


def test_each_fence_is_of_a_language_that_is_run_or_shown():
    for path in DOCUMENTS:
        found = blocks_of(path)
        assert {block.language for block in found} <= LANGUAGES, path
        assert len(re.findall("^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE)) == 2 * len(found), path


def anchors_of(path: pathlib.Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not link.startswith("https://"):
            assert target.is_relative_to(ROOT) and target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def test_files_named_in_backticks_exist():
    for path in DOCUMENTS:
        named = re.findall(
            r"`((?:training|tests|hub_cards|ecg_hf|findings)/[\w./-]*)`", path.read_text(encoding="utf-8")
        )
        assert [name for name in named if not (ROOT / name).exists()] == [], path


def test_pictures_are_small():
    pictures = [path for path in GUIDES.iterdir() if path.suffix in (".png", ".svg")]
    assert len(pictures) >= 2 and all(path.stat().st_size <= 100_000 for path in pictures)


# ---- The blocks would fail ----

WRONG = {
    "a flag": "ecg-hf train --table ecgs.csv --lable_columns AF --output_dir runs/x",
    "a command": "ecg-hf clasify ecgs.csv",
    "a flag of a launcher": "accelerate launch --config_files training/launch/ddp.yaml training/train.py",
    "a script": "python training/trian.py --data_dir PTBXL",
    "a program": "wget https://example.org",
    "an extra": "pip install -c constraints.txt '.[reader]'",
    "a target": "make demos",
}


@pytest.mark.parametrize("is_run", [True, False])
@pytest.mark.parametrize("command", WRONG.values(), ids=WRONG)
def test_a_wrong_command_is_found(command, is_run, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (words,) = Block(README, 1, "sh", command).commands
    with pytest.raises((SystemExit, AssertionError, OSError)):
        run_command(words, is_run)


def test_a_wrong_import_is_found():
    with pytest.raises(ImportError):
        run_block(Block(README, 1, "python", "# needs the network\nfrom ecg_hf import load_ecg"), {})
