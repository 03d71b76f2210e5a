"""The command line: every option can be said, every slip is told of, and all slips at once."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from helpers.config.deprecated_options import OLD_NAMES
from helpers.config.docs import help_page
from helpers.config.option import Option, read_value, written
from helpers.config.parse import parse_arguments, wants_help
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import ConfigError, Problem

OPTIONS = list(all_options())
WEBHOOK = Path(__file__).resolve().parents[3] / "config" / "webhook.json.example"
PROMPTS = Path(__file__).resolve().parents[3] / "config" / "user_prompt_library.json.example"
LEAST = ["--pretrained_model_name_or_path=some/model", "--max_train_steps=10"]


def problems_of(*words: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_arguments([*LEAST, *words])
    return caught.value.problems


def other_value(option: Option) -> str:
    """A text for `option` that is allowed and not its default."""
    special = {"num_train_epochs": "0", "validation_resolution": "640x512", "sd3": "true", "output_dir": "elsewhere"}
    special |= {
        "pretrained_model_name_or_path": "an/other",
        "validation_seed": "7",
        "seed": "7",
        "lora_type": "standard",
    }
    special |= {"resume_from_checkpoint": "none", "lora_type": "standard"}
    special |= {"lora_ranks": "to_q=8", "lora_init_type": "pissa", "init_lora": str(WEBHOOK)}
    special |= {"optimizer_config": "beta2=0.95", "optimizer": "adafactor"}
    special |= {"report_to": "wandb,tensorboard", "webhook_config": str(WEBHOOK)}
    special |= {"user_prompt_library": str(PROMPTS), "validation_skip_layers": "7,8,9"}
    special |= {"pretrained_vae_model_name_or_path": "a/vae", "pretrained_t5_model_name_or_path": "a/t5"}
    special["hub_model_id"] = "me/my-model"
    special |= {"pretrained_parts_model_name_or_path": "a/model"}
    special |= {"pretrained_clip_l_model_name_or_path": "a/l", "pretrained_clip_g_model_name_or_path": "a/g"}
    if option.name in special:
        return special[option.name]
    if option.choices:
        return option.choices[-1]
    if option.kind is bool:
        return written(not option.default)
    if option.kind is str:
        return "some words"
    low = option.minimum if option.minimum is not None else option.above
    high = option.maximum if option.maximum is not None else (low or 0) + 1000
    step = option.multiple_of or 1
    return written(option.kind(min(high, (low or 0) + step)))


def test_unsaid_options_have_their_declared_defaults() -> None:
    config = parse_arguments(LEAST)
    for option in OPTIONS:
        if option.name not in ("pretrained_model_name_or_path", "max_train_steps"):
            assert getattr(getattr(config, option.group), option.name) == option.default, option.name


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_each_option_can_be_said_in_both_spellings(option: Option) -> None:
    text = other_value(option)
    expected = read_value(option, text=text)
    spellings = [[f"--{option.name}={text}"]]
    if option.kind is not bool:
        spellings.append([f"--{option.name}", text])
    along = {"full": ["--model_type=full"], "optimizer": ["--max_grad_norm=0"], "publishing": ["--hub_model_id=a"]}.get(
        option.group, []
    )
    for words in spellings:
        config = parse_arguments([*LEAST, *along, *words])
        value = getattr(getattr(config, option.group), option.name)
        assert value == expected
        assert type(value) is option.kind


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_slip_in_a_name_is_told_with_the_name_that_was_meant(option: Option) -> None:
    name = option.name
    along = ["--hub_model_id=a"] if name == "push_to_hub" else []
    middle = len(name) // 2
    doubled = name[:middle] + name[middle] + name[middle:]
    dropped = name[:1] + name[2:]
    for slip in (doubled, dropped, name.replace("_", "-"), name.upper()):
        if slip == name:
            continue
        (problem,) = problems_of(*along, f"--{slip}={other_value(option)}")
        assert problem.option == f"--{slip}"
        assert problem.fix == f"did you mean --{name}?"


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_value_of_the_wrong_kind_is_told(option: Option) -> None:
    if option.kind is str and not option.choices:
        return
    (problem,) = problems_of(f"--{option.name}=penguin")
    assert problem.option == f"--{option.name}"
    assert problem.value == "penguin"
    assert problem.fix.startswith("use ")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_number_out_of_bounds_is_told(option: Option) -> None:
    outside = [b - 1 for b in (option.minimum,) if b is not None]
    outside += [b + 1 for b in (option.maximum,) if b is not None]
    outside += [b for b in (option.above,) if b is not None]
    for number in outside:
        (problem,) = problems_of(f"--{option.name}={written(option.kind(number))}")
        assert problem.option == f"--{option.name}"
        assert "must be" in problem.reason


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("0.5", 0.5), ("model", "model"), ("auto", "auto")])
def test_a_word_may_stand_for_a_number(text: str, value: float | str) -> None:
    assert parse_arguments([*LEAST, f"--flow_shift={text}"]).objective.flow_shift == value
    for wrong in ("Auto", "0", "-1", "scheduler"):
        (problem,) = problems_of(f"--flow_shift={wrong}")
        assert problem.fix == "use a number above 0, model or auto"


@pytest.mark.parametrize("text", ["nan", "inf", "1_0", "", "1e400"])
def test_numbers_are_finite_and_plain(text: str) -> None:
    (problem,) = problems_of(f"--learning_rate={text}")
    assert problem.option == "--learning_rate"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--allow_tf32"], True),
        (["--allow_tf32=True"], True),
        (["--allow_tf32=1"], True),
        (["--allow_tf32=yes"], True),
        (["--allow_tf32=false"], False),
        (["--allow_tf32=0"], False),
        (["--allow_tf32=no"], False),
        (["--allow_tf32=no", "--allow_tf32=yes"], True),
    ],
)
def test_switches(words: list[str], expected: bool) -> None:
    assert parse_arguments([*LEAST, *words]).precision.allow_tf32 is expected


def test_a_switch_takes_no_word_after_it() -> None:
    (problem,) = problems_of("--allow_tf32", "false")
    assert problem.fix == "did you mean --allow_tf32=false?"


def test_a_flag_without_its_value_is_told() -> None:
    for words in (["--lora_rank"], ["--lora_rank", "--allow_tf32"]):
        (problem,) = problems_of(*words)
        assert (problem.option, problem.reason) == ("--lora_rank", "it needs a value")


def test_the_last_of_a_repeated_flag_wins_even_over_a_wrong_one() -> None:
    assert parse_arguments([*LEAST, "--lora_rank=x", "--lora_rank=4"]).lora.lora_rank == 4


def test_a_negative_number_may_be_a_word_of_its_own() -> None:
    assert parse_arguments([*LEAST, "--logit_mean", "-0.5"]).objective.logit_mean == -0.5


def test_an_empty_value_takes_an_option_back() -> None:
    words = ["--validation_prompt=a cat", "--validation_prompt=", "--validation_seed="]
    validation = parse_arguments([*LEAST, *words]).validation
    assert validation.validation_prompt is None
    assert validation.validation_seed == ""


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(
            [
                "--lora_rnk=4",
                "word",
                "--lora_rank=0",
                "--optimizer=adamww",
                "--flux=true",
                "--validation_resolution=1000",
                "--num_train_epochs=-1",
            ]
        )
    told = [problem.option for problem in caught.value.problems]
    assert told == [
        "'word'",
        "--lora_rnk",
        "--flux",
        "--lora_rank",
        "--optimizer",
        "--num_train_epochs",
        "MODEL_NAME",
        "MAX_NUM_STEPS",
        "VALIDATION_RESOLUTION",
    ]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("--mixed_precision=fp16", "NaN"),
        ("--sd3=false", "only Stable Diffusion 3 and 3.5 are supported"),
        ("--flux", "only Stable Diffusion 3 and 3.5 are supported"),
        ("--lora_type=lycoris", "needs a file"),
        ("--delete_unwanted_images=1", "does not delete"),
        ("--lora_init_type=loftq", "BASE_MODEL_PRECISION=no_change does not quantize"),
    ],
)
def test_what_is_refused_is_refused_with_its_reason(word: str, reason: str) -> None:
    (problem,) = problems_of(word)
    assert reason in problem.reason
    assert problem.fix


@pytest.mark.parametrize(
    "said",
    [
        {"algo": "full", "apply_preset": {"target_module": ["Attention"]}},
        {"algo": "lokr", "apply_preset": {"module_algo_map": {"FeedForward": {"algo": "full"}}}},
    ],
)
def test_full_differences_of_quantized_weights_are_refused_before_anything_is_encoded(
    said: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "lycoris.json"
    file.write_text(json.dumps(said))
    words = ("--lora_type=lycoris", f"--lycoris_config={file}")
    (problem,) = problems_of(*words, "--base_model_precision=int8-quanto")
    assert "BASE_MODEL_PRECISION=int8-quanto rounds them" in problem.reason
    parse_arguments([*LEAST, *words])


@pytest.mark.parametrize(
    "word", ["--use_ema=false", "--flux=0", "--report_to=none", "--lora_type=standard", "--num_validation_images=1"]
)
def test_what_asks_for_nothing_is_accepted_in_silence(word: str, caplog: pytest.LogCaptureFixture) -> None:
    assert parse_arguments([*LEAST, word]) == parse_arguments(LEAST)
    assert not caplog.messages


def test_old_spellings_say_what_replaced_them(caplog: pytest.LogCaptureFixture) -> None:
    config = parse_arguments([*LEAST, "--adam_bfloat16", "--snr_gamma=5"])
    assert config.optimizer.optimizer == "adamw_bf16"
    assert caplog.messages == [
        "--adam_bfloat16 is now --optimizer=adamw_bf16",
        "--snr_gamma has no effect for SD3",
    ]


def test_an_old_name_is_no_option_as_well() -> None:
    """Else a built option would still be called unsupported."""
    spelled = {option.name for option in OPTIONS} | {option.env for option in OPTIONS}
    assert not spelled & ({old.name for old in OLD_NAMES} | {old.env_name for old in OLD_NAMES})


def test_help_names_every_flag_with_its_env_name() -> None:
    page = help_page()
    for option in OPTIONS:
        assert f"--{option.name}=" in page
        assert option.env in page
    assert max(map(len, page.splitlines())) <= 120
    assert wants_help(["--lora_rank=4", "--help"])
    assert not wants_help(LEAST)


def test_values_that_follow_others(tmp_path: Path) -> None:
    config = parse_arguments(
        [*LEAST, "--lora_rank=8", "--base_model_precision=int8-quanto", "--text_encoder_3_precision=no_change"]
    )
    assert config.lora.alpha == 8.0
    assert [config.precision.text_encoder_precision(n) for n in (1, 2, 3)] == ["int8-quanto"] * 2 + ["no_change"]
    assert parse_arguments([*LEAST, "--lora_alpha=2"]).lora.alpha == 2.0


def test_every_group_of_a_run_has_a_docstring_for_the_help_page() -> None:
    assert all(isinstance(group.type, type) and group.type.__doc__ for group in fields(RunConfig))


NUMBERS = [each for each in OPTIONS if each.kind in (int, float)]
OPTION_ENVS = {option.name: option.env for option in OPTIONS}


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
@pytest.mark.parametrize("text", [str(10**30), str(10**400), "9" * 5000, "-" + str(10**30)])
def test_every_number_has_bounds(option: Option, text: str) -> None:
    (problem,) = problems_of(f"--{option.name}={text}")
    assert problem.option == f"--{option.name}"
    assert "must be" in problem.reason or "it is not a" in problem.reason


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("validation_seed", str(2**63)),
        ("validation_seed", "9" * 5000),
        ("validation_resolution", "9" * 5000),
        ("validation_resolution", "16400"),
        ("lora_ranks", "attn.to_q=100000"),
        ("optimizer_config", f"weight_decay={10**30}"),
    ],
)
def test_numbers_in_texts_have_bounds_too(flag: str, text: str) -> None:
    assert any(OPTION_ENVS[flag] in problem.option for problem in problems_of(f"--{flag}={text}"))
