"""Opens exports with the diffusers that is installed, and prints how far its predictions are from the trainer's.

`python open_exports.py FOLDER` runs in another environment, and so imports nothing of this repository.
"""

import json
import logging
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file


def main(folder: Path) -> None:
    """Print one line of JSON: for each kind by name the largest difference, or the error as a text."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    told = json.loads((folder / "kinds.json").read_text(encoding="utf-8"))
    inputs = load_file(folder / "inputs.safetensors")
    found = {}
    for kind in told["kinds"]:
        try:
            found[kind["name"]] = difference(folder / kind["place"], kind, inputs, prompt=told["prompt"])
        except Exception as error:  # what it raises is what is to be reported
            found[kind["name"]] = f"{type(error).__name__}: {error}"
    print(json.dumps({"diffusers": diffusers.__version__, "found": found}))  # noqa: T201


@torch.no_grad()
def difference(place: Path, kind: dict, inputs: dict, *, prompt: str) -> float:
    """The largest of the prediction's numbers, as a share of the largest change that the training made."""
    pipeline = opened(place / kind["file"], kind["how"], base=kind["base"])
    embeds, pooled = inputs["prompt_embeds"], inputs["pooled"]
    if kind["text"]:
        embeds, _, pooled, _ = pipeline.encode_prompt(prompt, prompt, prompt, do_classifier_free_guidance=False)
        embeds = embeds[:, : inputs["prompt_embeds"].shape[1]]
    prediction = pipeline.transformer(
        hidden_states=inputs["noisy"],
        timestep=1000 * inputs["sigma"],
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
    ).sample
    expected = load_file(place / "expected.safetensors")
    change = (expected["prediction"] - expected["before"]).abs().max()
    return float((prediction - expected["prediction"]).abs().max() / change)


def opened(path: Path, how: str, *, base: str) -> StableDiffusion3Pipeline:
    """The pipeline with what was trained in it."""
    if how == "pipeline":
        return StableDiffusion3Pipeline.from_pretrained(path)
    if how == "single_file":
        transformer = SD3Transformer2DModel.from_single_file(str(path), config=base, subfolder="transformer")
        return StableDiffusion3Pipeline.from_pretrained(base, transformer=transformer)
    pipeline = StableDiffusion3Pipeline.from_pretrained(base)
    if how == "lycoris":
        from lycoris import create_lycoris_from_weights

        network, _ = create_lycoris_from_weights(1.0, str(path), pipeline.transformer)
        network.apply_to()
    else:
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
    return pipeline


if __name__ == "__main__":
    main(Path(sys.argv[1]))
