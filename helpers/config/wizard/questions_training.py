"""The wizard's questions about how the model learns, and who is told; names, bounds, choices are the declarations'."""

from helpers.config.checks.warnings import warnings
from helpers.config.optimizers import KINDS, LEARNING_RATE_FREE
from helpers.config.wizard.flow import Chapter, Choice, Draft, Question, options_by_name
from helpers.config.wizard.memory import memory_note, precision_that_fits
from helpers.config.wizard.questions_run import YES_NO, trains_lora

USUAL_RATE, USUAL_RANK = 1e-4, 16
FULL_RATE = 1e-5


def proposed_rate(draft: Draft) -> str:
    """A learning rate to begin with.

    An adapter's strength is alpha / rank = 1 here, so a wider one moves the model further at the same rate: the rate
    falls with the fourth root of the rank, through 1e-4 at rank 16.
    """
    if draft["optimizer"] in LEARNING_RATE_FREE:
        return "1.0"
    narrower = (USUAL_RANK / int(draft["lora_rank"])) ** 0.25
    rate = USUAL_RATE * narrower if trains_lora(draft) else FULL_RATE
    return f"{rate:.0e}".replace("e-0", "e-")


def _why_rate(draft: Draft) -> str:
    said = f"{proposed_rate(draft)} is a good start for "
    said += f"rank {draft['lora_rank']}" if trains_lora(draft) else "a whole model"
    return f"How far each step goes. {said} with {draft['optimizer']}. Burnt colors mean it was too high."


def _rate_problem(draft: Draft, text: str) -> str:
    """What the trainer would only remark: a rate of another order than the optimizer wants."""
    name = options_by_name()["learning_rate"].env
    said = [line for line in warnings(draft.answered("learning_rate", text).config()) if line.startswith(name)]
    return said[0] if said else ""


MEMORY = Chapter(
    title="Memory",
    questions=(
        Question(
            name="gradient_checkpointing",
            title="Save memory by computing twice?",
            why="Gradient checkpointing: a third slower, and far less memory.",
            choices=lambda draft: YES_NO,
            note=memory_note("gradient_checkpointing", "training"),
        ),
        Question(
            name="base_model_precision",
            title="How far shall the frozen model be quantized?",
            why=lambda draft: (
                "Fewer bits, less memory; int8 is hard to tell from none. "
                + (f"Found: {draft.machine.gpus[0].name}." if draft.machine.gpus else "No NVIDIA card was found here.")
            ),
            choices=lambda draft: tuple(
                Choice(value=value, label=label)
                for value, label in (
                    ("no_change", "not at all"),
                    ("int8-quanto", "int8"),
                    *(() if draft.machine.is_mac else (("fp8-quanto", "fp8"),)),
                    ("int4-quanto", "int4"),
                    ("int2-quanto", "int2, for the curious"),
                )
            ),
            note=memory_note("base_model_precision", "training", "encoding"),
            when=trains_lora,
            proposal=precision_that_fits,
        ),
        Question(
            name="text_encoder_3_precision",
            title="And T5, the largest text encoder?",
            why="It is needed only while captions are encoded, and gone before training.",
            choices=lambda draft: (
                Choice(value="", label="as the model"),
                Choice(value="no_change", label="whole"),
            ),
            note=memory_note("text_encoder_3_precision", "encoding"),
            when=lambda draft: trains_lora(draft) and draft["base_model_precision"] != "no_change",
        ),
        Question(
            name="mixed_precision",
            title="In which dtype shall it compute?",
            why="bf16 is fast and small; not every device knows it.",
            choices=lambda draft: (
                Choice(value="", label="what the device is good at"),
                Choice(value="bf16"),
                Choice(value="no", label="fp32", note="twice the memory, and slower"),
            ),
        ),
    ),
)

LEARNING = Chapter(
    title="Learning",
    questions=(
        Question(
            name="optimizer",
            title="Which optimizer?",
            why="adamw is the one that recipes are written for.",
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
            title="How shall it move over the run?",
            why="A constant rate lets you go on as long as you like; cosine falls and often ends a little cleaner.",
        ),
        Question(
            name="lr_warmup_steps",
            title="Over how many steps does it rise at first?",
            why="A short rise spares the model a jolt.",
            when=lambda draft: draft["lr_scheduler"] != "constant",
            proposal=lambda draft: str(min(100, int(draft["max_train_steps"]) // 10 or 100)),
        ),
        Question(
            name="use_ema",
            title="Keep a running average of the weights as well?",
            why="It is smoother than the weights themselves, and takes their memory once more.",
            choices=lambda draft: YES_NO,
        ),
    ),
)

REPORTS = Chapter(
    title="Who is told",
    questions=(
        Question(
            name="report_to",
            title="Where shall the run be followed?",
            why="The console tells in any case.",
            choices=lambda draft: (
                Choice(value="none", label="the console only"),
                Choice(value="tensorboard", note="files on this machine"),
                Choice(value="wandb", note="Weights & Biases; log in once with: wandb login"),
                Choice(value="tensorboard,wandb", label="both"),
            ),
        ),
        Question(
            name="tracker_project_name",
            title="Under which project name?",
            why="Runs of one project are shown side by side.",
            when=lambda draft: draft["report_to"] not in ("none", ""),
        ),
        Question(
            name="push_to_hub",
            title="Publish the result on the Hugging Face hub?",
            why="It is uploaded when the run is complete, with a model card.",
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
            title="For your eyes only?",
            why="A private repository can be made public later, on its page.",
            choices=lambda draft: YES_NO,
            when=lambda draft: draft["push_to_hub"] == "true",
        ),
        Question(
            name="push_checkpoints_to_hub",
            title="Each checkpoint, too?",
            why="A copy elsewhere of everything a run needs to go on; gigabytes, for a whole model.",
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
            title="How many processes shall train?",
            why=lambda draft: f"One for each graphics card; {len(draft.machine.gpus) or 'no NVIDIA'} found here.",
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
