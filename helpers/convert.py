"""`python -m helpers.convert`: makes of a LoRA or a model the file that another program opens, after the run."""

import sys
from collections.abc import Sequence
from functools import partial

from helpers.config.convert_cli import Conversion, read_conversion
from helpers.errors import ModelError, UserError

FAMILY = "sd3"
LORA_FORMS = ("lora", "comfyui")


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
    from helpers.models.registry import families

    _check_source(wanted)
    if wanted.target.exists():
        raise ModelError(f"{wanted.target} is there already: name another place, or move it away.")
    family, all_of_it = families()[FAMILY], wanted.with_text_encoders
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
