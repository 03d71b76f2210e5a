"""Publishes a run on the Hugging Face hub while it runs; a failed upload is tried again with the next one."""

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
    """A repository that this machine's token may write to. name: `owner/name`."""

    name: str
    api: "HfApi"

    @property
    def address(self) -> str:
        return f"{self.api.endpoint}/{self.name}"

    def put(self, files: Files, *, message: str) -> None:
        """Upload `files` in one commit, skipping what the hub has already; raises what the client raises."""
        from huggingface_hub import CommitOperationAdd

        adding = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in files.items()]
        self.api.create_commit(self.name, adding, commit_message=message)

    def holds(self, files: Files) -> bool:
        """Whether the repository has all `files`: of the same size and, for small ones, the same content."""
        from huggingface_hub.hf_api import RepoFile

        there = {
            each.path: each for each in self.api.list_repo_tree(self.name, recursive=True) if isinstance(each, RepoFile)
        }
        return all(path in there and _is_same(file, there[path]) for path, file in files.items())


def open_repository(options: PublishingOptions, *, endpoint: str | None = None) -> Repository:
    """The repository that `options` name, created if there is none.

    endpoint: another hub than the client's default. Raises ReportingError if it would be impossible to publish there,
    which would otherwise only show after hours.
    """
    from huggingface_hub import HfApi, errors

    api, model_id = HfApi(endpoint=endpoint), str(options.hub_model_id)
    try:
        user = api.whoami()["name"]
        name = model_id if "/" in model_id else f"{user}/{model_id}"
        api.create_repo(name, private=options.hub_private, exist_ok=True)
        private = api.model_info(name).private
    except errors.LocalTokenNotFoundError as error:
        raise _refusal("this machine is not logged in to the hub", "run `hf auth login` once") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(*_explain(error, name=model_id)) from error
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        fix = "check the network and HF_HUB_OFFLINE"
        raise _refusal(f"the hub cannot be reached ({type(error).__name__})", fix) from error
    if options.hub_private and not private:
        fix = "set --hub_private=false if the uploads may be public, or another name with HUB_MODEL_NAME"
        raise _refusal(f"{name} exists already and is public", fix)
    return Repository(name=name, api=api)


def _refusal(why: str, fix: str) -> ReportingError:
    return ReportingError(f"PUSH_TO_HUB = true: {why}. To fix it, {fix}; or set PUSH_TO_HUB=false.")


def _explain(error: Any, *, name: str) -> tuple[str, str]:
    """Why the hub refused, and the fix."""
    status = error.response.status_code
    if status in REFUSED and "whoami" in str(error.response.url):
        return (
            "the hub does not accept this machine's token",
            "create a new one and run `hf auth login`, or set HF_TOKEN",
        )
    if status in REFUSED:
        fix = "use a token with write access, or one of your own names in HUB_MODEL_NAME"
        return f"this account may not write to {name} (status {status})", fix
    return f"the hub answered with status {status}", "try again later"


class HubUploader:
    """A listener that uploads the final weights, model card and images, and the checkpoints if `checkpoints` is set.

    It waits for the network: see `BackgroundListener`. Raises ReportingError at the end if something is missing.
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
        """Nothing to close."""

    def _send_waiting(self) -> bool:
        """Upload the checkpoints that are still missing; whether all are uploaded."""
        while self._waiting:
            folder = self._waiting[0]
            problem = self._tried(lambda folder=folder: self._send_checkpoint(folder)) if folder.is_dir() else ""
            if problem and folder.is_dir():  # else it was deleted meanwhile, and there is nothing to upload
                logger.warning(f"{folder.name} is not on the hub yet, because {problem}; it will be tried again")
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
        for path in event.exported:  # diffusers looks for a pipeline at the top of the repository
            at = "" if path.name == run.result else f"{path.name}/"
            files |= dict(_files_of(path, at=at)) if path.is_dir() else {path.name: path}
        files |= {each.path: run.output_dir / each.path for each in last_images(run.output_dir, step=event.step)}
        problem = self._tried(lambda: self._repository.put(files | self._card(), message=f"Step {event.step}"))
        if problem or not all_sent:
            raise ReportingError(
                f"not everything is on the hub{f', because {problem}' if problem else ''}. Nothing is lost: run the"
                f" same command again to upload the rest to {self._repository.name}"
            )
        logger.info(f"published at {self._repository.address}")

    def _card(self) -> dict[str, Path]:
        card = self._run.output_dir / CARD if self._run is not None else Path(CARD)
        return {CARD: card} if card.is_file() else {}

    def _tried(self, upload: Any) -> str:
        """Try an upload a few times; the last problem, or an empty text if it succeeded."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self._back_off_seconds * 2**attempt)
            try:
                upload()
            except Exception as error:  # an upload may fail, the run may not
                problem, status = _reason(error)
                if status in REFUSED:
                    break
            else:
                return ""
        return problem


def _silence_bars() -> None:
    """Hide the client's progress bars, which would overwrite the run's; the base model is downloaded by now."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()


def _reason(error: Exception) -> tuple[str, int]:
    """Why an upload failed, without addresses, and the hub's status code, or 0."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return (f"the hub answered with status {status}" if status else f"of {type(error).__name__}"), status


def _files_of(folder: Path, *, at: str) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield f"{at}{file.relative_to(folder).as_posix()}", file


def _is_same(file: Path, there: Any) -> bool:
    """Whether the hub has `file`; for a large one the size is enough, since a checkpoint's manifest has checksums."""
    if file.stat().st_size != there.size:
        return False
    if there.lfs is not None:
        return True
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == there.blob_id


class Uploads(BackgroundListener):
    """Runs the uploader on its own thread, with only those events that lead to an upload.

    At the end of a complete run it waits up to `complete_seconds` for the uploads, at an interrupted one 10 s.
    """

    def __init__(self, listener: Listener, *, complete_seconds: float = COMPLETE_CLOSE_SECONDS) -> None:
        super().__init__(listener, name="the hub", close_seconds=STOPPED_CLOSE_SECONDS)
        self._complete_seconds = complete_seconds

    def handle(self, event: Event) -> None:
        if isinstance(event, RunFinished) and not event.interrupted:
            self._close_seconds = self._complete_seconds
        if isinstance(event, RunStarted | CheckpointSaved | RunFinished):
            super().handle(event)

    def close(self) -> None:
        """Wait for the uploads; Ctrl-C leaves the rest to the next start."""
        try:
            super().close()
        except KeyboardInterrupt:
            logger.warning("uploads were interrupted; run the same command again to upload the rest")
