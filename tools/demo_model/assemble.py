"""Put the trained parts together as one pipeline in 16 bits, in the layout that diffusers loads.

`python -m tools.demo_model.assemble WORK_PIPELINE_FOLDER PIPELINE_FOLDER`; license and model card there are left alone.
"""

import json
import shutil
import sys
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from helpers.models.sd3.weights.pipeline import model_index
from tools.demo_model.parts import SHIFT

SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": SHIFT}
COPIED = ("tokenizer", "tokenizer_2", "tokenizer_3", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer")


def assemble(work: Path, output: Path) -> None:
    """Copy what is in 16 bits already, halve the VAE and write the two files that describe the whole."""
    for name in COPIED:
        shutil.rmtree(output / name, ignore_errors=True)
        shutil.copytree(work / name, output / name)
    AutoencoderKL.from_pretrained(work / "vae").half().save_pretrained(output / "vae")
    config = json.loads((output / "vae" / "config.json").read_text())
    config.pop("_name_or_path", None)  # a place on the machine that trained it
    (output / "vae" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (output / "scheduler").mkdir(parents=True, exist_ok=True)
    (output / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    (output / "model_index.json").write_text(json.dumps(model_index(), indent=2) + "\n")


if __name__ == "__main__":
    assemble(Path(sys.argv[1]), Path(sys.argv[2]))
