"""`python -m helpers.convert`: converts a LoRA or a model to the format that another program opens, after the run."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from helpers.errors import ModelError, UserError

LORA_FORMS = ("lora", "comfyui")
FORMS = {
    "lora": "a LoRA with diffusers' names",
    "comfyui": "a LoRA with the original layout's names, for ComfyUI and kohya's programs",
    "pipeline": "a folder that diffusers opens; a LoRA is merged into --base",
    "single-file": "one file in the original layout; a LoRA is merged into --base",
}


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is asked for; form: one of `FORMS`.

    base: a base model's folder, file or hub id, empty where none is named. parts: what goes with a base that is one
    file. with_text_encoders: of a single file.
    """

    source: Path
    target: Path
    form: str
    base: str
    parts: str
    with_text_encoders: bool


def main(argv: Sequence[str]) -> int:
    """Do what the command line asks for; the exit status: 0, or 1 for what the person can fix."""
    wanted = read_conversion(argv)
    try:
        convert(wanted)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{wanted.target} is written\n")
    return 0


def convert(wanted: Conversion) -> None:
    """Write the target, whole or not at all. Raises ModelError, also where something stands in its place already."""
    from helpers.config.options.model import ModelOptions
    from helpers.files import atomic_folder, atomic_write
    from helpers.models import conversions
    from helpers.models.registry import default_family

    _check_source(wanted)
    if wanted.target.exists():
        raise ModelError(f"{wanted.target} is there already: name another place, or move it away.")
    family, all_of_it = default_family(), wanted.with_text_encoders
    named = ModelOptions(
        pretrained_model_name_or_path=wanted.base, pretrained_parts_model_name_or_path=wanted.parts or None
    )
    base = family.locate(named) if wanted.base else None
    try:
        if wanted.form == "lora":
            atomic_write(wanted.target, partial(conversions.to_diffusers_lora, wanted.source, base=base, family=family))
        elif wanted.form == "comfyui":
            atomic_write(wanted.target, partial(conversions.to_comfyui_lora, wanted.source, base=base, family=family))
        else:
            with conversions.opened_model(wanted.source, base=base, family=family) as model:
                if wanted.form == "single-file":
                    write = partial(model.write_single_file, family=family, with_text_encoders=all_of_it)
                    atomic_write(wanted.target, write)
                else:
                    with atomic_folder(wanted.target) as folder:
                        model.write_pipeline(folder, family=family)
    except OSError as error:
        raise ModelError(f"{wanted.target} cannot be written: {error}") from error


def _check_source(wanted: Conversion) -> None:
    """Raise ModelError where the source is not there, or is a folder where a LoRA's file is needed."""
    source = wanted.source
    if not source.exists():
        raise ModelError(f"{source}: there is no such file or folder.")
    if source.is_dir() and wanted.form in LORA_FORMS:
        inside = next(iter(sorted(source.glob("*.safetensors"))), None)
        fix = f"name the file, such as {inside}" if inside else "a model becomes `--to single-file`"
        raise ModelError(f"{source} is a folder, and --to {wanted.form} converts the file of a LoRA: {fix}.")


def read_conversion(argv: Sequence[str]) -> Conversion:
    """The conversion that a command line asks for; ends the program with a message where it asks for none."""
    parser = ArgumentParser(
        prog="python -m helpers.convert",
        description="Makes of a LoRA or a model the file that another program opens.",
        epilog="\n".join(["forms:", *(f"  {name:<13}{what}" for name, what in FORMS.items())]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a LoRA, a model as one file, or a folder in diffusers layout")
    parser.add_argument("target", type=Path, help="the file or folder to write, which must not be there yet")
    parser.add_argument("--to", dest="form", required=True, choices=FORMS, help="what to make of it, see below")
    parser.add_argument("--base", default="", help="the base model: a folder, file or hub id, as MODEL_NAME")
    parser.add_argument("--parts", default="", help="where a base that is one file has what it lacks from")
    parser.add_argument("--with-text-encoders", action="store_true", help="have a single file hold them too")
    return Conversion(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
