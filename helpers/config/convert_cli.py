"""The words of `python -m helpers.convert`: what to make of which file."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
