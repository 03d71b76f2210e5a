"""Brings the files of a model from the Hugging Face hub, and says in plain words what to do when they do not come."""

from collections.abc import Sequence
from pathlib import Path

from helpers.errors import ModelError

WEIGHT_NAMES = ("diffusion_pytorch_model", "model")


def weight_patterns(variant: str | None) -> tuple[str, ...]:
    """File name patterns of safetensors weights, whole or in shards, of one variant (None: the plain ones)."""
    middle = f".{variant}" if variant else ""
    endings = (".safetensors", "-[0-9]*-of-[0-9]*.safetensors")
    return tuple(f"{name}{middle}{ending}" for name in WEIGHT_NAMES for ending in endings)


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
    from huggingface_hub import errors, snapshot_download

    names = ("*.json", "*.txt", "*.model", *weight_patterns(variant))
    patterns = ["model_index.json", *(f"{folder}/{name}" if folder else name for folder in folders for name in names)]
    page = f"https://huggingface.co/{repository}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repository} asks for an agreement first: accept its licence at {page} with your account, "
            "then log in here with `hf auth login` (older: `huggingface-cli login`) and start again."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no revision `{revision}`: {page}/tree/main shows those it has.") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelError(
            f"`{repository}` is neither a folder here nor a model you may see on the Hugging Face hub. Check the name "
            "for a slip; if the model is private, log in with `hf auth login` (older: `huggingface-cli login`)."
        ) from error
    # HTTPError is that of the HTTP library the hub's client uses, which changes with its version.
    except (errors.LocalEntryNotFoundError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise ModelError(
            f"The Hugging Face hub could not be reached, and this machine does not hold all of {repository}. Check the "
            f"network and HF_HUB_OFFLINE, or name a folder that holds the model. ({type(error).__name__})"
        ) from error
