"""The wizard's questions about what is trained and how long; names, bounds and choices are the declarations'."""

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
    """Whether that adapter is one whose rank and place the settings say."""
    return trains_lora(draft) and draft["lora_type"] == "standard"


def is_on_hub(draft: Draft) -> bool:
    """Whether the model has to come from the hub."""
    name = draft["pretrained_model_name_or_path"]
    return not Path(name).expanduser().exists() and HUB_ID.fullmatch(name) is not None


def counts_epochs(draft: Draft) -> bool:
    """Whether the run's length is said in epochs: as answered, else as the old file has it."""
    return draft["length"] == "epochs" if draft.knows("length") else draft["num_train_epochs"] != "0"


def wants_hub(draft: Draft) -> bool:
    """Whether the run needs somebody logged in at the hub."""
    return is_on_hub(draft) or draft["push_to_hub"] == "true"


def several(values: str) -> tuple[Choice, ...]:
    """Choices that need no further word."""
    return tuple(Choice(value=value) for value in values.split())


RUN = Chapter(
    title="The run",
    questions=(
        Question(
            name="output_dir",
            title="Where shall the results go?",
            why="Checkpoints, test images, caches and the finished weights are written below this folder.",
            folder=True,
        ),
        Question(
            name="model_type",
            title="What shall be trained?",
            why="A LoRA is a small file beside the model; it learns a subject or a style on one card. "
            "Training the whole model wants far more memory and images.",
            choices=lambda draft: (
                Choice(value="lora", label="a LoRA", note="megabytes; the usual choice"),
                Choice(value="full", label="the whole model", note="gigabytes, and a large card"),
            ),
        ),
        Question(
            name="pretrained_model_name_or_path",
            title="Which model do you start from?",
            why="3.5 medium is the one to begin with; large draws better, and wants twice the memory or more.",
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
            title="Which kind of adapter?",
            why="A LoRA is what recipes are written for, and every program opens it.",
            choices=lambda draft: (
                Choice(value="standard", label="LoRA or DoRA"),
                Choice(value="lycoris", label="LyCORIS", note="LoKr, LoHa and others, as a file says"),
            ),
            when=trains_lora,
        ),
        Question(
            name="lycoris_config",
            title="Which file says what LyCORIS shall do?",
            why="The example is a LoKr on all attention and feed-forward layers; copy it to change it.",
            proposal=lambda draft: LYCORIS_EXAMPLE,
            when=lambda draft: trains_lora(draft) and draft["lora_type"] == "lycoris",
        ),
        Question(
            name="lora_rank",
            title="What rank shall the LoRA have?",
            why="Its width. More holds more detail, from more images; it costs memory and makes the file larger.",
            choices=lambda draft: several("4 8 16 32 64 128"),
            other="another number",
            when=trains_standard_lora,
        ),
        Question(
            name="lora_target",
            title="What shall the LoRA be attached to?",
            why="More places learn more, and forget more.",
            choices=lambda draft: (
                Choice(value="attention", note="both streams, text and image; the usual choice"),
                Choice(value="image-attention", note="the image stream only; the gentlest"),
                Choice(value="attention+mlp", note="the feed-forward layers too; for styles and many images"),
            ),
            other="a comma list of module names",
            when=trains_standard_lora,
        ),
        Question(
            name="use_dora",
            title="Shall it be a DoRA?",
            why="It learns how strong each row of the weights is apart from where it points: closer to training the "
            "whole model at small ranks, and slower.",
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
            title="How do you want to say how long the run is?",
            why="Steps are the same work whatever the images; epochs count how often each image is seen.",
            choices=lambda draft: (Choice(value="steps"), Choice(value="epochs")),
            proposal=lambda draft: "epochs" if counts_epochs(draft) else "steps",
        ),
        Question(
            name="max_train_steps",
            title="How many steps?",
            why="A thousand for a subject, two to four for a style is a first guess; stop when the images are right.",
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
            title="How many images at once?",
            why="More at once is steadier and a little faster; memory grows with it.",
            note=memory_note("train_batch_size", "training"),
            choices=lambda draft: several("1 2 4 8"),
            other="another number",
        ),
        Question(
            name="gradient_accumulation_steps",
            title="How many such batches make one step?",
            why="The same steadiness as a larger batch without its memory, for that many times the work.",
            choices=lambda draft: several("1 2 4 8"),
            other="another number",
            proposal=lambda draft: str(max(1, 4 // int(draft["train_batch_size"]))),
        ),
        Question(
            name="caption_dropout_probability",
            title="Which share of the images is shown without its caption?",
            why="A tenth keeps the model steerable by guidance; none is for a few images of one subject.",
            choices=lambda draft: several("0.0 0.05 0.1 0.2"),
            other="another share, from 0 to 1",
        ),
        Question(
            name="checkpointing_steps",
            title="After how many steps is a checkpoint saved?",
            why="A run that stops, for whatever reason, goes on exactly from the last one.",
        ),
        Question(
            name="checkpoints_total_limit",
            title="How many checkpoints are kept?",
            why="The newest are; you can go back to any that is there.",
        ),
    ),
)

VALIDATION = Chapter(
    title="Test images",
    questions=(
        Question(
            name="validation_prompt",
            title="Which prompt shall be drawn as the run goes on?",
            why="In the words of your captions, but of a scene that is in none. Empty: nothing is drawn.",
        ),
        Question(
            name="validation_negative_prompt",
            title="And away from what?",
            why="What test images are steered away from. Empty is fine.",
            when=lambda draft: bool(draft["validation_prompt"]),
        ),
        Question(
            name="validation_steps",
            title="After how many steps is it drawn?",
            why="It is also drawn before the first step, so that you see what changes, and at the end.",
            when=lambda draft: bool(draft["validation_prompt"]),
            proposal=lambda draft: draft["checkpointing_steps"],
        ),
        Question(
            name="validation_resolution",
            title="At which sizes?",
            why="In pixels; several with commas between. SD3 is at home around one megapixel.",
            choices=lambda draft: several("1024x1024 768x768 512x512 1024x1024,1280x768"),
            other="others, such as 832x1216",
            when=lambda draft: bool(draft["validation_prompt"]),
        ),
        Question(
            name="validation_guidance",
            title="How closely do they follow the prompt?",
            why="Guidance: SD3 likes it low, 3 to 5.",
            when=lambda draft: bool(draft["validation_prompt"]),
        ),
    ),
)
