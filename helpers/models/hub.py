"""Downloads models and datasets from the Hugging Face hub, with clear errors."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from helpers.errors import ModelError

WEIGHT_NAMES = ("diffusion_pytorch_model", "model")
SHARD = "[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]"
CONVERTED = "refs/convert/parquet"
"""The revision in which the hub keeps a dataset of any other format as parquet files."""


def weight_patterns(variant: str | None) -> tuple[str, ...]:
    """File name patterns of safetensors weights, in one file or in shards, of one variant (None: no variant).

    Older versions of diffusers put the variant after the shard's number.
    """
    middle = f".{variant}" if variant else ""
    endings = [f"{middle}.safetensors", f"{middle}-{SHARD}.safetensors", f"-{SHARD}{middle}.safetensors"]
    return tuple(f"{name}{ending}" for name in WEIGHT_NAMES for ending in dict.fromkeys(endings))


def is_hub_id(name: str) -> bool:
    """Whether a name that is not a local folder may be `owner/name` on the hub."""
    return name.count("/") <= 1 and not name.startswith((".", "/", "~"))


def is_logged_in() -> bool:
    """Whether this machine has a token for the hub; the token may have expired."""
    from huggingface_hub import get_token

    return get_token() is not None


def download(repository: str, *, folders: Sequence[str], revision: str | None, variant: str | None) -> Path:
    """Download the weights of `variant` and their small files from some folders of a repository.

    "" is the repository's root. Files that are already downloaded are reused. Raises ModelError.
    """
    from huggingface_hub import snapshot_download

    names = ("*.json", "*.txt", "*.model", *weight_patterns(variant))
    patterns = [
        "model_index.json",
        "README.md",
        *(f"{folder}/{name}" if folder else name for folder in folders for name in names),
    ]
    with _clear_errors(repository, what="model", revision=revision):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))


def download_dataset(repository: str, *, split: str | None, revision: str | None) -> Path:
    """Download the parquet files of a dataset's split, or the hub's own conversion; raises ModelError.

    split: None for `train`, or all files if there is no such split.
    """
    from huggingface_hub import snapshot_download

    patterns = [f"*{split}*.parquet"] if split else ["*train*.parquet", "*.parquet"]
    revisions = (revision,) if revision else (None, CONVERTED)
    folder = Path()
    with _clear_errors(repository, what="dataset", revision=revision or CONVERTED):
        for each, pattern in itertools.product(revisions, patterns):
            folder = Path(snapshot_download(repository, repo_type="dataset", revision=each, allow_patterns=pattern))
            if any(folder.rglob(pattern)):
                break
    return folder


@contextmanager
def _clear_errors(repository: str, *, what: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's exceptions into a ModelError with the fix."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'' if what == 'model' else 'datasets/'}{repository}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repository} is gated: accept its license at {page} with your account, "
            "then log in here with `hf auth login` (older: `huggingface-cli login`) and start again."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no revision `{revision}`; choose one at {page}/tree/main.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelError(
            f"`{repository}` is neither a local folder nor a {what} you can access on the Hugging Face hub. Check the "
            "spelling; if it is private, log in with `hf auth login` (older: `huggingface-cli login`)."
        ) from error
    # HTTPError belongs to the hub client's HTTP library, which depends on the client's version.
    except (errors.LocalEntryNotFoundError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise ModelError(
            f"The Hugging Face hub could not be reached, and {repository} is not fully downloaded. Check "
            f"the network and HF_HUB_OFFLINE, or name a folder with the {what}. ({type(error).__name__})"
        ) from error
