"""documentation/OPTIONS.md is what the declarations say, and says all of it."""

from helpers.config.deprecated_options import OLD_NAMES
from helpers.config.docs import COMMAND, PAGE, reference_page
from helpers.config.optimizers import LEARNING_RATE_FREE
from helpers.config.option import options_in
from helpers.config.options.launch import LaunchOptions
from helpers.config.train_config import all_options


def test_the_page_is_current() -> None:
    is_current = PAGE.read_text(encoding="utf-8") == reference_page()
    assert is_current, f"{PAGE.name} is not what the declarations say: run `{COMMAND}`"


def test_every_name_is_on_it() -> None:
    page = reference_page()
    options = [*all_options(), *options_in("launch", LaunchOptions)]
    assert not [option.env for option in options if f"| `{option.env}`" not in page]
    assert not [old.name for old in OLD_NAMES if f"`--{old.name}`" not in page]


def test_a_row_tells_names_values_bounds_default_and_what_is_refused() -> None:
    rows = {line.partition("<br>")[0]: line for line in reference_page().splitlines()}
    assert "<br>`--lora_dropout` | number from 0 to 0.99 | 0.0 |" in rows["| `LORA_DROPOUT`"]
    assert "| `no`, `bf16` | none |" in rows["| `MIXED_PRECISION`"]
    assert "Refused: `fp16` (SD3's values grow too large" in rows["| `MIXED_PRECISION`"]
    assert "| required |" in rows["| `MODEL_NAME`"]
    finding = f"1.0 with optimizer={', '.join(LEARNING_RATE_FREE)}"
    assert f"| 0.0001; {finding}; 1e-05 with model_type=full |" in rows["| `LEARNING_RATE`"]
