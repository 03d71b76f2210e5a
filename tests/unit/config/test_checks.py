"""What is wrong with options taken together, or with what they point at."""

from pathlib import Path

import pytest

from helpers.config.files.prompt_library import parse_validation_sizes
from helpers.config.parse import parse_arguments
from helpers.errors import ConfigError, Problem

MODEL = "--pretrained_model_name_or_path=some/model"


def problem_of(*words: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(words)
    (problem,) = caught.value.problems
    return problem


def test_a_run_has_one_length() -> None:
    assert problem_of(MODEL).option == "MAX_NUM_STEPS"
    both = problem_of(MODEL, "--max_train_steps=10", "--num_train_epochs=1")
    assert (both.option, both.fix) == ("NUM_EPOCHS", "set one of the two to 0")


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1024", ((1024, 1024),)),
        ("1024x1024", ((1024, 1024),)),
        ("1024x1024, 1280x768", ((1024, 1024), (1280, 768))),
        ("512X768,512,512x512", ((512, 768), (512, 512))),
        ("64", ((64, 64),)),
    ],
)
def test_validation_sizes(text: str, sizes: tuple[tuple[int, int], ...]) -> None:
    assert parse_validation_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "1000", "48", "1024x", "x1024", "1024x1024x1024", "a", "-512", "512,", "1024.0"])
def test_sizes_that_cannot_be_drawn(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_validation_sizes(text)


def test_a_validation_size_that_cannot_be_drawn_is_told_with_a_near_one() -> None:
    problem = problem_of(MODEL, "--max_train_steps=1", "--validation_resolution=1000")
    assert "992 is" in problem.reason or "1008 is" in problem.reason


@pytest.mark.parametrize("seed", ["x", "-1", "1.5"])
def test_a_validation_seed_is_a_whole_number(seed: str) -> None:
    assert problem_of(MODEL, "--max_train_steps=1", f"--validation_seed={seed}").option == "VALIDATION_SEED"


def test_a_bucket_alignment_that_sd3_cannot_take() -> None:
    problem = problem_of(MODEL, "--max_train_steps=1", "--aspect_bucket_alignment=24")
    assert "multiple of 16" in problem.reason


def test_models_that_are_not_there(tmp_path: Path) -> None:
    single = tmp_path / "sd3.ckpt"
    single.touch()
    length = "--max_train_steps=1"
    for said in (tmp_path / "nowhere", "./nowhere", "a/b/c", tmp_path, single):
        problem = problem_of(f"--pretrained_model_name_or_path={said}", length)
        assert (problem.option, problem.value) == ("MODEL_NAME", str(said))
    vae = problem_of(MODEL, length, f"--pretrained_vae_model_name_or_path={tmp_path / 'nowhere'}")
    assert vae.option == "PRETRAINED_VAE_MODEL_NAME_OR_PATH"


@pytest.mark.parametrize("name", ["pipeline", "pipeline/transformer", "single_file.safetensors"])
def test_a_model_whose_place_the_result_would_take(tmp_path: Path, name: str) -> None:
    model = tmp_path / "first" / name
    model.parent.mkdir(parents=True)
    model.touch() if model.suffix else model.mkdir()
    words = (
        f"--pretrained_model_name_or_path={model}",
        "--max_train_steps=1",
        f"--output_dir={tmp_path}/second/../first",
    )
    with pytest.raises(ConfigError, match="this run's result would overwrite it"):
        parse_arguments(words)


def test_an_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problem = problem_of(MODEL, "--max_train_steps=1", f"--output_dir={tmp_path / 'file' / 'below'}")
    assert (problem.option, problem.reason) == ("OUTPUT_DIR", f"{tmp_path / 'file'} is not a folder")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_an_output_folder_that_the_system_keeps(tmp_path: Path) -> None:
    problem = problem_of(MODEL, "--max_train_steps=1", "--output_dir=/proc/run")
    assert (problem.option, problem.value) == ("OUTPUT_DIR", "/proc/run")
    assert problem.reason.startswith("/proc cannot be written to: ")


@pytest.mark.parametrize("said", ["checkpoint-7", "somewhere/else", "lastest"])
def test_a_checkpoint_that_is_not_there(tmp_path: Path, said: str) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    words = (MODEL, "--max_train_steps=1", f"--output_dir={tmp_path}")
    problem = problem_of(*words, f"--resume_from_checkpoint={said}")
    assert (problem.option, problem.value) == ("RESUME_CHECKPOINT", said)
    fix = "did you mean latest?" if said == "lastest" else "use latest or none, or one of checkpoint-5"
    assert problem.fix == fix
    assert parse_arguments([*words, "--resume_from_checkpoint=checkpoint-5"])


@pytest.mark.parametrize(
    ("words", "remark"),
    [
        (["--learning_rate=1"], "LEARNING_RATE=1 is very large for adamw"),
        (["--lr_end=1e-3", "--lr_scheduler=cosine"], "so the rate rises"),
        (["--lr_warmup_steps=10"], "LR_WARMUP_STEPS=10 is as long as the run (MAX_NUM_STEPS=10)"),
        (
            ["--lr_scheduler=constant", "--lr_warmup_steps=3"],
            "LR_WARMUP_STEPS=3 has no effect with LR_SCHEDULE",
        ),
        (["--mode_scale=1"], "MODE_SCALE=1.0 has no effect with TIMESTEP_SAMPLING=logit_normal"),
        (["--lr_num_cycles=2", "--lr_scheduler=cosine"], "LR_NUM_CYCLES=2 has no effect with LR_SCHEDULE=cosine"),
        (["--model_type=full", "--lora_rank=4"], "LORA_RANK=4 has no effect with MODEL_TYPE=full"),
    ],
)
def test_what_is_seldom_meant_is_remarked_upon(words: list[str], remark: str, caplog: pytest.LogCaptureFixture) -> None:
    parse_arguments([MODEL, "--max_train_steps=10", *words])
    (said,) = caplog.messages
    assert remark in said


def test_the_learning_rate_follows_what_it_steers() -> None:
    def rate(*words: str) -> float:
        return parse_arguments([MODEL, "--max_train_steps=1", *words]).optimizer.learning_rate

    assert [rate(), rate("--optimizer=prodigy"), rate("--optimizer=prodigy", "--learning_rate=0.5")] == [1e-4, 1.0, 0.5]


def test_an_optimizer_that_finds_its_rate_is_given_no_small_one() -> None:
    problem = problem_of(MODEL, "--max_train_steps=1", "--optimizer=prodigy", "--learning_rate=1e-4")
    assert (problem.option, problem.value, problem.fix) == ("LEARNING_RATE", "0.0001", "use 1.0, or leave it out")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--model_type=full", "--base_model_precision=int8-quanto"], "BASE_MODEL_PRECISION"),
        (["--model_type=full", "--base_model_default_dtype=bf16"], "BASE_MODEL_DEFAULT_DTYPE"),
        (["--layer_freeze_strategy=bitfit"], "LAYER_FREEZE_STRATEGY"),
        (["--train_modules=attn"], "TRAIN_MODULES"),
        (["--fused_backward"], "FUSED_BACKWARD"),
        (["--fused_backward", "--max_grad_norm=0", "--gradient_accumulation_steps=2"], "FUSED_BACKWARD"),
        (["--fused_backward", "--max_grad_norm=0", "--optimizer=prodigy"], "FUSED_BACKWARD"),
    ],
)
def test_what_cannot_be_trained_together(words: list[str], option: str) -> None:
    assert problem_of(MODEL, "--max_train_steps=1", *words).option == option
