"""Files and folders appear complete or not at all, whoever else writes them."""

import os

from ecg_hf.files import whole_file, whole_folder


def test_machines_that_share_a_disk_do_not_write_into_each_others_files(tmp_path, monkeypatch):
    """As two processes of the same number, each on its machine, that fill the same cache."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with whole_file(tmp_path / "records.arrow") as first:
        first.write_text("first")
        with whole_file(tmp_path / "records.arrow") as second:
            second.write_text("second")
        assert first.read_text() == "first"
    assert (tmp_path / "records.arrow").read_text() == "first"
    with whole_folder(tmp_path / "features") as first, whole_folder(tmp_path / "other" / "features") as second:
        (first / "a").touch()
        assert first.name != second.name
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["a"]
    assert not list(tmp_path.rglob(".*"))
