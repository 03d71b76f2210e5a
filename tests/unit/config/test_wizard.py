"""The wizard's questions, from the first answer to the files it writes, with nobody at a terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.config.datasets.file import load_datasets
from helpers.config.deprecated_options import OLD_NAMES
from helpers.config.wizard.flow import Draft, offered, options_by_name
from helpers.config.wizard.main import CHAPTERS, configure, read_before
from helpers.config.wizard.questions_training import proposed_rate
from tests.unit.config.wizard_people import Person, machine, run_of, wizard, written_env

REPOSITORY = Path(__file__).resolve().parents[3]
QUESTIONS = [question for chapter in CHAPTERS for question in chapter.questions]


def test_taking_all_that_is_proposed_makes_a_run(here: Path) -> None:
    person = wizard({})
    config = run_of()
    assert config.model.pretrained_model_name_or_path == "stabilityai/stable-diffusion-3.5-medium"
    assert config.run.max_train_steps > 0
    (dataset,) = load_datasets(config).images
    assert dataset.instance_data_dir == here / "barns"
    assert dataset.caption_strategy == "filename"
    assert person.told[-1].endswith("# Next: go")


def test_every_question_of_no_name_of_its_own_is_an_option() -> None:
    known = {*options_by_name(), *(old.name for old in OLD_NAMES)}
    assert {question.name for question in QUESTIONS if not question.own} <= known
    assert not {question.name for question in QUESTIONS if question.own} & known


def test_everything_offered_will_do(here: Path) -> None:
    person = wizard({})
    for question in person.asked:
        refused = {choice.value: question.problem(choice.value) for choice in question.choices}
        assert not any(refused.values()), f"{question.name}: {refused}"


def test_only_choices_that_the_option_allows_are_offered() -> None:
    for question in QUESTIONS:
        option = options_by_name().get(question.name)
        if option and option.choices and question.choices:
            shown = [choice.value for choice in offered(question, Draft(machine=machine())) if choice.value]
            assert set(shown) <= set(option.choices)


def test_a_wrong_answer_is_told_of_in_the_parsers_words(here: Path) -> None:
    said = {
        "lora_rank": ["0", "8"],
        "pretrained_model_name_or_path": ["no such/folder/at all", str(here), "stabilityai/stable-diffusion-3.5-large"],
        "validation_prompt": "a barn by the sea",
        "validation_resolution": ["1000", "1024"],
        "image_folder": ["", "nowhere", "config", "barns"],
        "learning_rate": ["much", "0.5", "2e-4"],
        "repeats": ["-1", "2"],
        "latent_cache": ["../../barns/cache", "cache/barns"],
    }
    (here / "config").mkdir()
    person = wizard(said)
    assert person.refused.keys() == said.keys() - {"validation_prompt"}
    assert "from 1 to" in person.refused["lora_rank"]
    assert "model_index.json" in person.refused["pretrained_model_name_or_path"]
    assert "no image" in person.refused["image_folder"]
    assert "inside the image folder" in person.refused["latent_cache"]
    config = run_of()
    assert (config.lora.lora_rank, config.optimizer.learning_rate) == (8, 2e-4)
    assert load_datasets(config).images[0].repeats == 2


def test_going_back_asks_again_with_the_answer_as_the_default(here: Path) -> None:
    person = wizard({"lora_target": [None, "image-attention"], "lora_rank": ["64", "32"]})
    first = person.names.index("lora_rank")
    assert person.names[first : first + 4] == ["lora_rank", "lora_target", "lora_rank", "lora_target"]
    assert person.asked[first + 2].default == "64"
    assert run_of().lora.lora_rank == 32


def test_a_whole_model_is_asked_for_without_what_belongs_to_a_lora(here: Path) -> None:
    (here / "config").mkdir()
    (here / "config" / "config.env").write_text("export LORA_RANK=32\nexport BASE_MODEL_PRECISION=int8-quanto\n")
    person = wizard({"model_type": "full"})
    assert not {"lora_rank", "lora_target", "base_model_precision"} & set(person.names)
    config = run_of()
    assert (config.model.model_type, config.optimizer.learning_rate) == ("full", 1e-5)
    assert not {"LORA_RANK", "BASE_MODEL_PRECISION"} & written_env().keys()


def test_what_would_be_refused_is_told_of_before_it_is_written(here: Path) -> None:
    (here / "config").mkdir()
    (here / "config" / "config.env").write_text("export PRETRAINED_VAE_MODEL_NAME_OR_PATH=/not/there\n")
    assert "PRETRAINED_VAE_MODEL_NAME_OR_PATH" in wizard({}).question("write").shows.partition("will refuse")[2]


def test_only_calculated_values_are_told_to_be_written_as_they_are(here: Path) -> None:
    wizard({"validation_prompt": "for $5 `now` # or never"})
    assert not any("$variables" in told for told in wizard({}).told)
    with (here / "config" / "config.env").open("a") as file:
        file.write('export TRAINING_SEED="$((40 + 2))"\n')
    assert any("$variables" in told for told in wizard({}).told)


def test_going_back_from_the_first_question_stays_there(here: Path) -> None:
    assert wizard({"output_dir": [None, "elsewhere"]}).names[:2] == ["output_dir", "output_dir"]
    assert run_of().run.output_dir == "elsewhere"


def test_a_way_not_taken_leaves_nothing_behind(here: Path) -> None:
    """Epochs first, then steps after all."""
    wizard({"length": ["epochs", "steps"], "num_train_epochs": [None, "7"], "max_train_steps": "30"})
    config = run_of()
    assert (config.run.max_train_steps, config.run.num_train_epochs) == (30, 0)
    wizard({"length": "epochs", "num_train_epochs": ["0", "7"]})
    assert (run_of().run.max_train_steps, run_of().run.num_train_epochs) == (0, 7)


def test_the_old_file_gives_the_defaults(here: Path) -> None:
    (here / "config").mkdir()
    old = """\
BASE=/somewhere
export HF_HOME=$BASE/hub
export MODEL_NAME=stabilityai/stable-diffusion-3-medium-diffusers
export OUTPUT_DIR=results
export LORA_RANK=32
export LORA_ALPHA=7
export NUM_EPOCHS=3
export TRAINING_NUM_PROCESSES=2
export VALIDATION_PROMPT="it's \\"quoted\\" for \\$5 # not a remark"
export TRAINER_EXTRA_ARGS="--base_model_precision=int8-quanto"
"""
    (here / "config" / "config.env").write_text(old)
    person = wizard({})
    assert person.question("lora_rank").default == "32"
    assert person.question("length").default == "epochs"
    config, env = run_of(), written_env()
    assert (config.lora.lora_rank, config.lora.lora_alpha, config.run.num_train_epochs) == (32, 7.0, 3)
    assert config.precision.base_model_precision == "int8-quanto"
    assert config.validation.validation_prompt == 'it\'s "quoted" for $5 # not a remark'
    assert (env["TRAINING_NUM_PROCESSES"], env["HF_HOME"]) == ("2", "/somewhere/hub")
    (backup,) = (here / "config").glob("config.env.backup-*")
    assert backup.read_text() == old
    shown = person.question("write").shows
    assert "LORA_ALPHA=7\n" in shown
    assert "/somewhere" not in shown, "what is no setting of ours may be a secret"


def test_an_old_file_that_cannot_be_read_is_told_of(here: Path) -> None:
    (here / "config").mkdir()
    (here / "config" / "config.env").write_text('export LORA_RANK="32\n')
    person = wizard({})
    assert "config.env" in "".join(person.told[:3]) and person.question("lora_rank").default == "16"


def test_what_is_wrong_in_the_old_file_is_told_of_and_the_rest_is_kept(here: Path) -> None:
    (here / "config").mkdir()
    (here / "config" / "config.env").write_text(
        "export LORA_RANK=0\nexport TRAIN_BATCH_SIZE=2\nexport LEARNING_RATE=much\n"
        "export TRAINER_EXTRA_ARGS=--learning_rate=2e-4\n"
    )
    person = wizard({})
    assert any("LORA_RANK" in told for told in person.told)
    config = run_of()
    assert (config.lora.lora_rank, config.run.train_batch_size, config.optimizer.learning_rate) == (16, 2, 2e-4)


def test_answering_the_same_again_changes_no_file(here: Path) -> None:
    wizard({})
    file = here / "config" / "config.env"
    first = file.read_bytes()
    wizard({})
    assert file.read_bytes() == first
    assert not list(file.parent.glob("*.backup-*"))


def test_saying_no_at_the_end_writes_nothing(here: Path) -> None:
    person = wizard({"write": "no"})
    assert sorted(path.name for path in here.iterdir()) == ["barns"]
    assert person.told[-1].strip() == "Nothing was written."


def test_a_run_of_another_name_has_a_folder_of_its_own(here: Path) -> None:
    wizard({}, env="cats")
    assert run_of("cats").run.output_dir == "output/cats"


@pytest.mark.parametrize(("card", "precision"), [(24, "no_change"), (8, "int8-quanto"), (5, "int4-quanto")])
def test_the_precision_that_fits_the_card_is_proposed(card: int, precision: str, here: Path) -> None:
    person = wizard({}, cards=(card,))
    question = person.question("base_model_precision")
    assert question.default == precision
    notes = {choice.value: choice.note for choice in question.choices}
    assert notes[precision].endswith(": fits") and "training" in notes[precision]
    assert card == 24 or notes["no_change"].endswith(": too much")


def test_without_a_card_the_memory_is_said_all_the_same(here: Path) -> None:
    notes = [choice.note for choice in wizard({}).question("base_model_precision").choices]
    assert all("training" in note and "GB" in note and "fits" not in note for note in notes)


def test_a_mac_is_not_offered_fp8(here: Path) -> None:
    offered_here = [choice.value for choice in wizard({}, is_mac=True).question("base_model_precision").choices]
    assert "fp8-quanto" not in offered_here and "int8-quanto" in offered_here


@pytest.mark.parametrize(
    ("said", "rate"),
    [
        ({"lora_rank": "1"}, "2e-4"),
        ({"lora_rank": "16"}, "1e-4"),
        ({"lora_rank": "128"}, "6e-5"),
        ({"lora_rank": "128", "optimizer": "prodigy"}, "1.0"),
        ({"model_type": "full"}, "1e-5"),
    ],
)
def test_the_rate_falls_as_the_rank_rises(said: dict[str, str], rate: str) -> None:
    assert proposed_rate(Draft(machine=machine(), answers=said)) == rate


def test_the_hub_is_logged_in_to_only_when_asked_for(here: Path) -> None:
    calls: list[str] = []
    asked = machine(log_in=lambda: calls.append("hf auth login"))
    for answer in ("later", "now"):
        person = Person({"image_folder": "barns", "hub_login": answer})
        configure(Path("config/config.env"), machine=asked, front=person, command="go")
    assert calls == ["hf auth login"]
    assert "hf auth login" in person.told[-1]


def test_what_no_line_can_hold_is_refused(here: Path) -> None:
    person = wizard({"validation_prompt": ["two\nlines", "\udce4", "it's “odd”: $(id) `id` \\ # ü"]})
    assert "character" in person.refused["validation_prompt"]
    assert run_of().validation.validation_prompt == "it's “odd”: $(id) `id` \\ # ü"


def test_without_its_libraries_it_says_how_to_get_them() -> None:
    finished = subprocess.run(
        [sys.executable, "-S", "-E", REPOSITORY / "configure.py"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert "bash install/setup.sh" in finished.stderr and "Traceback" not in finished.stderr


def test_nothing_is_said_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read_before(tmp_path / "config.env").remarks == ()
