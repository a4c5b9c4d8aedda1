"""The page itself, of Gradio: files to drop, ECG paper, a table of findings, and what a finding rests on.

It stays on this machine: nothing is shared or measured by others, and neither fonts nor scripts come from elsewhere.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

try:
    import gradio
except ImportError as error:
    raise ImportError("The page needs the package gradio: pip install 'ecg-hf[demo]'.") from error

from ..ecg_transformer.wfdb_ecg_transformer import MAX_FILE_BYTES
from ..inference.sources import Facts
from .uploads import Upload, collect
from .viewer import Viewer, messages, paper

LOOPBACK = "127.0.0.1"
KEPT_SECONDS = 3600
"""Files that nobody asked for again are removed after so long, and all of them at the end."""

WARNING = (
    "<p class='ecg-warning'><strong>This is not a medical device.</strong> It is for research and has not been "
    "validated for any clinical use: not for diagnosis, triage or rule-out.</p>"
)
HELP = "<p>Drop any ECG file below; of WFDB the header (.hea) and its signal files together.</p>"
_UNITS = ["", "mV", "uV", "V", "nV"]

# Gradio's own colours, so that a dark page stays readable.
CSS = """
.ecg-warning { border-left: 4px solid #d55e00; padding: 0.5em 0.8em; background: #d55e0018; }
.ecg-error { border-left: 4px solid #d55e00; padding: 0.3em 0.8em; overflow-wrap: anywhere; }
.ecg-note { border-left: 4px solid #0072b2; padding: 0.3em 0.8em; overflow-wrap: anywhere; }
.ecg-paper { overflow-x: auto; }
.ecg-paper img { min-width: 60rem; width: 100%; height: auto; }
"""


PROGRESS = gradio.Progress()


class _Shown(NamedTuple):
    """What changes on the page when there is another upload or record."""

    upload: object
    index: object
    messages: object
    overview: object
    download: object
    picture: object
    findings: object
    hint: object
    attribution: object


def build_page(model: str) -> gradio.Blocks:
    """The page of a model, as `gradio.Blocks` that is not served yet.

    Args:
        model: folder or Hub id of a post-trained checkpoint.

    Raises:
        OSError, RuntimeError, ValueError: the model cannot be loaded, or has no trained head.
    """
    return Page(Viewer(model)).blocks


def serve(
    page: gradio.Blocks, *, port: int | None = None, server_name: str | None = LOOPBACK, block: bool = True
) -> str:
    """Serve a page on this machine alone -> its address.

    Args:
        page: of [`build_page`].
        port: by default a free one from 7860 on.
        server_name: the interface; None, as in a Space, for that of GRADIO_SERVER_NAME.
        block: whether to wait until it is interrupted, once the address is printed.

    Raises:
        ValueError: `port` is none.
        OSError: it is taken.
    """
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"`port` must lie between 1 and {2**16 - 1}, got {port}.")
    _, address, _ = page.launch(
        server_name=server_name,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_FILE_BYTES,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        css=CSS,
    )
    if block:
        print(f"The page is at {address} (Ctrl+C ends it).", flush=True)
        page.block_thread()
    return address


class Page:
    """The components, and what happens between them."""

    def __init__(self, viewer: Viewer):
        self.viewer = viewer
        name = Path(viewer.model).name if Path(viewer.model).is_dir() else viewer.model
        with gradio.Blocks(
            title=f"ECG: {name}", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
        ) as blocks:
            gradio.HTML(f"<h1>Findings in an ECG</h1><p>Model: {html.escape(name)}</p>{WARNING}{HELP}")
            self._add_inputs()
            self._add_outputs()
            self._connect()
        self.blocks = blocks

    def _add_inputs(self) -> None:
        self.files = gradio.File(label="ECG files", file_count="multiple", elem_id="files")
        with gradio.Accordion("What the files do not say", open=False):
            gradio.Markdown("Only for files that state no rate, unit or names of leads, such as plain tables.")
            with gradio.Row():
                self.rate = gradio.Number(label="Sampling rate in Hz", value=None, minimum=0)
                self.units = gradio.Dropdown(_UNITS, label="Unit", value="")
                self.leads = gradio.Textbox(label="Leads in order", value="", placeholder="I II III aVR ...")
            self.again = gradio.Button("Read again")

    def _add_outputs(self) -> None:
        self.shown = _Shown(
            upload=gradio.State(None, time_to_live=KEPT_SECONDS),
            index=gradio.State(None),
            messages=gradio.HTML(elem_id="messages"),
            overview=gradio.Dataframe(
                headers=["record", "findings", "problem"],
                label="Records: click on one to see it",
                interactive=False,
                visible=False,
                wrap=True,
                elem_id="overview",
            ),
            download=gradio.DownloadButton("Download the scores of all labels (CSV)", visible=False, elem_id="csv"),
            picture=gradio.HTML(elem_id="picture"),
            findings=gradio.Dataframe(
                headers=self.viewer.columns(),
                label="Findings: click on one to see what it rests on",
                interactive=False,
                visible=False,
                elem_id="findings",
            ),
            hint=gradio.HTML(elem_id="hint"),
            attribution=gradio.HTML(elem_id="attribution"),
        )

    def _connect(self) -> None:
        inputs = [self.files, self.rate, self.units, self.leads]
        # One at a time: the warnings of a record are caught for the whole process.
        settings = {"concurrency_id": "model", "api_visibility": "private"}
        for event in (self.files.upload, self.again.click):
            event(self.read, inputs, list(self.shown), **settings)
        self.files.clear(self._empty, None, list(self.shown), **settings)
        self.shown.overview.select(self.choose, [self.shown.upload], list(self.shown), **settings)
        which = [self.shown.upload, self.shown.index]
        self.shown.findings.select(self.explain, which, [self.shown.attribution], **settings)

    def _empty(self) -> _Shown:
        hidden = gradio.update(visible=False)
        return _Shown(None, None, "", hidden, hidden, "", hidden, "", "")

    def read(
        self, paths: Sequence[str] | None, rate: float | None, units: str, leads: str, progress=PROGRESS
    ) -> _Shown:
        """Answer an upload: of one record its picture and findings, of several a table."""
        if not paths:
            return self._empty()._replace(messages=messages(["There is no file yet: drop one above."], "note"))
        try:
            names = tuple(leads.replace(",", " ").split()) or None
            upload = collect(paths, Facts(rate or None, units or None, names))
        except ValueError as error:
            return self._empty()._replace(messages=messages([str(error)], "error"))
        for number, _ in enumerate(self.viewer.answer(upload), 1):
            progress((number, len(upload.items)), unit="records")
        if len(upload.items) == 1:
            return self._one(upload, 0)
        return self._many(upload)

    def _many(self, upload: Upload) -> _Shown:
        path = Path(upload.folder.name, "findings.csv")
        path.write_text(self.viewer.csv(upload), encoding="utf-8")
        return self._empty()._replace(
            upload=upload,
            overview=gradio.update(value=self.viewer.overview(upload), visible=True),
            download=gradio.update(value=str(path), visible=True),
        )

    def choose(self, upload: Upload, event: gradio.SelectData) -> _Shown:
        """Show one record of several."""
        return self._one(upload, event.index[0])

    def _one(self, upload: Upload, index: int) -> _Shown:
        answer = upload.answers[index]
        several = gradio.skip() if len(upload.items) > 1 else gradio.update(visible=False)
        shown = self._empty()._replace(upload=upload, index=index, overview=several, download=several)
        if answer.problem is not None:
            return shown._replace(messages=messages([upload.bare(answer.problem)], "error"))
        record, notes = self.viewer.read(upload, index)
        said = dict.fromkeys([*map(upload.bare, answer.notes), *notes])
        return shown._replace(
            messages=messages(said, "note"),
            picture=paper(record, answer.name),
            findings=gradio.update(value=self.viewer.findings(answer), visible=True),
            hint=messages([self.viewer.words_on_calibration()], "note"),
        )

    def explain(self, upload: Upload, index: int, event: gradio.SelectData) -> str:
        """Draw over the ECG what the finding that was clicked on rests on."""
        finding = upload.answers[index].value[event.index[0]]
        try:
            return self.viewer.attribution(upload, index, finding["label"])
        except ValueError as error:
            return messages([upload.bare(str(error))], "error")


__all__ = ["Page", "build_page", "serve"]
