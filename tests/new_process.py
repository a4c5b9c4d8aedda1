"""New processes for tests of what a process loads, or does without the package, that need not load torch each time.

Not for tests of memory: pages that a fork shares become its own one by one.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]

# What most of the time of loading goes into. transformers, what loads it, and the package are left to the code.
SERVER = """
import json, os, sys, traceback
import accelerate, datasets, pandas, scipy.optimize, scipy.signal, scipy.stats, sklearn.model_selection
import torch._dynamo, torch.distributed.checkpoint, torch.distributed.tensor
assert not {"transformers", "peft", "ecg_hf"} & sys.modules.keys()
for line in sys.stdin:
    task = json.loads(line)
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.environ.update(task["environment"])
            os.chdir(task["cwd"])
            for number in (1, 2):
                os.dup2(os.open(task["files"][number - 1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["-c", *task["arguments"]]
            exec(task["code"], {"__name__": "__main__"})
            status = 0
        except SystemExit as exit_:
            said = isinstance(exit_.code, str)
            if said:
                print(exit_.code, file=sys.stderr)
            status = 1 if said else exit_.code or 0
        except Exception:  # ends the fork alone, as it would a process
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def environment() -> dict[str, str]:
    """Of a process that imports this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class NewProcesses:
    """Called with code, as `python -c` is: runs it in a fork of a process that has loaded the slow libraries."""

    def __init__(self):
        command = [sys.executable, "-W", "ignore", "-c", SERVER]
        self.server = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, code: str, *arguments: object, cwd=".", **variables: object) -> subprocess.CompletedProcess:
        """What it printed, and its exit code; `variables` are of its environment."""
        with tempfile.TemporaryDirectory() as folder:
            files = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
            task = {"code": code, "arguments": list(map(str, arguments)), "cwd": os.path.abspath(cwd)}
            task |= {"environment": {name: str(value) for name, value in variables.items()}}
            print(json.dumps({**task, "files": list(map(str, files))}), file=self.server.stdin, flush=True)
            ended = int(self.server.stdout.readline())
            return subprocess.CompletedProcess(code, ended, *(file.read_text() for file in files))

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(30)
