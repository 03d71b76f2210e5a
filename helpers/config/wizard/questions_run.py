"""The wizard's questions about model, adapter and length; names, bounds and choices come from the options."""

from pathlib import Path

from helpers.config.checks.paths import HUB_ID
from helpers.config.files.lycoris import EXAMPLE as LYCORIS_EXAMPLE
from helpers.config.wizard.flow import Chapter, Choice, Draft, Question
from helpers.config.wizard.memory import memory_note

HUB_MODELS = (
    Choice(value="stabilityai/stable-diffusion-3.5-medium", label="SD3.5 medium", note="2.5 billion weights"),
    Choice(value="stabilityai/stable-diffusion-3.5-large", label="SD3.5 large", note="8.1 billion weights"),
    Choice(value="stabilityai/stable-diffusion-3-medium-diffusers", label="SD3 medium", note="2.0 billion weights"),
)
YES_NO = (Choice(value="true", label="yes"), Choice(value="false", label="no"))


def trains_lora(draft: Draft) -> bool:
    """Whether an adapter is trained, rather than the whole model."""
    return draft["model_type"] == "lora"


def trains_standard_lora(draft: Draft) -> bool:
    """Whether the adapter is one whose rank and layers are settings."""
    return trains_lora(draft) and draft["lora_type"] == "standard"


def is_on_hub(draft: Draft) -> bool:
    """Whether the model must be downloaded from the hub."""
    name = draft["pretrained_model_name_or_path"]
    return not Path(name).expanduser().exists() and HUB_ID.fullmatch(name) is not None


def counts_epochs(draft: Draft) -> bool:
    """Whether the length is set in epochs: as answered, else as in the old file."""
    return draft["length"] == "epochs" if draft.knows("length") else draft["num_train_epochs"] != "0"


def wants_hub(draft: Draft) -> bool:
    """Whether the run needs a login to the hub."""
    return is_on_hub(draft) or draft["push_to_hub"] == "true"


def several(values: str) -> tuple[Choice, ...]:
    """Choices without labels or notes."""
    return tuple(Choice(value=value) for value in values.split())


RUN = Chapter(
    title="The run",
    questions=(
        Question(
            name="output_dir",
            title="Where should the results go?",
            why="Checkpoints, validation images, caches and the finished weights are written below this folder.",
            folder=True,
        ),
        Question(
            name="model_type",
            title="What do you want to train?",
            why="A LoRA is a small file on top of the model; it learns a subject or a style on one GPU. "
            "Full fine-tuning needs far more memory and images.",
            choices=lambda draft: (
                Choice(value="lora", label="a LoRA", note="megabytes; the usual choice"),
                Choice(value="full", label="the full model", note="gigabytes, and a large GPU"),
            ),
        ),
        Question(
            name="pretrained_model_name_or_path",
            title="Which base model?",
            why="Start with 3.5 medium; large gives better images and needs at least twice the memory.",
            choices=lambda draft: HUB_MODELS,
            other="another: a folder in diffusers layout, a .safetensors file, or a hub id",
            proposal=lambda draft: HUB_MODELS[0].value,
        ),
        Question(
            name="pretrained_parts_model_name_or_path",
            title="Where does what the file lacks come from?",
            why="Some files have no VAE or text encoders. Files of their own for them are named by other settings; "
            "tokenizers come with this program.",
            choices=lambda draft: (*HUB_MODELS, Choice(value="", label="it lacks nothing, or has settings of its own")),
            other="another: a folder in diffusers layout, or a hub id",
            proposal=lambda draft: HUB_MODELS[0].value,
            when=lambda draft: Path(draft["pretrained_model_name_or_path"]).expanduser().is_file(),
        ),
        Question(
            name="hub_login",
            own=True,
            title="Log in to the Hugging Face hub now?",
            why="SD3's weights are given to those who accepted the license on the model's page, so the hub must know "
            "who asks. Nothing is sent if you say later.",
            choices=lambda draft: (
                Choice(value="now", note="you need a token from your hub account's settings"),
                Choice(value="later", note="with: hf auth login"),
            ),
            when=lambda draft: wants_hub(draft) and draft.machine.log_in is not None and not draft.machine.logged_in(),
            act=lambda draft: draft.machine.log_in() if draft["hub_login"] == "now" and draft.machine.log_in else None,
        ),
        Question(
            name="lora_type",
            title="Which type of adapter?",
            why="A LoRA is what recipes are written for, and every program opens it.",
            choices=lambda draft: (
                Choice(value="standard", label="LoRA or DoRA"),
                Choice(value="lycoris", label="LyCORIS", note="LoKr, LoHa and others, as set in a file"),
            ),
            when=trains_lora,
        ),
        Question(
            name="lycoris_config",
            title="Which LyCORIS config file?",
            why="The example is a LoKr on all attention and feed-forward layers; copy it to change it.",
            proposal=lambda draft: LYCORIS_EXAMPLE,
            when=lambda draft: trains_lora(draft) and draft["lora_type"] == "lycoris",
        ),
        Question(
            name="lora_rank",
            title="Which LoRA rank?",
            why="A higher rank learns more detail, needs more images and memory, and makes a larger file.",
            choices=lambda draft: several("4 8 16 32 64 128"),
            other="another number",
            when=trains_standard_lora,
        ),
        Question(
            name="lora_target",
            title="Which layers should the LoRA train?",
            why="More layers learn more, and forget more.",
            choices=lambda draft: (
                Choice(value="attention", note="both streams, text and image; the usual choice"),
                Choice(value="image-attention", note="the image stream only; the gentlest"),
                Choice(value="attention+mlp", note="the feed-forward layers too; for styles and many images"),
            ),
            other="a comma-separated list of module names",
            when=trains_standard_lora,
        ),
        Question(
            name="use_dora",
            title="Use DoRA?",
            why="It learns the magnitude of each row of the weights apart from its direction: closer to full "
            "fine-tuning at small ranks, and slower.",
            choices=lambda draft: (
                Choice(value="false", label="no, a plain LoRA", note="every program opens it"),
                Choice(value="true", label="yes", note="for programs that know DoRA, such as diffusers and ComfyUI"),
            ),
            when=trains_standard_lora,
        ),
    ),
)

LENGTH = Chapter(
    title="How long",
    questions=(
        Question(
            name="length",
            own=True,
            title="Set the length in steps or epochs?",
            why="Steps do not depend on the number of images; epochs count how often each image is seen.",
            choices=lambda draft: (Choice(value="steps"), Choice(value="epochs")),
            proposal=lambda draft: "epochs" if counts_epochs(draft) else "steps",
        ),
        Question(
            name="max_train_steps",
            title="How many steps?",
            why="As a first guess 1000 for a subject, 2000 to 4000 for a style; stop when the images are right.",
            when=lambda draft: not counts_epochs(draft),
            proposal=lambda draft: "1000",
        ),
        Question(
            name="num_train_epochs",
            title="How many epochs?",
            why="How often each image is seen, times its repeats.",
            when=counts_epochs,
            proposal=lambda draft: "10",
            blames=("max_train_steps",),
        ),
        Question(
            name="train_batch_size",
            title="Which batch size?",
            why="A larger batch is less noisy and a little faster, and needs more memory.",
            note=memory_note("train_batch_size", "training"),
            choices=lambda draft: several("1 2 4 8"),
            other="another number",
        ),
        Question(
            name="gradient_accumulation_steps",
            title="How many gradient accumulation steps?",
            why="Like a larger batch without its memory, for that many times the work.",
            choices=lambda draft: several("1 2 4 8"),
            other="another number",
            proposal=lambda draft: str(max(1, 4 // int(draft["train_batch_size"]))),
        ),
        Question(
            name="caption_dropout_probability",
            title="How much caption dropout?",
            why="0.1 keeps guidance working; 0 is for a few images of one subject.",
            choices=lambda draft: several("0.0 0.05 0.1 0.2"),
            other="another share, from 0 to 1",
        ),
        Question(
            name="checkpointing_steps",
            title="How many steps between checkpoints?",
            why="A run that stops for any reason resumes exactly from the last one.",
        ),
        Question(
            name="checkpoints_total_limit",
            title="How many checkpoints to keep?",
            why="The newest ones; a run can resume from any of them.",
        ),
    ),
)

VALIDATION = Chapter(
    title="Validation images",
    questions=(
        Question(
            name="validation_prompt",
            title="Which validation prompt?",
            why="Worded like your captions, but with a scene of its own. Empty: no validation images.",
        ),
        Question(
            name="validation_negative_prompt",
            title="Which negative prompt?",
            why="What validation images should not show. It can be empty.",
            when=lambda draft: bool(draft["validation_prompt"]),
        ),
        Question(
            name="validation_steps",
            title="How many steps between validation images?",
            why="Images are also generated before the first step, for comparison, and at the end.",
            when=lambda draft: bool(draft["validation_prompt"]),
            proposal=lambda draft: draft["checkpointing_steps"],
        ),
        Question(
            name="validation_resolution",
            title="Which validation sizes?",
            why="In pixels, a comma-separated list. SD3 was trained around one megapixel.",
            choices=lambda draft: several("1024x1024 768x768 512x512 1024x1024,1280x768"),
            other="others, such as 832x1216",
            when=lambda draft: bool(draft["validation_prompt"]),
        ),
        Question(
            name="validation_guidance",
            title="Which guidance scale?",
            why="How closely images follow the prompt; 3 to 5 is usual for SD3.",
            when=lambda draft: bool(draft["validation_prompt"]),
        ),
    ),
)
