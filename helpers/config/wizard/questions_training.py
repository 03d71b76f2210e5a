"""The wizard's questions about optimizer, memory and reporting; names, bounds and choices come from the options."""

from helpers.config.checks.warnings import warnings
from helpers.config.optimizers import KINDS, LEARNING_RATE_FREE
from helpers.config.wizard.flow import Chapter, Choice, Draft, Question, options_by_name
from helpers.config.wizard.memory import memory_note, precision_that_fits
from helpers.config.wizard.questions_run import YES_NO, trains_lora

USUAL_RATE, USUAL_RANK = 1e-4, 16
FULL_RATE = 1e-5


def proposed_rate(draft: Draft) -> str:
    """A learning rate to start with.

    The adapter's scale is alpha / rank = 1 here, so a higher rank changes the model more at the same rate: the rate
    falls with the fourth root of the rank, through 1e-4 at rank 16.
    """
    if draft["optimizer"] in LEARNING_RATE_FREE:
        return "1.0"
    narrower = (USUAL_RANK / int(draft["lora_rank"])) ** 0.25
    rate = USUAL_RATE * narrower if trains_lora(draft) else FULL_RATE
    return f"{rate:.0e}".replace("e-0", "e-")


def _why_rate(draft: Draft) -> str:
    start = f"{proposed_rate(draft)} is a good start for "
    start += f"rank {draft['lora_rank']}" if trains_lora(draft) else "full fine-tuning"
    return f"{start} with {draft['optimizer']}. Oversaturated images mean it was too high."


def _rate_problem(draft: Draft, text: str) -> str:
    """What the trainer would only warn about: a learning rate that is unusual for the optimizer."""
    name = options_by_name()["learning_rate"].env
    lines = [line for line in warnings(draft.answered("learning_rate", text).config()) if line.startswith(name)]
    return lines[0] if lines else ""


MEMORY = Chapter(
    title="Memory",
    questions=(
        Question(
            name="gradient_checkpointing",
            title="Use gradient checkpointing?",
            why="Recomputes activations: a third slower, and far less memory.",
            choices=lambda draft: YES_NO,
            note=memory_note("gradient_checkpointing", "training"),
        ),
        Question(
            name="base_model_precision",
            title="How should the base model be quantized?",
            why=lambda draft: (
                "Fewer bits need less memory; int8 hardly differs from none. "
                + (f"Found: {draft.machine.gpus[0].name}." if draft.machine.gpus else "No NVIDIA GPU was found.")
            ),
            choices=lambda draft: tuple(
                Choice(value=value, label=label)
                for value, label in (
                    ("no_change", "not at all"),
                    ("int8-quanto", "int8"),
                    *(() if draft.machine.is_mac else (("fp8-quanto", "fp8"),)),
                    ("int4-quanto", "int4"),
                    ("int2-quanto", "int2, experimental"),
                )
            ),
            note=memory_note("base_model_precision", "training", "encoding"),
            when=trains_lora,
            proposal=precision_that_fits,
        ),
        Question(
            name="text_encoder_3_precision",
            title="How should T5, the largest text encoder, be quantized?",
            why="It is loaded only while captions are encoded.",
            choices=lambda draft: (
                Choice(value="", label="as the base model"),
                Choice(value="no_change", label="not at all"),
            ),
            note=memory_note("text_encoder_3_precision", "encoding"),
            when=lambda draft: trains_lora(draft) and draft["base_model_precision"] != "no_change",
        ),
        Question(
            name="mixed_precision",
            title="Which compute dtype (mixed precision)?",
            why="bf16 is fast and needs less memory; not every device supports it.",
            choices=lambda draft: (
                Choice(value="", label="the best for the device"),
                Choice(value="bf16"),
                Choice(value="no", label="fp32", note="twice the memory, and slower"),
            ),
        ),
    ),
)

LEARNING = Chapter(
    title="Optimizer",
    questions=(
        Question(
            name="optimizer",
            title="Which optimizer?",
            why="Most recipes are written for adamw.",
            choices=lambda draft: tuple(Choice(value=kind.name) for kind in KINDS.values() if kind.is_installed),
            note=lambda draft, value: KINDS[value].summary if value in KINDS else "",
        ),
        Question(
            name="learning_rate",
            title="Which learning rate?",
            why=_why_rate,
            proposal=proposed_rate,
            problem=_rate_problem,
        ),
        Question(
            name="lr_scheduler",
            title="Which learning rate schedule?",
            why="A constant rate can train as long as you like; cosine decays and often ends a little better.",
        ),
        Question(
            name="lr_warmup_steps",
            title="How many warm-up steps?",
            why="A short warm-up avoids large first steps.",
            when=lambda draft: draft["lr_scheduler"] != "constant",
            proposal=lambda draft: str(min(100, int(draft["max_train_steps"]) // 10 or 100)),
        ),
        Question(
            name="use_ema",
            title="Keep an EMA of the weights?",
            why="An average that is smoother than the weights themselves, and needs their memory again.",
            choices=lambda draft: YES_NO,
        ),
    ),
)

REPORTS = Chapter(
    title="Reporting",
    questions=(
        Question(
            name="report_to",
            title="Which trackers?",
            why="The console shows the run in any case.",
            choices=lambda draft: (
                Choice(value="none", label="the console only"),
                Choice(value="tensorboard", note="files on this machine"),
                Choice(value="wandb", note="Weights & Biases; log in once with: wandb login"),
                Choice(value="tensorboard,wandb", label="both"),
            ),
        ),
        Question(
            name="tracker_project_name",
            title="Which tracker project?",
            why="Runs of one project are shown side by side.",
            when=lambda draft: draft["report_to"] not in ("none", ""),
        ),
        Question(
            name="push_to_hub",
            title="Upload the result to the Hugging Face hub?",
            why="It is uploaded with a model card when the run is complete.",
            choices=lambda draft: YES_NO,
        ),
        Question(
            name="hub_model_id",
            title="Under which name?",
            why="The repository's name, with or without your own name before it.",
            when=lambda draft: draft["push_to_hub"] == "true",
        ),
        Question(
            name="hub_private",
            title="Keep the repository private?",
            why="A private repository can be made public later, on its page.",
            choices=lambda draft: YES_NO,
            when=lambda draft: draft["push_to_hub"] == "true",
        ),
        Question(
            name="push_checkpoints_to_hub",
            title="Upload checkpoints, too?",
            why="Everything that a run needs to resume; gigabytes for full fine-tuning.",
            choices=lambda draft: YES_NO,
            when=lambda draft: draft["push_to_hub"] == "true",
        ),
    ),
)

MACHINE = Chapter(
    title="The machine",
    questions=(
        Question(
            name="training_num_processes",
            title="How many training processes?",
            why=lambda draft: f"One per GPU; {len(draft.machine.gpus) or 'no NVIDIA GPU'} found.",
            proposal=lambda draft: str(max(1, len(draft.machine.gpus))),
        ),
        Question(
            name="training_dynamo_backend",
            title="Compile the model?",
            why="inductor makes each step faster after a minute or two of compiling at the start.",
            choices=lambda draft: (
                Choice(value="no", note="starts at once"),
                Choice(value="inductor", note="for long runs"),
            ),
        ),
    ),
)
