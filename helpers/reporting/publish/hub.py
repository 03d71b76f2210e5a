"""Publishes a run on the Hugging Face hub, beside the run: what did not arrive is sent again at the next occasion."""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.config.options.output import PublishingOptions
from helpers.errors import ReportingError
from helpers.reporting.background import BackgroundListener
from helpers.reporting.events import CheckpointSaved, Event, RunFinished, RunStarted
from helpers.reporting.publish.card_text import last_images
from helpers.reporting.publish.model_card import CARD
from helpers.reporting.reporter import Listener

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

ATTEMPTS = 3
BACK_OFF_SECONDS = 5.0
REFUSED = (401, 403)
COMPLETE_CLOSE_SECONDS = 2 * 3600.0
STOPPED_CLOSE_SECONDS = 10.0

Files = Mapping[str, Path]
"""Files on this machine by their path in the repository."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository that this machine may write to. name: `owner/name`."""

    name: str
    api: "HfApi"

    @property
    def address(self) -> str:
        return f"{self.api.endpoint}/{self.name}"

    def put(self, files: Files, *, message: str) -> None:
        """Commit `files` together, the hub being sent only what it has not; raises whatever the client raises."""
        from huggingface_hub import CommitOperationAdd

        adding = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in files.items()]
        self.api.create_commit(self.name, adding, commit_message=message)

    def holds(self, files: Files) -> bool:
        """Whether all `files` are there, by size, and where they are small by content."""
        from huggingface_hub.hf_api import RepoFile

        there = {
            each.path: each for each in self.api.list_repo_tree(self.name, recursive=True) if isinstance(each, RepoFile)
        }
        return all(path in there and _alike(file, there[path]) for path, file in files.items())


def open_repository(options: PublishingOptions, *, endpoint: str | None = None) -> Repository:
    """The repository that `options` name, made where there is none.

    endpoint: another hub than the client's own. Raises ReportingError where nothing could be published there, which
    would otherwise show after hours.
    """
    from huggingface_hub import HfApi, errors

    api, said = HfApi(endpoint=endpoint), str(options.hub_model_id)
    try:
        user = api.whoami()["name"]
        name = said if "/" in said else f"{user}/{said}"
        api.create_repo(name, private=options.hub_private, exist_ok=True)
        private = api.model_info(name).private
    except errors.LocalTokenNotFoundError as error:
        raise _refusal("nobody has logged in to the hub on this machine", "say `hf auth login` once") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(*_in_words(error, name=said)) from error
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        fix = "check the network and HF_HUB_OFFLINE"
        raise _refusal(f"the hub cannot be reached ({type(error).__name__})", fix) from error
    if options.hub_private and not private:
        fix = "say --hub_private=false if everyone may see what is uploaded, or name another with HUB_MODEL_NAME"
        raise _refusal(f"{name} is there already and is public", fix)
    return Repository(name=name, api=api)


def _refusal(why: str, fix: str) -> ReportingError:
    return ReportingError(f"PUSH_TO_HUB = true: {why}. To fix it, {fix}; or say PUSH_TO_HUB=false.")


def _in_words(error: Any, *, name: str) -> tuple[str, str]:
    """Why the hub said no, and the fix."""
    status = error.response.status_code
    if status in REFUSED and "whoami" in str(error.response.url):
        return (
            "the hub does not accept this machine's token",
            "make a new one, and say `hf auth login` (or set HF_TOKEN)",
        )
    if status in REFUSED:
        fix = "take a token with the right to write, or a name of your own in HUB_MODEL_NAME"
        return f"this account may not write to {name} (status {status})", fix
    return f"the hub answers with status {status}", "try again later"


class HubUploader:
    """A listener that uploads checkpoints, where asked to, and a complete run's weights, card and images.

    It waits for the network: see `BackgroundListener`. Raises ReportingError at the end where something did not arrive.
    """

    name = "the hub"

    def __init__(
        self, repository: Repository, *, checkpoints: bool, back_off_seconds: float = BACK_OFF_SECONDS
    ) -> None:
        self._repository, self._checkpoints = repository, checkpoints
        self._back_off_seconds = back_off_seconds
        self._run: RunStarted | None = None
        self._waiting: list[Path] = []

    def handle(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._run = event
                _silence_bars()
                if self._checkpoints:
                    self._waiting = sorted(event.output_dir.glob("checkpoint-*"), key=lambda each: each.stat().st_mtime)
                    self._send_waiting()
            case CheckpointSaved() if self._checkpoints:
                self._waiting = [each for each in self._waiting if each != event.path] + [event.path]
                self._send_waiting()
            case RunFinished() if self._run is not None and not event.interrupted:
                self._finish(self._run, event)

    def close(self) -> None:
        """Nothing is open."""

    def _send_waiting(self) -> bool:
        """Upload the checkpoints that are not there yet; whether all are."""
        while self._waiting:
            folder = self._waiting[0]
            problem = self._tried(lambda folder=folder: self._send_checkpoint(folder)) if folder.is_dir() else ""
            if problem and folder.is_dir():  # else it was deleted meanwhile: there is nothing to send any more
                logger.warning(f"{folder.name} is not on the hub yet, because {problem}; it is tried again later")
                return False
            self._waiting.pop(0)
        return True

    def _send_checkpoint(self, folder: Path) -> None:
        files = dict(_files_of(folder, at=f"{folder.name}/"))
        if not self._repository.holds(files):
            self._repository.put(files | self._card(), message=f"Add {folder.name}")
            logger.info(f"uploaded {folder.name} to {self._repository.address}")

    def _finish(self, run: RunStarted, event: RunFinished) -> None:
        all_sent = self._send_waiting()
        files: dict[str, Path] = {}
        for path in event.exported:  # what diffusers loads whole stands at the top, where it looks
            at = "" if path.name == run.result else f"{path.name}/"
            files |= dict(_files_of(path, at=at)) if path.is_dir() else {path.name: path}
        files |= {each.path: run.output_dir / each.path for each in last_images(run.output_dir, step=event.step)}
        problem = self._tried(lambda: self._repository.put(files | self._card(), message=f"Step {event.step}"))
        if problem or not all_sent:
            raise ReportingError(
                f"not everything is on the hub{f', because {problem}' if problem else ''}. Nothing is lost: the same"
                f" command once more uploads what is missing to {self._repository.name}"
            )
        logger.info(f"published at {self._repository.address}")

    def _card(self) -> dict[str, Path]:
        card = self._run.output_dir / CARD if self._run is not None else Path(CARD)
        return {CARD: card} if card.is_file() else {}

    def _tried(self, upload: Any) -> str:
        """Upload, in a few attempts; what went wrong with the last one, empty where none did."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self._back_off_seconds * 2**attempt)
            try:
                upload()
            except Exception as error:  # the run may not suffer from whatever a client raises
                problem, status = _reason(error)
                if status in REFUSED:
                    break
            else:
                return ""
        return problem


def _silence_bars() -> None:
    """Let the client draw none of its own over the run's; the base model, whose download shows them, is here by now."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


def _reason(error: Exception) -> tuple[str, int]:
    """What a person is told of a failed upload, without addresses, and the status that the hub answered with, or 0."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return (f"the hub answered with status {status}" if status else f"of {type(error).__name__}"), status


def _files_of(folder: Path, *, at: str) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield f"{at}{file.relative_to(folder).as_posix()}", file


def _alike(file: Path, there: Any) -> bool:
    """Whether the hub holds `file`. Of a large one the size is enough: a checkpoint's manifest has its checksum."""
    if file.stat().st_size != there.size:
        return False
    if there.lfs is not None:
        return True
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == there.blob_id


class Uploads(BackgroundListener):
    """A listener that uploads, on a thread of its own; it is told only what leads to an upload."""

    def __init__(self, listener: Listener, *, complete_seconds: float = COMPLETE_CLOSE_SECONDS) -> None:
        super().__init__(listener, name="the hub", close_seconds=STOPPED_CLOSE_SECONDS)
        self._complete_seconds = complete_seconds

    def handle(self, event: Event) -> None:
        if isinstance(event, RunFinished) and not event.interrupted:
            self._close_seconds = self._complete_seconds
        if isinstance(event, RunStarted | CheckpointSaved | RunFinished):
            super().handle(event)

    def close(self) -> None:
        """Wait for the uploads; Ctrl-C leaves what is not there yet to the next start."""
        try:
            super().close()
        except KeyboardInterrupt:
            logger.warning("uploads were left; the same command once more uploads what is missing")
