"""Stable Diffusion 3 and 3.5 as one value, which is all that the rest of the program sees of it."""

from helpers.models.family import AdapterLayers, FamilyFormats, ModelComponents, ModelFamily
from helpers.models.memory import MemoryEstimate, Workload
from helpers.models.sd3.facts import SD3_FACTS
from helpers.models.sd3.lora_targets import SETS, modules_in_set
from helpers.models.sd3.memory.architecture import Architecture, text_encoder_of, transformer_of, vae_of
from helpers.models.sd3.memory.estimate import estimate_memory
from helpers.models.sd3.sampling import render
from helpers.models.sd3.settings_checks import check_settings
from helpers.models.sd3.text_encoders import assemble_text, text_parts
from helpers.models.sd3.trainable_text_encoders import learning_text
from helpers.models.sd3.transformer import blocks, enable_checkpointing, load_denoiser, predict, target_modules
from helpers.models.sd3.vae import latent_part
from helpers.models.sd3.weights.comfyui_lora import comfyui_scales, write_comfyui_lora
from helpers.models.sd3.weights.comfyui_lycoris import has_full_differences, to_comfyui_lycoris
from helpers.models.sd3.weights.component_files import read_config
from helpers.models.sd3.weights.components import component_files, locate
from helpers.models.sd3.weights.lora_forms import read_lora
from helpers.models.sd3.weights.original.file import is_single_file
from helpers.models.sd3.weights.original.single_file import (
    open_base,
    open_single_file,
    with_own_parts,
    write_single_file,
)
from helpers.models.sd3.weights.other_files import what_it_is
from helpers.models.sd3.weights.pipeline import write_pipeline


def sd3_family() -> ModelFamily:
    """The family's functions; each imports the libraries it needs when it is called."""
    return ModelFamily(
        name="sd3",
        facts=SD3_FACTS,
        locate=locate,
        component_files=component_files,
        check_settings=check_settings,
        text_parts=text_parts,
        assemble_text=assemble_text,
        learning_text=learning_text,
        latent_part=latent_part,
        estimate_memory=_estimate_memory,
        load_denoiser=load_denoiser,
        blocks=blocks,
        enable_checkpointing=enable_checkpointing,
        adapter_layers=_adapter_layers,
        lora_modules=target_modules,
        predict=predict,
        render=render,
        write_pipeline=write_pipeline,
        formats=FamilyFormats(
            open_base=open_base,
            open_single_file=open_single_file,
            with_own_parts=with_own_parts,
            is_single_file=is_single_file,
            write_single_file=write_single_file,
            read_lora=read_lora,
            what_it_is=what_it_is,
            write_comfyui_lora=write_comfyui_lora,
            comfyui_scales=comfyui_scales,
            to_comfyui_lycoris=to_comfyui_lycoris,
            has_full_differences=has_full_differences,
        ),
    )


def _estimate_memory(parts: ModelComponents, workload: Workload) -> MemoryEstimate:
    architecture = Architecture(
        transformer=transformer_of(read_config(parts.transformer)),
        text_encoders=tuple(text_encoder_of(read_config(place)) for place in parts.text_encoders),
        vae=vae_of(read_config(parts.vae)),
    )
    return estimate_memory(architecture, workload)


def _adapter_layers(parts: ModelComponents) -> AdapterLayers:
    transformer = transformer_of(read_config(parts.transformer))
    shapes = {layer.name: (layer.outputs, layer.inputs) for layer in transformer.linears()}
    return AdapterLayers(
        shapes=shapes, sets={word: tuple(modules_in_set(shapes, word, layers=transformer.layers)) for word in SETS}
    )
