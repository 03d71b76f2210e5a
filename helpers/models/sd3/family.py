"""Stable Diffusion 3 and 3.5 as one value, which is all that the rest of the program sees of it."""

from helpers.models.family import FamilyFiles, ModelFamily, ModelParts
from helpers.models.memory import MemoryEstimate, Workload
from helpers.models.sd3.memory.architecture import Architecture, text_encoder_of, transformer_of, vae_of
from helpers.models.sd3.memory.estimate import estimate_memory
from helpers.models.sd3.sampling import render
from helpers.models.sd3.text_encoders import assemble_text, text_parts
from helpers.models.sd3.trainable_text_encoders import learning_text
from helpers.models.sd3.transformer import blocks, enable_checkpointing, load_denoiser, predict, target_modules
from helpers.models.sd3.vae import latent_part
from helpers.models.sd3.weights.comfyui_lora import is_comfyui_lora, read_comfyui_lora, write_comfyui_lora
from helpers.models.sd3.weights.component_files import read_config
from helpers.models.sd3.weights.components import locate
from helpers.models.sd3.weights.original_file import is_single_file
from helpers.models.sd3.weights.pipeline import write_pipeline
from helpers.models.sd3.weights.single_file import open_base, open_single_file, with_own_parts, write_single_file


def sd3_family() -> ModelFamily:
    """The family's functions; each imports the libraries it needs when it is called."""
    return ModelFamily(
        name="sd3",
        locate=locate,
        text_parts=text_parts,
        assemble_text=assemble_text,
        learning_text=learning_text,
        latent_part=latent_part,
        estimate_memory=_estimate_memory,
        load_denoiser=load_denoiser,
        blocks=blocks,
        enable_checkpointing=enable_checkpointing,
        lora_modules=target_modules,
        predict=predict,
        render=render,
        write_pipeline=write_pipeline,
        files=FamilyFiles(
            open_base=open_base,
            open_single_file=open_single_file,
            with_own_parts=with_own_parts,
            is_single_file=is_single_file,
            is_comfyui_lora=is_comfyui_lora,
            write_single_file=write_single_file,
            read_comfyui_lora=read_comfyui_lora,
            write_comfyui_lora=write_comfyui_lora,
        ),
    )


def _estimate_memory(parts: ModelParts, workload: Workload) -> MemoryEstimate:
    clip_l, clip_g, t5 = (text_encoder_of(read_config(folder)) for folder in parts.text_encoders)
    architecture = Architecture(
        transformer=transformer_of(read_config(parts.transformer)),
        text_encoders=(clip_l, clip_g, t5),
        vae=vae_of(read_config(parts.vae)),
    )
    return estimate_memory(architecture, workload)
