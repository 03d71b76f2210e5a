"""A model comes from a hub with the files that are needed and no others, and each failure says what to do.

The hub is a small real server on this machine that speaks the real one's language.
"""

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers.config.options.model import ModelOptions
from helpers.errors import ModelError
from helpers.models.hub import download_dataset
from helpers.models.sd3.weights.components import locate

COMMIT = "a" * 40
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass
class Hub:
    """What the server holds and how it behaves; `sent` are the files it was asked for."""

    folder: Path
    refusal: tuple[int, str] | None = None
    hangs_up_on_files: bool = False
    sent: list[str] = field(default_factory=list)


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, content: bytes, *, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if hub.refusal:
                self.answer(b"{}", status=hub.refusal[0], X_Error_Code=hub.refusal[1])
            elif "/revision/" in path and not path.endswith(("/main", COMMIT)):
                self.answer(b"{}", status=404, X_Error_Code="RevisionNotFound")
            elif "/revision/" in path:
                self.answer(json.dumps({"id": "me/sd3", "sha": COMMIT}).encode(), Content_Type="application/json")
            elif "/tree/" in path:
                names = [str(file.relative_to(hub.folder)) for file in hub.folder.rglob("*") if file.is_file()]
                files = [
                    {"type": "file", "path": name, "size": (hub.folder / name).stat().st_size, "oid": name}
                    for name in names
                ]
                self.answer(json.dumps(files).encode(), Content_Type="application/json")
            else:
                self.send_file(path.split(f"/resolve/{COMMIT}/")[1])

        def send_file(self, name: str) -> None:
            if hub.hangs_up_on_files and self.command == "GET":
                self.connection.close()
                return
            content = (hub.folder / name).read_bytes()
            if self.command == "GET":
                hub.sent.append(name)
            tag = hashlib.sha1(name.encode() + content).hexdigest()
            self.answer(content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET

    return Handler


@pytest.fixture
def hub(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    hub = Hub(Path(shutil.copytree(tiny_pipeline, tmp_path / "on the hub")))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def options(name: str = "me/sd3", **more: str) -> ModelOptions:
    return ModelOptions(pretrained_model_name_or_path=name, **more)


def test_what_is_needed_is_fetched_once(hub: Hub, tiny_pipeline: Path) -> None:
    (hub.folder / "sd3_medium.safetensors").write_bytes(b"a whole model again, for another program")
    (hub.folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another precision")
    (hub.folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"another format")
    here = locate(options())
    assert here.identity == locate(options(str(tiny_pipeline))).identity
    assert {name for name in hub.sent if name.endswith(("safetensors", "bin"))} == {
        str(file.relative_to(tiny_pipeline)) for file in tiny_pipeline.rglob("*.safetensors")
    }
    first = len(hub.sent)
    assert locate(options()) == here
    assert len(hub.sent) == first


def test_a_variant_is_fetched_where_there_is_one_and_plain_weights_elsewhere(hub: Hub) -> None:
    variant = hub.folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(hub.folder / "transformer" / WEIGHTS, variant)
    parts = locate(options(variant="fp16"))
    fetched = {name for name in hub.sent if name.endswith("safetensors")}
    assert f"transformer/{variant.name}" in fetched
    assert f"transformer/{WEIGHTS}" not in fetched
    assert f"vae/{WEIGHTS}" in fetched
    assert parts.weights_variant == "fp16"


def test_parts_taken_from_elsewhere_are_not_fetched(hub: Hub, tiny_pipeline: Path) -> None:
    locate(options(pretrained_t5_model_name_or_path=str(tiny_pipeline)))
    assert not [name for name in hub.sent if name.startswith("text_encoder_3/")]


def test_a_vae_may_come_from_a_repository_of_its_own(hub: Hub, tiny_pipeline: Path) -> None:
    for file in (hub.folder / "vae").iterdir():
        shutil.copy(file, hub.folder / file.name)
    shutil.rmtree(hub.folder / "vae")
    parts = locate(options(str(tiny_pipeline), pretrained_vae_model_name_or_path="me/vae"))
    assert (parts.vae / WEIGHTS).is_file()
    assert not parts.vae.is_relative_to(tiny_pipeline)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((403, "GatedRepo"), r"accept its license at https://huggingface.co/me/sd3 .*`hf auth login`"),
        ((401, "RepoNotFound"), r"neither a local folder nor a model you can access.*`huggingface-cli login`"),
        ((503, ""), r"could not be reached.*name a folder"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, refusal: tuple[int, str], said: str) -> None:
    hub.refusal = refusal
    with pytest.raises(ModelError, match=said):
        locate(options())


def test_a_revision_that_is_not_there_is_named(hub: Hub) -> None:
    with pytest.raises(ModelError, match="no revision `v9`"):
        locate(options(revision="v9"))


def test_without_a_network_what_was_fetched_still_serves(hub: Hub) -> None:
    here = locate(options())
    hub.refusal = (503, "")
    assert locate(options()) == here


def test_a_download_cut_short_is_told_in_words(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.hangs_up_on_files = True
    with pytest.raises(ModelError, match="could not be reached"):
        locate(options())
    hub.hangs_up_on_files = False
    assert locate(options()).name == "me/sd3"


def test_a_repository_of_another_family_is_named(hub: Hub) -> None:
    (hub.folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match="me/sd3: it is a FluxPipeline"):
        locate(options())


def test_a_data_set_comes_with_the_files_of_its_split_and_once(hub: Hub) -> None:
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        (hub.folder / "data").mkdir(exist_ok=True)
        (hub.folder / "data" / f"{name}.parquet").write_bytes(name.encode())
    folder = download_dataset("me/paintings", split=None, revision=None)
    assert [path.name for path in folder.rglob("*.parquet")] == ["train-00000-of-00001.parquet"]
    assert hub.sent == ["data/train-00000-of-00001.parquet"]
    assert download_dataset("me/paintings", split="train", revision=None) == folder
    assert len(hub.sent) == 1
    download_dataset("me/paintings", split="test", revision=COMMIT)
    assert hub.sent[1:] == ["data/test-00000-of-00001.parquet"]


def test_a_data_set_that_cannot_be_had_says_why(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"refs/convert/parquet.*datasets/me/paintings/tree"):
        download_dataset("me/paintings", split=None, revision=None)
    hub.refusal = (401, "RepoNotFound")
    with pytest.raises(ModelError, match="neither a local folder nor a dataset you can access"):
        download_dataset("me/paintings", split=None, revision=None)
