"""Brings the files of a model from the Hugging Face hub, and says in plain words what to do when they do not come."""

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
    """File name patterns of safetensors weights, whole or in shards, of one variant (None: the plain ones).

    Older versions of diffusers put the variant behind a shard's number.
    """
    middle = f".{variant}" if variant else ""
    endings = [f"{middle}.safetensors", f"{middle}-{SHARD}.safetensors", f"-{SHARD}{middle}.safetensors"]
    return tuple(f"{name}{ending}" for name in WEIGHT_NAMES for ending in dict.fromkeys(endings))


def is_hub_id(name: str) -> bool:
    """Whether a name that is no folder here may be `owner/name` on the hub."""
    return name.count("/") <= 1 and not name.startswith((".", "/", "~"))


def is_logged_in() -> bool:
    """Whether this machine has a token for the hub; whether it is still good, only the hub knows."""
    from huggingface_hub import get_token

    return get_token() is not None


def download(repository: str, *, folders: Sequence[str], revision: str | None, variant: str | None) -> Path:
    """Fetch the weights of `variant`, and the small files beside them, of some folders of a repository.

    "" stands for the repository's own root. What was fetched before is not fetched again. Raises ModelError.
    """
    from huggingface_hub import snapshot_download

    names = ("*.json", "*.txt", "*.model", *weight_patterns(variant))
    patterns = [
        "model_index.json",
        "README.md",
        *(f"{folder}/{name}" if folder else name for folder in folders for name in names),
    ]
    with _in_plain_words(repository, what="model", revision=revision):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))


def download_dataset(repository: str, *, split: str | None, revision: str | None) -> Path:
    """Fetch the parquet files of a dataset's split, or those that the hub itself has made of it; raises ModelError.

    split: None for `train`, or all files where none is called that.
    """
    from huggingface_hub import snapshot_download

    patterns = [f"*{split}*.parquet"] if split else ["*train*.parquet", "*.parquet"]
    revisions = (revision,) if revision else (None, CONVERTED)
    folder = Path()
    with _in_plain_words(repository, what="dataset", revision=revision or CONVERTED):
        for each, pattern in itertools.product(revisions, patterns):
            folder = Path(snapshot_download(repository, repo_type="dataset", revision=each, allow_patterns=pattern))
            if any(folder.rglob(pattern)):
                break
    return folder


@contextmanager
def _in_plain_words(repository: str, *, what: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into a ModelError with the fix."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'' if what == 'model' else 'datasets/'}{repository}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repository} asks for an agreement first: accept its license at {page} with your account, "
            "then log in here with `hf auth login` (older: `huggingface-cli login`) and start again."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no revision `{revision}`: {page}/tree/main shows those it has.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelError(
            f"`{repository}` is neither a folder here nor a {what} you may see on the Hugging Face hub. Check the name "
            "for a slip; if it is private, log in with `hf auth login` (older: `huggingface-cli login`)."
        ) from error
    # HTTPError is that of the HTTP library the hub's client uses, which changes with its version.
    except (errors.LocalEntryNotFoundError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise ModelError(
            f"The Hugging Face hub could not be reached, and this machine does not hold all of {repository}. Check the "
            f"network and HF_HUB_OFFLINE, or name a folder that holds the {what}. ({type(error).__name__})"
        ) from error
