"""Publishing and loading, with the real clients against a Hub on the loopback interface."""

import ast
import getpass
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from conftest import SHARED
from hub_server import File, HubServer
from huggingface_hub import DatasetCard, ModelCard
from small_models import small_extractor, small_model

import ecg_hf.cli
from ecg_hf.cards import preprocessing_in_words, update_card, write_model_card
from ecg_hf.ptbxl.labels import task_labels
from ecg_hf.shipped import DEFAULT_CLASSIFIER

ROOT = pathlib.Path(__file__).parents[1]
CODE = ROOT / "ecg_hf" / "ecg_transformer"
TOKENS = {"hf_alice": "alice", "hf_bob": "bob"}

PUBLISHED = {
    "README.md",
    "all_results.json",
    "config.json",
    "label_metrics.png",
    "learning_curves.png",
    "metrics.json",
    "model.safetensors",
    "precision_recall.png",
    "precision_recall.svg",
    "preprocessor_config.json",
    "recipe.yaml",
    "reliability.png",
    "reliability.svg",
    *(path.name for path in CODE.glob("[!_]*.py")),
}

TRAINING = {
    "architecture": "ptbxl_100hz",
    "task": "superdiagnostic",
    "max_steps": 4,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "logging_steps": 1,
    "probe_num_train_epochs": 2,
    "num_bootstrap_resamples": 50,
    "per_device_train_batch_size": 32,
    "use_cpu": True,
    "disable_tqdm": True,
}

# Executes the pieces of code that come line by line, all in one namespace, so that libraries are imported once.
CLIENT = """
import json, sys
scope = {}
for line in sys.stdin:
    answer = {}
    try:
        exec(json.loads(line), scope)
        answer["result"] = scope.pop("result", None)
    except BaseException as error:
        answer["error"] = [type(error).__name__, str(error)]
    print("\\0" + json.dumps(answer), flush=True)
"""


class ClientError(Exception):
    pass


class Client:
    """A process that runs pieces of code with a Hub; what a piece assigns to `result` is returned."""

    def __init__(self, environment: dict[str, str], folder: pathlib.Path):
        self.stderr = folder / "stderr"
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(self.stderr, "w"),
            text=True,
            env=environment,
            cwd=folder,
        )
        self.printed = ""

    def run(self, code: str):
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("\0"):
            assert line, "the client died"
            self.printed += line
        answer = json.loads(line[1:])
        if "error" in answer:
            raise ClientError(": ".join(answer["error"]))
        return answer["result"]

    def errors(self) -> str:
        """What the process wrote to stderr."""
        return self.stderr.read_text()

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def environment(folder: pathlib.Path, endpoint: str, **values: str) -> dict[str, str]:
    """Of a fresh user: nothing cached, no token but the one given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **inherited,
        "HF_HOME": str(folder),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **values,
    }


def train_command(**values) -> str:
    flags = [str(part) for name, value in {**TRAINING, **values}.items() for part in (f"--{name}", value)]
    return f"from ecg_hf import cli\nresult = cli.train({flags!r})"


@pytest.fixture(scope="module")
def hub():
    with HubServer(TOKENS, organizations={"org": {"alice"}}) as server:
        yield server


@pytest.fixture(scope="module")
def alice(hub, tmp_path_factory):
    """Alice's session: the package is installed."""
    folder = tmp_path_factory.mktemp("alice")
    client = Client(environment(folder / "home", hub.url, HF_TOKEN="hf_alice", PYTHONPATH=str(ROOT)), folder)
    # As in the other tests: see `shallow_presets`.
    client.run(
        "from ecg_hf.ecg_transformer.configuration_ecg_transformer import PRESETS\n"
        "PRESETS['ptbxl_100hz']['num_hidden_layers'] = 2"
    )
    yield client
    client.close()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("a folder with blanks") / "run"


@pytest.fixture(scope="module")
def published(hub, alice, run_folder, simulated_folder, simulated_cache):
    """Name of a model that `train.py --push_to_hub` trained and pushed."""
    alice.run(
        train_command(
            data_dir=simulated_folder,
            cache_dir=simulated_cache,
            output_dir=run_folder,
            push_to_hub=True,
            hub_model_id="org/ecg",
        )
    )
    return "org/ecg"


@pytest.fixture(scope="module", autouse=True)
def broken_push(hub, alice, published, run_folder, tmp_path_factory):
    """A push whose upload breaks each time. It runs beside the tests: the client goes on trying for 23 seconds."""
    folder = tmp_path_factory.mktemp("broken") / "run"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("_stages"))
    hub.cut_off.add("org/broken")
    alice.run(
        f"""
import threading
from ecg_hf.hub import push_dataset, push_model
broken = []
def push_broken():
    try:
        push_model({str(folder)!r}, "org/broken", token="hf_alice")
    except Exception as error:
        broken.append([type(error).__name__, str(error)])
thread = threading.Thread(target=push_broken)
thread.start()
"""
    )


@pytest.fixture(scope="module")
def probabilities(run_folder, published, simulated_folder):
    """Of one record, in label order, from the folder that training left."""
    from transformers import pipeline

    classifier = pipeline("ecg-classification", model=str(run_folder), device="cpu")
    findings = classifier(str(record_of(simulated_folder)))
    scores = {finding["label"]: finding["score"] for finding in findings}
    return [scores[label] for label in sorted(scores)]


def record_of(simulated_folder) -> pathlib.Path:
    return simulated_folder / "records100/00000/00001_lr"


# ---- A repository that stands alone ----


def test_a_run_is_published_whole_and_in_one_commit(hub, published, run_folder):
    files = hub.files(published)
    assert files.keys() == PUBLISHED
    assert [commit.title for commit in hub.repositories["model", published].commits.values()] == [
        "initial commit",
        "Post-trained ECG Transformer",
    ]
    assert all(content == (run_folder / name).read_bytes() for name, content in files.items())
    config = json.loads(files["config.json"])
    assert config["auto_map"] == {
        "AutoConfig": "configuration_ecg_transformer.ECGTransformerConfig",
        "AutoModel": "modeling_ecg_transformer.ECGTransformerForMultiLabel",
        "AutoModelForSequenceClassification": "modeling_ecg_transformer.ECGTransformerForMultiLabel",
        "AutoModelForPreTraining": "modeling_ecg_transformer.ECGTransformerForPreTraining",
        "AutoFeatureExtractor": "feature_extraction_ecg_transformer.ECGTransformerFeatureExtractor",
    }
    assert config["custom_pipelines"] and len(config["thresholds"]) == len(config["id2label"]) == 5
    assert ("POST", "/api/validate-yaml") in hub.requests


def test_a_pre_trained_encoder_is_published_with_a_card_of_its_own(
    hub, alice, simulated_folder, simulated_cache, tmp_path
):
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    settings = {**places, "architecture": "ptbxl_100hz", "max_steps": 1, "per_device_train_batch_size": 16}
    flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    ecg_hf.cli.pretrain([*flags, "--use_cpu", "true", "--disable_tqdm", "true"])
    alice.run(f"from ecg_hf.hub import push_model; push_model({str(tmp_path / 'run')!r}, 'alice/encoder')")
    files = hub.files("alice/encoder")
    assert {"README.md", "config.json", "learning_curves.png", "metrics.json", "model.safetensors"} <= files.keys()
    card = files["README.md"].decode()
    assert "ecg-hf train --model_name_or_path alice/encoder" in card and "pipeline_tag: feature-extraction" in card
    assert str(tmp_path) not in card


def test_nothing_of_the_machine_is_published(hub, published, run_folder, simulated_folder, simulated_cache):
    secrets = [str(path) for path in (run_folder, simulated_folder, simulated_cache, ROOT, pathlib.Path.home())]
    secrets += ["hf_alice", *([user] if len(user := getpass.getuser()) > 4 else [])]
    for name, content in hub.files(published).items():
        assert not any(secret.encode() in content for secret in secrets), name


WITHOUT_PACKAGE = """
import json, sys
sys.modules["ecg_hf"] = None
from transformers import (
    AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, pipeline
)
where = {"revision": REVISION, "trust_remote_code": True}
parts = [
    kind.from_pretrained("org/ecg", **where)
    for kind in (AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification)
]
classifier = pipeline("ecg-classification", model="org/ecg", device="cpu", **where)
for part in (*parts, classifier, classifier.model, classifier.feature_extractor):
    assert type(part).__module__.startswith("transformers_modules"), type(part)
scores = {finding["label"]: finding["score"] for finding in classifier(RECORD)}
print(json.dumps([scores[label] for label in sorted(scores)]))
"""
WITHOUT_CACHE = """
try:
    AutoModel.from_pretrained("org/ecg", cache_dir="nothing", **where)
except OSError as error:
    print(json.dumps(str(error)))
"""


def run_without_package(code: str, record: pathlib.Path, revision: str, variables: dict[str, str], folder):
    code = f"RECORD, REVISION = {str(record)!r}, {revision!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_the_repository_works_without_the_package_and_later_without_the_hub(
    hub, published, probabilities, simulated_folder, tmp_path
):
    record, commit = record_of(simulated_folder), hub.repositories["model", published].branches["main"]
    variables = environment(tmp_path / "home", hub.url)
    (first,) = run_without_package(WITHOUT_PACKAGE, record, commit, variables, tmp_path)
    assert first == pytest.approx(probabilities, abs=1e-6)
    variables = environment(tmp_path / "home", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    again, message = run_without_package(WITHOUT_PACKAGE + WITHOUT_CACHE, record, commit, variables, tmp_path)
    assert again == first
    assert "offline" in message or "couldn't connect" in message.lower()


def test_with_the_package_no_trust_is_needed(alice, published, probabilities, simulated_folder):
    modules, scores = alice.run(
        f"""
import ecg_hf
from transformers import AutoFeatureExtractor, AutoModel, pipeline
parts = [kind.from_pretrained({published!r}) for kind in (AutoModel, AutoFeatureExtractor)]
classifier = pipeline("ecg-classification", model={published!r}, device="cpu")
findings = classifier({str(record_of(simulated_folder))!r})
scores = {{finding["label"]: finding["score"] for finding in findings}}
modules = [type(part).__module__ for part in (*parts, classifier, classifier.model)]
result = modules, [scores[label] for label in sorted(scores)]
"""
    )
    assert all(module.startswith("ecg_hf.") for module in modules)
    assert scores == pytest.approx(probabilities, abs=1e-6)


def test_a_model_pushes_itself_to_a_private_repository_and_a_branch(hub, alice, published):
    alice.run(
        """
from ecg_hf import ECGTransformerFeatureExtractor, ECGTransformerForMultiLabel
model = ECGTransformerForMultiLabel.from_pretrained("org/ecg")
model.push_to_hub("alice/secret", private=True)
model.push_to_hub("alice/secret", revision="second")
model.save_pretrained("saved", push_to_hub=True, repo_id="alice/third", token="hf_alice", private=True)
"""
    )
    repository = hub.repositories["model", "alice/secret"]
    assert repository.private and hub.repositories["model", "alice/third"].private
    for branch in ("main", "second"):
        files = hub.files("alice/secret", revision=branch)
        assert files["model.safetensors"] == hub.files(published)["model.safetensors"]
        assert files.keys() >= {path.name for path in CODE.glob("[!_]*.py")}
        assert "ecg-classification" in json.loads(files["config.json"])["custom_pipelines"]
    load = (
        "ECGTransformerForMultiLabel.from_pretrained('alice/secret', revision='second', token={0!r}, cache_dir={0!r})"
    )
    alice.run(load.format("hf_alice"))
    with pytest.raises(ClientError, match="alice/secret is not a local folder and is not a valid model identifier"):
        alice.run(load.format("hf_bob"))


def test_the_code_that_is_published_imports_nothing_outside_its_folder():
    allowed = {"torch", "numpy", "scipy", "transformers", "wfdb", "huggingface_hub", *sys.stdlib_module_names}
    for path in CODE.glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path
                names = [] if node.level else [node.module]
            else:
                continue
            assert {name.split(".")[0] for name in names} <= allowed, path


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package alone, as its wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").iterdir()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", "site", wheel]
    subprocess.run(install, cwd=folder, check=True, capture_output=True)
    return folder / "site"


def test_an_installed_wheel_publishes_too(hub, published, run_folder, site, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("_stages", "*.py", "README.md"))
    code = f"""
import ecg_hf, pathlib
from ecg_hf.hub import push_model
assert pathlib.Path(ecg_hf.__file__).is_relative_to({str(site)!r}), ecg_hf.__file__
push_model("run", "wheel")
"""
    variables = environment(tmp_path / "home", hub.url, HF_TOKEN="hf_alice", PYTHONPATH=str(site))
    done = subprocess.run([sys.executable, "-c", code], env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert hub.files("alice/wheel").keys() == PUBLISHED


def test_an_installed_wheel_classifies_a_record_without_a_network_or_a_model(site, tmp_path):
    record = SHARED / "data/challenge2021/E07501"
    if not record.with_suffix(".hea").is_file():
        pytest.skip(f"no record of the Challenge at {record}")
    checkpoint = site / "ecg_hf" / "checkpoints" / DEFAULT_CLASSIFIER
    source = ROOT / "hub_cards" / DEFAULT_CLASSIFIER
    if source.is_dir():
        assert {file.name for file in checkpoint.iterdir()} == {file.name for file in source.iterdir()}
    else:  # it has no classifier yet
        small_model(task_labels("all")).save_pretrained(checkpoint)
        small_extractor().save_pretrained(checkpoint)
    assert [folder.name for folder in checkpoint.parent.iterdir()] == [DEFAULT_CLASSIFIER]
    variables = environment(tmp_path / "home", "http://localhost:9", HF_HUB_OFFLINE="1", PYTHONPATH=str(site))
    command = [sys.executable, "-m", "ecg_hf.cli", "classify", str(record)]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    name, *findings = done.stdout.splitlines()
    assert name == str(record) and {line.split()[1] for line in findings} == set(task_labels("all"))
    assert f"{DEFAULT_CLASSIFIER} is used" in done.stderr
    encoder = [*command, "--model", "ecg-transformer-ptbxl-100hz"]
    done = subprocess.run(encoder, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "copy the folder `hub_cards/ecg-transformer-ptbxl-100hz`" in done.stderr


def test_weights_that_do_not_match_are_refused_from_the_hub_as_well(hub, alice, published):
    repository = hub.repositories["model", published]
    files = dict(repository.resolve("main").files)
    config = json.loads(files["config.json"].content)
    depth = config["num_hidden_layers"]
    files["config.json"] = File(json.dumps({**config, "num_hidden_layers": depth + 1}).encode(), is_lfs=False)
    repository.commit("broken", "one layer more", files)
    with pytest.raises(ClientError, match=f"RuntimeError: .*do not fit .*lacks ecg_transformer.layers.{depth}"):
        alice.run(
            "from ecg_hf import ECGTransformerForMultiLabel\n"
            f"ECGTransformerForMultiLabel.from_pretrained({published!r}, revision='broken')"
        )


# ---- Cards ----


def test_the_card_says_what_it_must(hub, published):
    card = hub.files(published)["README.md"].decode()
    for words in (
        "not a medical device",
        "org/ecg",
        "simulated ECGs",
        "myocardial infarction",
        "calibration error",
        "random weights",
        "Preview linear probing",
        "ecg-hf train --config",
        "![Learning curves](learning_curves.png)",
        "torch ",
    ):
        assert words in card, words
    body = re.sub(r"<!--.*?-->", "", card)
    assert not re.search(r"^(#+ .*)\n+(?=#|\Z)", body, re.MULTILINE), "a heading without text"
    assert "undefined" not in card and "None" not in card and "nan" not in body


def test_every_figure_of_the_results_has_its_interval(hub, published):
    card = hub.files(published)["README.md"].decode()
    results = card[card.index("## Evaluation") : card.index("## Environmental and technical")]
    rows = [line.strip("|").split("|") for line in results.splitlines() if line.startswith("|")]
    splits = [[cell.strip() for cell in row] for row in rows if row[0].strip() in ("validation", "test")]
    assert len(splits) == 2 and all(int(row[1]) > 0 for row in splits)
    labels = [[cell.strip() for cell in row] for row in rows if row[0].strip() in ("CD", "HYP", "MI", "NORM", "STTC")]
    assert len(labels) == 5 and all(int(row[2]) > 0 for row in labels)
    # Macro AUROC and AUPRC have none: the records are of fewer than 20 patients.
    assert all(re.fullmatch(r"0\.\d+|1\.000", cell) for row in splits for cell in row[2:4])
    for figure in (*(cell for row in splits for cell in row[4:]), *(cell for row in labels for cell in row[3:5])):
        value, low, high = map(float, re.fullmatch(r"(0\.\d+|1\.000) \[([\d.]+), ([\d.]+)\]", figure).groups())
        assert low <= high and 0 <= value <= 1


def test_the_metadata_are_what_the_hub_reads(hub, published):
    metrics = json.loads(hub.files(published)["metrics.json"])
    data = ModelCard(hub.files(published)["README.md"].decode()).data
    assert data.library_name == "transformers" and data.license == "apache-2.0"
    assert {"ecg", "ecg_transformer"} <= set(data.tags) and data.metrics == ["roc_auc", "average_precision"]
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in data.eval_results}
    for split in ("validation", "test"):
        assert found[split, "roc_auc"] == pytest.approx(metrics[split]["macro_auroc"], abs=1e-4)
        assert found[split, "average_precision"] == pytest.approx(metrics[split]["macro_auprc"], abs=1e-4)
    assert metrics["versions"]["ecg_hf"] == ecg_hf.__version__ and metrics["data"]["simulated"]


def test_a_space_serves_the_published_model(hub, alice, published, tmp_path):
    """Its files, its card by what the Hub reads, and the push; `test_demo.py` has the page that its `app.py` opens."""
    folder = tmp_path / "space"
    flags = ["--model", published, "--export_space", str(folder), "--push_to_hub", "ecg-page"]
    alice.run(f"from ecg_hf import cli\ncli.demo({flags!r})")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pushed = hub.files("alice/ecg-page", "space")
    assert {name: pushed[name] for name in files} == files
    assert f'build_page("{published}")' in files["app.py"].decode() and "server_name=None" in files["app.py"].decode()
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ecg_hf").rglob("*.py")}
    assert package <= files.keys() and not any("__pycache__" in name for name in files)
    metadata = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert metadata["sdk"] == "gradio" and metadata["app_file"] == "app.py" and metadata["models"] == [published]
    assert metadata["license"] == "apache-2.0" and re.fullmatch(r"\d+\.\d+\.\d+", metadata["sdk_version"])
    assert "not a medical device" in files["README.md"].decode()
    needs = files["requirements.txt"].decode()
    assert re.search(r"^torch>=", needs, re.MULTILINE) and "pytest" not in needs and "gradio" not in needs
    for flags, words in (
        (["--model", "alice/absent", "--export_space", str(tmp_path / "a")], "alice/absent"),
        (["--model", published, "--export_space", str(tmp_path / "b"), "--push_to_hub", "bob/page"], "may not write"),
    ):
        with pytest.raises(ClientError, match=words):
            alice.run(f"cli.demo({flags!r})")
    assert not (tmp_path / "a").exists() and ("space", "bob/page") not in hub.repositories


def test_a_second_push_keeps_what_people_wrote(hub, alice, published, run_folder, simulated_folder, simulated_cache):
    repository = hub.repositories["model", published]
    card = hub.files(published)["README.md"].decode()
    written = card.replace("license: apache-2.0", "license: mit\nlanguage: en").replace("- ecg\n", "- ecg\n- mine\n")
    written = written.replace(
        "<!-- generated: reproduce -->", "## Seen in our clinic\n\nBeware.\n\n<!-- generated: reproduce -->"
    )
    written = written.replace("macro AUROC", "tampered")
    files = {**repository.resolve("main").files, "README.md": File(written.encode(), False)}
    repository.commit("main", "Edit the card", files)
    (run_folder / "README.md").write_text(card + "\nA line from the folder.\n")

    push = train_command(
        data_dir=simulated_folder,
        cache_dir=simulated_cache,
        output_dir=run_folder,
        push_to_hub=True,
        hub_model_id=published,
        resume_from_checkpoint=True,
    )
    alice.run(push)
    new = hub.files(published)["README.md"].decode()
    assert new.count("Beware.") == 1 and "tampered" not in new
    own = (run_folder / "README.md").read_text()
    assert "A line from the folder." not in new and own.count("A line from the folder.") == own.count("Beware.") == 1
    assert "write into that one" in alice.errors()
    assert new.index("## Evaluation") < new.index("Beware.") < new.index("## Environmental and technical")
    data = ModelCard(new).data
    assert data.license == "mit" and data.language == "en" and data.tags.count("mine") == data.tags.count("ecg") == 1
    alice.run(push)
    assert hub.files(published)["README.md"].decode() == new
    files = {**files, "README.md": File(new.replace("Beware.", "Take care.").encode(), False)}
    repository.commit("main", "Edit the card again", files)
    alice.run(push)
    assert hub.files(published)["README.md"].decode() == new.replace("Beware.", "Take care.")
    assert (run_folder / "README.md").read_text().count("## Seen in our clinic") == 1


def test_a_damaged_mark_in_the_published_card_stops_the_push(hub, alice, published, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("_stages"))
    push = f"from ecg_hf.hub import push_model\npush_model({str(tmp_path / 'run')!r}, 'org/edited')"
    alice.run(push)
    repository = hub.repositories["model", "org/edited"]
    card = hub.files("org/edited")["README.md"].decode()
    damaged = card.replace("<!-- /generated -->", "\nMy own text.\n", 1)
    repository.commit("main", "Edit", {**repository.resolve("main").files, "README.md": File(damaged.encode(), False)})
    commits, own = len(repository.commits), (tmp_path / "run/README.md").read_text()
    with pytest.raises(ClientError, match="The published card .* damaged: `<!-- generated: summary -->` has no"):
        alice.run(push)
    assert len(repository.commits) == commits and hub.files("org/edited")["README.md"].decode() == damaged
    assert (tmp_path / "run/README.md").read_text() == own
    mended = card.replace("<!-- /generated -->", "<!--/generated-->\n\nMy own text.\n", 1).replace("\n", "\r\n")
    repository.commit("main", "Mend", {**repository.resolve("main").files, "README.md": File(mended.encode(), False)})
    alice.run(push)
    new = hub.files("org/edited")["README.md"].decode()
    assert new.count("My own text.") == new.count("## Evaluation") == 1 and "\r" not in new


def test_a_card_without_marks_stays_below_the_new_one():
    new = "---\nlicense: mit\n---\n<!-- generated: a -->\nnew\n<!-- /generated -->\n"
    merged = update_card(new, "---\ntags: [x]\n---\n# By hand\n")
    assert merged.index("new") < merged.index("# By hand") and "tags:" in merged
    assert "More Information" not in update_card(new, "# Model Card\n[More Information Needed]\n")
    with pytest.raises(ValueError, match="not YAML"):
        update_card(new, "---\na: [\n---\n")


@pytest.mark.parametrize(
    ("provenance", "words"),
    [
        ({"source": "them/encoder", "license": "CC BY-NC 4.0", "pretraining_data": ["PTB-XL"]}, "**It may have.**"),
        (
            {"source": "them/encoder", "license": "mit", "pretraining_data": ["CODE-15"]},
            "No: it was pre-trained on CODE-15",
        ),
        ({"source": "them/encoder", "license": None, "pretraining_data": None}, "Not known"),
        (
            {"source": "them/encoder", "license": "mit", "pretraining_data": "9 records of PTB-XL's folds 1 to 8"},
            "No: it was pre-trained on",
        ),
    ],
)
def test_the_card_tells_whether_the_base_saw_the_evaluation_data(published, run_folder, tmp_path, provenance, words):
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("_stages", "README.md"))
    config, metrics = (json.loads((tmp_path / "run" / name).read_text()) for name in ("config.json", "metrics.json"))
    metrics["data"] |= {"name": "PTB-XL", "simulated": False, "license": "CC BY 4.0"}
    (tmp_path / "run/config.json").write_text(json.dumps({**config, "provenance": provenance}))
    (tmp_path / "run/metrics.json").write_text(json.dumps(metrics))
    card = ModelCard(write_model_card(tmp_path / "run", "me/model"))
    assert words in card.text and card.data.base_model == "them/encoder" and card.data.datasets is None
    known = {"CC BY-NC 4.0": "cc-by-nc-4.0", "mit": "mit", None: "other"}
    assert card.data.license == known[provenance["license"]]


@pytest.mark.parametrize(
    ("evaluated", "words"),
    [
        ({"validation": [9], "test": [10]}, "No: it was pre-trained on"),
        ({"validation": [7], "test": [8]}, "**Yes.** It was pre-trained on"),
        ({"validation": [9], "test": ["unknown"]}, "**It may have.**"),
    ],
)
def test_the_folds_of_the_evaluation_are_those_that_the_base_must_not_have_seen(
    run_folder, tmp_path, evaluated, words
):
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("_stages", "README.md"))
    config, metrics = (json.loads((tmp_path / "run" / name).read_text()) for name in ("config.json", "metrics.json"))
    assert metrics["data"]["ptbxl_folds"] == {"train": [*range(1, 9)], "validation": [9], "test": [10]}
    # What this model learned from counts for what is made of it.
    assert config["provenance"]["posttraining_folds"] == [*range(1, 9)]
    provenance = {"base": "encoder", "pretraining_data": "9 records of PTB-XL", "ptbxl_folds": [*range(1, 9)]}
    metrics["data"] |= {"name": "PTB-XL", "simulated": False, "ptbxl_folds": evaluated}
    (tmp_path / "run/config.json").write_text(json.dumps({**config, "provenance": provenance}))
    (tmp_path / "run/metrics.json").write_text(json.dumps(metrics))
    assert words in write_model_card(tmp_path / "run", "me/model")


def test_the_preprocessing_of_public_encoders_is_put_into_words():
    extractor = ecg_hf.ECGTransformerFeatureExtractor(
        sampling_rate=250,
        num_samples=2250,
        bandpass=[0.67, 40],
        zscore_per_lead=False,
        num_windows=2,
        steps=["leads", "resample", "windows", "bandpass", "zscore"],
    )
    leads, *words = preprocessing_in_words(extractor.to_dict())
    assert leads.startswith("The leads I, II, III, aVR")
    assert words == [
        "Resampling to 250 Hz.",
        "2 windows of 9 s (2250 samples), evenly spaced over the record; shorter records are zero-padded at the end.",
        "Zero-phase filtering: above 0.67 Hz and below 40 Hz.",
        "Z-score: (x - mean) / standard deviation of the window, over all leads jointly.",
    ]


# ---- Data set ----


@pytest.fixture(scope="module")
def data_folder(hub, alice, simulated_folder, simulated_cache, tmp_path_factory):
    """A folder that `prepare_ptbxl.py --push_to_hub --hub_dataset_id org/ptb-xl` made and pushed."""
    folder = tmp_path_factory.mktemp("prepared") / "ptb-xl"
    flags = ["--data_dir", simulated_folder, "--cache_dir", simulated_cache, "--output_dir", folder]
    flags += ["--push_to_hub", "--hub_dataset_id", "org/ptb-xl"]
    alice.run(f"from ecg_hf import cli\ncli.prepare_ptbxl({[str(flag) for flag in flags]!r})")
    return folder


def test_the_data_set_loads_whole_and_streaming(hub, alice, data_folder, simulated_splits):
    assert hub.files("org/ptb-xl", "dataset").keys() == {
        "README.md",
        *(f"data/100hz/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")),
    }
    ids, columns, streamed, first = alice.run(
        """
from datasets import load_dataset
loaded = load_dataset("org/ptb-xl", "superdiagnostic")
stream = load_dataset("org/ptb-xl", "superdiagnostic", split="validation", streaming=True)
rows = list(stream)
first = rows[0]
ids = {name: list(split["ecg_id"]) for name, split in loaded.items()}
arrays = [first["signal"], first["labels_superdiagnostic"]]
result = ids, loaded["train"].column_names, [row["ecg_id"] for row in rows], arrays
"""
    )
    for name, split in simulated_splits.items():
        assert ids[name] == list(split["ecg_id"])
    validation = simulated_splits["validation"].with_format("numpy")
    assert streamed == ids["validation"]
    np.testing.assert_array_equal(first[0], validation[0]["signal"])
    np.testing.assert_array_equal(first[1], validation[0]["labels"])
    assert columns == [
        "labels_superdiagnostic" if name == "labels" else name for name in simulated_splits["train"].column_names
    ]


def test_each_task_is_a_configuration_of_the_same_files(data_folder):
    card = DatasetCard.load(data_folder / "README.md")
    configs = {config["config_name"]: config for config in card.data.configs}
    assert configs.keys() == {"all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm"}
    assert len({json.dumps(config["data_files"]) for config in configs.values()}) == 1
    assert configs["form"]["columns"][-1] == "labels_form" and configs["form"]["filters"] == [["has_form", "==", True]]
    assert "its own Arrow files" in card.text and "simulated" in card.text and "atrial fibrillation" in card.text
    assert not re.search(r"^(#+ .*)\n+(?=#|\Z)", re.sub(r"<!--.*?-->", "", card.text), re.MULTILINE)


def test_training_from_the_hub_is_training_from_the_folder(hub, alice, published, run_folder, data_folder, tmp_path):
    alice.run(train_command(dataset_name="org/ptb-xl", output_dir=tmp_path / "run"))
    losses = [
        [entry["loss"] for entry in json.loads((folder / "log_history.json").read_text()) if "loss" in entry]
        for folder in (run_folder, tmp_path / "run")
    ]
    assert losses[0] == losses[1] and len(losses[0]) > 4
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert recipe["dataset_name"] == "org/ptb-xl"
    card = ModelCard.load(tmp_path / "run/README.md")
    assert card.data.datasets == ["org/ptb-xl"] and "--data_dir" not in card.text


# ---- What goes wrong ----


@pytest.fixture(scope="module")
def pushing(alice, published, run_folder):
    """Push the finished run, in Alice's session, with other names and tokens."""
    return lambda name, **values: alice.run(f"push_model({str(run_folder)!r}, {name!r}, **{values!r})")


def test_a_name_with_a_slash_too_many(pushing):
    with pytest.raises(ClientError, match="ValueError: `a/b/c` cannot be a name on the Hub: give `owner/name`"):
        pushing("a/b/c")


def test_a_wrong_token(hub, pushing):
    with pytest.raises(ClientError, match="PermissionError: The Hub does not accept the token.*hf auth login"):
        pushing("org/wrong-token", token="hf_mallory")
    assert ("model", "org/wrong-token") not in hub.repositories


def test_training_does_not_begin_without_the_right_to_push(hub, alice, simulated_folder, simulated_cache, tmp_path):
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "output_dir": tmp_path / "run"}
    with pytest.raises(ClientError, match="PermissionError: Your token may not write to `bob/ecg`"):
        alice.run(train_command(**places, push_to_hub=True, hub_model_id="bob/ecg"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["org/ecg", "org/not-there-yet"])
def test_what_belongs_to_somebody_else(hub, pushing, name):
    before = {key: dict(repository.branches) for key, repository in hub.repositories.items()}
    with pytest.raises(ClientError, match=f"PermissionError: Your token may not write to `{name}`: it belongs to"):
        pushing(name, token="hf_bob")
    assert before == {key: dict(repository.branches) for key, repository in hub.repositories.items()}


def test_no_token(hub, alice, pushing):
    alice.run("import os; token = os.environ.pop('HF_TOKEN')")
    try:
        with pytest.raises(
            ClientError, match="PermissionError: There is no token to push to `org/ecg`.*hf auth login"
        ):
            pushing("org/ecg")
    finally:
        alice.run("os.environ['HF_TOKEN'] = token")


def test_a_repository_that_holds_another_kind_of_model(hub, alice, pushing):
    alice.run("from huggingface_hub import create_repo\ncreate_repo('org/bert')")
    repository = hub.repositories["model", "org/bert"]
    repository.commit("main", "bert", {"config.json": File(b'{"model_type": "bert"}', False)})
    with pytest.raises(
        ClientError, match="ValueError: `org/bert` contains a model of the type `bert`: push .* another name"
    ):
        pushing("org/bert")
    assert hub.files("org/bert").keys() == {"config.json"}
    with pytest.raises(ClientError, match="ValueError: .*`bert`, not `ecg_transformer`"):
        alice.run(
            "from ecg_hf import ECGTransformerForMultiLabel\nECGTransformerForMultiLabel.from_pretrained('org/bert')"
        )


def test_a_repository_of_weights_alone_as_other_projects_have_it(hub, alice):
    alice.run("from huggingface_hub import create_repo\ncreate_repo('org/weights')")
    hub.repositories["model", "org/weights"].commit("main", "weights", {"base.pt": File(b"weights", False)})
    for command in ("classify(['--model', 'org/weights', 'x'])", "train(['--model_name_or_path', 'org/weights'])"):
        with pytest.raises(ClientError, match="FileNotFoundError: `org/weights` .* it has no config.json; `ecg-hf"):
            alice.run(f"from ecg_hf import cli\ncli.{command}")


def test_a_configuration_with_a_field_of_a_newer_version(hub, alice, published):
    repository = hub.repositories["model", published]
    files = dict(repository.resolve("main").files)
    config = json.loads(files["config.json"].content)
    files["config.json"] = File(json.dumps({**config, "rotary_base": 10000}).encode(), is_lfs=False)
    repository.commit("newer", "a field more", files)
    none, (message, *_) = alice.run(
        f"""
import warnings
from transformers import AutoModel
result = []
for revision in ("main", "newer"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        AutoModel.from_pretrained({published!r}, revision=revision)
    result.append([str(warning.message) for warning in caught])
"""
    )
    assert none == [] and "rotary_base" in message and "update the package" in message


def test_a_broken_upload_publishes_nothing_and_the_next_one_all(hub, alice, pushing, published):
    ((kind, message),) = alice.run("thread.join()\nresult = broken")
    assert kind == "ConnectionError" and "lost while pushing to `org/broken`" in message and "Push again" in message
    assert not hub.files("org/broken")
    with pytest.raises(ClientError, match="Unrecognized model in org/broken"):
        alice.run("from transformers import AutoModel\nAutoModel.from_pretrained('org/broken')")
    hub.cut_off.clear()
    pushing("org/broken")
    assert hub.files("org/broken").keys() == PUBLISHED


def test_metadata_that_the_hub_does_not_know_publish_nothing(hub, alice, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("_stages"))
    (tmp_path / "run/README.md").write_text("---\nlicense: my-own\n---\n")
    with pytest.raises(
        ClientError, match="ValueError: The Hub does not accept the metadata .*correct them: .license. must"
    ):
        alice.run(f"push_model({str(tmp_path / 'run')!r}, 'org/odd')")
    assert not hub.files("org/odd")


def test_an_unfinished_run_is_not_pushed(alice, tmp_path):
    with pytest.raises(ClientError, match="FileNotFoundError: .*lacks `config.json`.*finished"):
        alice.run(f"push_model({str(tmp_path)!r}, 'org/unfinished')")
    with pytest.raises(ClientError, match="FileNotFoundError: .*no Parquet files.*prepare_ptbxl.py"):
        alice.run(f"push_dataset({str(tmp_path)!r}, 'org/unfinished')")


def test_weights_of_another_form_go_and_links_become_files(hub, alice, pushing, run_folder, tmp_path):
    alice.run("from huggingface_hub import create_repo\ncreate_repo('org/old')")
    hub.repositories["model", "org/old"].commit("main", "old", {"pytorch_model.bin": File(b"pickle", True)})
    (tmp_path / "links").mkdir()
    for path in run_folder.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    alice.run(f"push_model({str(tmp_path / 'links')!r}, 'org/old')")
    files = hub.files("org/old")
    assert files.keys() == PUBLISHED
    assert files["model.safetensors"] == (run_folder / "model.safetensors").read_bytes()


# ---- Records in shards ----


def test_shards_are_streamed_from_the_hub(hub, alice, simulated_folder, tmp_path):
    """`ecg-hf pretrain --streaming` reads a data set of the Hub as it reads the folder, to the last bit."""
    ecg_hf.cli.prepare(
        ["--data_dir", str(simulated_folder), "--output_dir", str(tmp_path / "shards"), "--shard_size", "40"]
    )
    alice.run(
        "from huggingface_hub import HfApi\n"
        "HfApi().create_repo('alice/shards', repo_type='dataset')\n"
        f"HfApi().upload_folder(repo_id='alice/shards', repo_type='dataset', folder_path={str(tmp_path / 'shards')!r})"
    )
    weights = {}
    for name, place in {"hub": "hf://datasets/alice/shards", "folder": str(tmp_path / "shards")}.items():
        flags = ["--streaming", "true", "--data_dir", place, "--output_dir", str(tmp_path / name)]
        flags += ["--architecture", "ptbxl_100hz", "--max_steps", "2", "--per_device_train_batch_size", "16"]
        flags += ["--use_cpu", "true", "--disable_tqdm", "true"]
        alice.run(f"from ecg_hf import cli\ncli.pretrain({flags!r})")
        weights[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert weights["hub"] == weights["folder"]
