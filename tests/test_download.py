"""PTB-XL over HTTP, from a server on the loopback interface, and from a zip."""

import email.utils
import hashlib
import http.server
import threading
import time
import zipfile

import pytest

from ecg_hf import cli, load_ptbxl
from ecg_hf.ptbxl import download
from ecg_hf.ptbxl.download import download_ptbxl, unpack_ptbxl
from ecg_hf.synthetic import simulate_ptbxl

RECORD = "records100/00000/00007_lr.dat"


class Server:
    """Serves a folder as PhysioNet does, with ranges.

    `broken` gives for a name how many of its next answers end half-way, `damaged` names what is served with other
    bytes, `requests` are (name, range). `busy` gives for a name the next answers as (status, headers), `silent` names
    what is never answered, and `times` notes when each name was asked for.
    """

    def __init__(self, files):
        self.files = dict(files)
        self.closed = threading.Event()
        self.broken, self.damaged, self.requests = {}, set(), []
        self.busy, self.silent, self.times = {}, set(), {}
        handler = type("Handler", (_Handler,), {"files": self.files, "server_of_test": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/files/ptb-xl/1.0.3/"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        test, name = self.server_of_test, self.path.removeprefix("/files/ptb-xl/1.0.3/")
        wanted = self.headers.get("Range")
        test.requests.append((name, wanted))
        test.times.setdefault(name, []).append(time.monotonic())
        if name in test.silent:
            test.closed.wait(20)
            self.close_connection = True
            return
        if test.busy.get(name):
            status, headers = test.busy[name].pop(0)
            self.send_response(status)
            for header, value in {"Content-Length": "0", **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            return
        if name not in self.files:
            self.send_error(404)
            return
        content = bytes(reversed(self.files[name])) if name in test.damaged else self.files[name]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        content = content[start:]
        if test.broken.get(name, 0):
            test.broken[name] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return simulate_ptbxl(tmp_path_factory.mktemp("source") / "ptb-xl", 40, seed=3, sampling_rates=(100, 500))


@pytest.fixture(scope="module")
def files(source):
    """Name -> content, with the list of checksums and the licence, as PhysioNet has them."""
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    files["LICENSE.txt"] = b"Creative Commons Attribution 4.0\n"
    sums = [f"{hashlib.sha256(content).hexdigest()} {name}" for name, content in files.items()]
    return {**files, "SHA256SUMS.txt": ("\n".join(sums) + "\n").encode()}


@pytest.fixture
def server(files):
    server = Server(files)
    yield server
    server.close()


def wanted(files, rate=100):
    tables = {"LICENSE.txt", "ptbxl_database.csv", "scp_statements.csv"}
    return {name for name in files if name in tables or name.startswith(f"records{rate}/")}


def present(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_command_fetches_one_rate_that_load_ptbxl_reads(server, files, source, tmp_path, capsys):
    folder = tmp_path / "ptb xl"
    cli.download_ptbxl([str(folder), "--sampling_rate", "100", "--base_url", server.url])
    assert present(folder) == wanted(files) | {"SHA256SUMS.txt"} and str(folder) in capsys.readouterr().out
    assert all((folder / name).read_bytes() == files[name] for name in wanted(files))
    splits = load_ptbxl(folder, "all", 100, cache_dir=tmp_path / "cache")
    assert sum(map(len, splits.values())) == 40


def test_complete_files_are_not_downloaded_again(server, files, tmp_path):
    download_ptbxl(tmp_path, 100, base_url=server.url)
    (tmp_path / RECORD).write_bytes(b"changed")
    server.requests.clear()
    download_ptbxl(tmp_path, 100, base_url=server.url)
    assert [name for name, _ in server.requests] == ["SHA256SUMS.txt", RECORD]
    assert (tmp_path / RECORD).read_bytes() == files[RECORD]


def test_a_lost_connection_resumes_where_it_was(server, files, tmp_path):
    server.broken = {RECORD: 2, "ptbxl_database.csv": 1}
    download_ptbxl(tmp_path, 100, base_url=server.url, seconds_between_attempts=0.01)
    assert present(tmp_path) >= wanted(files) and (tmp_path / RECORD).read_bytes() == files[RECORD]
    half, size = len(files[RECORD]) // 2, len(files[RECORD])
    assert [start for name, start in server.requests if name == RECORD] == [
        None,
        f"bytes={half}-",
        f"bytes={half + (size - half) // 2}-",
    ]


def test_a_failed_download_resumes_with_the_same_call(server, files, tmp_path):
    server.broken = {RECORD: 5}
    with pytest.raises(ConnectionError, match=rf"{RECORD} failed after 5 attempts.*Downloaded data are kept"):
        download_ptbxl(tmp_path, 100, base_url=server.url, seconds_between_attempts=0.001)
    kept = (tmp_path / f"{RECORD}.part").stat().st_size
    assert kept > len(files[RECORD]) / 2 and not (tmp_path / RECORD).exists()
    server.requests.clear()
    download_ptbxl(tmp_path, 100, base_url=server.url)
    assert (RECORD, f"bytes={kept}-") in server.requests and present(tmp_path) >= wanted(files)


def test_a_part_of_another_file_is_downloaded_again(server, files, tmp_path):
    part = tmp_path / f"{RECORD}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\x01" * 100)
    download_ptbxl(tmp_path, 100, base_url=server.url)
    assert (tmp_path / RECORD).read_bytes() == files[RECORD] and not part.exists()


def test_a_damaged_file_is_named_and_not_kept(server, files, tmp_path):
    server.damaged = {RECORD}
    with pytest.raises(OSError, match=rf"{RECORD} had another SHA-256 than SHA256SUMS.txt lists"):
        download_ptbxl(tmp_path, 100, base_url=server.url)
    assert not {RECORD, f"{RECORD}.part"} & present(tmp_path)
    assert (RECORD, None) in server.requests


def test_a_server_without_the_files_is_named(server, tmp_path, capsys):
    with pytest.raises(ConnectionError, match="refused .*/nothing/SHA256SUMS.txt: 404"):
        download_ptbxl(tmp_path, 100, base_url=f"{server.url}nothing/")
    server.files["SHA256SUMS.txt"] = b"0 x\n"
    with pytest.raises(ValueError, match="does not name ptbxl_database.csv and records at 100 Hz"):
        download_ptbxl(tmp_path, 100, base_url=server.url)
    with pytest.raises(ValueError, match="100 and 500 Hz, not at 250 Hz"):
        download_ptbxl(tmp_path, 250, base_url=server.url)
    server.files["SHA256SUMS.txt"] = b"0" * 64 + b" records100/../../outside.dat\n"
    with pytest.raises(ValueError, match="not a SHA-256 and a path"):
        download_ptbxl(tmp_path, 100, base_url=server.url)
    for flags, message in (
        (["--base_url", f"{server.url}nothing/"], f"{server.url}nothing/"),
        (["--sampling_rate", "250"], "PTB-XL has records at 100 and 500 Hz, not at 250 Hz."),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["download-ptbxl", str(tmp_path), *flags])
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.startswith("ecg-hf: error: ") and message in error


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_busy_server_is_asked_again(server, files, tmp_path, status):
    server.busy = {RECORD: [(status, {})] * 2, "SHA256SUMS.txt": [(status, {})], "ptbxl_database.csv": [(status, {})]}
    download_ptbxl(tmp_path, 100, base_url=server.url, seconds_between_attempts=0.01)
    assert present(tmp_path) >= wanted(files) and (tmp_path / RECORD).read_bytes() == files[RECORD]
    assert len(server.times[RECORD]) == 3


def test_a_server_that_stays_busy_is_left_with_its_answer(server, tmp_path):
    server.busy = {RECORD: [(503, {})] * 9}
    with pytest.raises(ConnectionError, match=rf"{RECORD} failed after 5 attempts .*busy: 503.*are kept"):
        download_ptbxl(tmp_path, 100, base_url=server.url, seconds_between_attempts=0.001)
    assert len(server.times[RECORD]) == 5
    server.busy = {RECORD: [(429, {"Retry-After": "86400"})]}
    with pytest.raises(ConnectionError, match="busy: 429, and asks to come back in 86400 s.*are kept"):
        download_ptbxl(tmp_path, 100, base_url=server.url, seconds_between_attempts=0.001)
    server.busy = {RECORD: [(403, {})]}
    with pytest.raises(ConnectionError, match="The server refused .*403"):
        download_ptbxl(tmp_path, 100, base_url=server.url, seconds_between_attempts=0.001)


@pytest.mark.parametrize("form", ["seconds", "date", "nonsense"])
def test_the_time_that_a_server_asks_for_is_kept(server, tmp_path, form):
    # A date has whole seconds, and other files are fetched before this one is asked for.
    date = email.utils.formatdate(time.time() + 4, usegmt=True)
    server.busy = {"LICENSE.txt": [(429, {"Retry-After": {"seconds": "1", "date": date}.get(form, "soon")})]}
    download_ptbxl(tmp_path, 100, base_url=server.url, seconds_between_attempts=0.01)
    first, second = server.times["LICENSE.txt"]
    assert second - first < 0.9 if form == "nonsense" else second - first >= 0.5


def test_a_server_that_sends_nothing_is_left(server, tmp_path, monkeypatch):
    assert download.SILENT_ATTEMPTS * download.SECONDS_TO_WAIT == 60
    monkeypatch.setattr(download, "SECONDS_TO_WAIT", 0.5)
    server.silent = {RECORD}
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"{RECORD} failed: the server sent nothing for 1.0 s.*are kept"):
        download_ptbxl(tmp_path, 100, base_url=server.url, seconds_between_attempts=0.01)
    assert time.monotonic() - start < 5 and len(server.times[RECORD]) == 2
    server.silent.clear()
    server.closed.set()
    download_ptbxl(tmp_path, 100, base_url=server.url)


@pytest.mark.parametrize("where", ["in a line", "between lines", "of one file", "in the table's last"])
def test_a_list_of_checksums_that_was_cut_is_noticed(server, files, tmp_path, where):
    lines = sorted(files["SHA256SUMS.txt"].decode().splitlines(), key=lambda line: "ptbxl_database" not in line)
    if where == "of one file":
        lines = [line for line in lines if RECORD not in line]
    else:
        half = [index for index, line in enumerate(lines) if "records100/" in line][20]
        lines = lines[: half + 1]
        lines[-1] = {"in a line": lines[-1][:-3], "in the table's last": lines[-1][:30]}.get(where, lines[-1])
    server.files["SHA256SUMS.txt"] = "\n".join(lines).encode()
    with pytest.raises(
        OSError, match=r"SHA256SUMS.txt lacks \d+ of the 80 files that ptbxl_database.csv names, first"
    ):
        download_ptbxl(tmp_path, 100, base_url=server.url)
    assert not list(tmp_path.rglob("*.dat"))


# ---- The zip ----


@pytest.fixture(scope="module")
def zipped(files, tmp_path_factory):
    """As PhysioNet's: one folder of a long name, and in it everything."""
    path = tmp_path_factory.mktemp("zip") / "ptb-xl-1.0.3.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3/{name}", content)
    return path


def test_a_zip_loads_as_its_folder_does(zipped, source, tmp_path):
    from_zip = load_ptbxl(zipped, "all", 500, cache_dir=tmp_path)
    from_folder = load_ptbxl(source, "all", 500, cache_dir=tmp_path / "other")
    for split, records in from_folder.items():
        assert from_zip[split].with_format("arrow")[:] == records.with_format("arrow")[:]
    (folder,) = tmp_path.glob("ptbxl-zip-*")
    assert not (folder / "records100").exists()
    before = folder.stat().st_mtime_ns
    load_ptbxl(zipped, "form", 500, cache_dir=tmp_path)
    assert list(tmp_path.glob("ptbxl-zip-*")) == [folder] and folder.stat().st_mtime_ns == before


def test_a_zip_that_is_damaged_or_another_is_refused(zipped, files, tmp_path):
    content = bytearray(zipped.read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "damaged.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    for name in ("damaged.zip", "cut.zip"):
        with pytest.raises(ValueError, match=f"{name} is not a zip file, or is damaged"):
            for rate in (100, 500):
                unpack_ptbxl(tmp_path / name, rate, tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "")
    with pytest.raises(ValueError, match="does not contain ptbxl_database.csv"):
        load_ptbxl(tmp_path / "other.zip", "all", 100, cache_dir=tmp_path)
    assert not list(tmp_path.glob("cache/.ptbxl-zip-*"))
