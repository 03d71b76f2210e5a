"""The model card is correct, and contains nothing that must not be published."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard as HubCard
from markdown_it import MarkdownIt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from helpers.config.train_config import all_options
from helpers.models.sd3.facts import SD3_FACTS
from helpers.reporting.events import CheckpointSaved, RunFinished, RunStarted
from helpers.reporting.publish.card_text import PNG_ENTRY, SETTINGS_SHOWN
from helpers.reporting.publish.license import License, license_of
from helpers.reporting.publish.model_card import ModelCard

BASE = "stabilityai/stable-diffusion-3.5-medium"
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "lora": {"lora_rank": 16, "lora_alpha": 8.0},
    "full": {"train_modules": ""},
    "optimizer": {"learning_rate": 1e-4},
    "text": {"tokenizer_max_length": 154},
    "validation": {
        "validation_resolution": "768x512",
        "validation_num_inference_steps": 20,
        "validation_guidance": 4.5,
        "validation_seed": "7",
        "validation_negative_prompt": "it's blurry",
    },
    "data": {"data_backend_config": "/home/me/secret place/sets.json"},
}


def started(output: Path, **more: object) -> RunStarted:
    run = RunStarted(
        base_model=BASE,
        model_type="lora",
        trainable_parameters=1_500_000,
        settings=SETTINGS,
        datasets={"my|cats": 1200, "dogs": 7},
        output_dir=output,
        first_step=0,
        total_steps=40,
        base_variant="SD3.5 medium",
        pipeline_class=SD3_FACTS.pipeline_class,
        hub_tag=SD3_FACTS.hub_tag,
        known_licenses=SD3_FACTS.licenses,
        trained="a LoRA of rank 16 on 96 layers",
        result="pytorch_lora_weights.safetensors",
    )
    return replace(run, **more)  # type: ignore[arg-type]


def card(output: Path, *, repository: str = "", note: str = "", complete: bool = True, **more: object) -> HubCard:
    listener = ModelCard(note=note, repository=repository, clean=lambda text: text.replace("PassWord", "(hidden)"))
    listener.handle(started(output, **more))
    listener.handle(RunFinished(step=40 if complete else 20, seconds=1.0, written=(), interrupted=not complete))
    return HubCard.load(output / "README.md")


def save_image(output: Path, *, step: int, prompt: str) -> None:
    folder = output / "validation_images" / f"step_{step}"
    folder.mkdir(parents=True)
    header = PngInfo()
    header.add_text(PNG_ENTRY, json.dumps({"prompt": prompt}))
    Image.new("RGB", (8, 8)).save(folder / "a cat_64x64_seed1.png", pnginfo=header)


def test_the_metadata_are_those_that_the_hub_reads(tmp_path: Path) -> None:
    stated = card(tmp_path).data.to_dict()
    assert stated == {
        "license": "other",
        "license_name": "stabilityai-ai-community",
        "license_link": f"https://huggingface.co/{BASE}/blob/main/LICENSE.md",
        "base_model": BASE,
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "stable-diffusion-3", "simpletuner", "lora"],
    }
    full = card(tmp_path, model_type="full", result="pipeline").data.to_dict()
    assert (full["base_model_relation"], full["tags"][-1]) == ("finetune", "full")


def test_what_was_trained_on_what_and_how(tmp_path: Path) -> None:
    save_image(tmp_path, step=20, prompt="an old cat")
    save_image(tmp_path, step=40, prompt="a cat | on\na mat")
    save_image(tmp_path, step=60, prompt="of another run")
    text = card(tmp_path, note="Made for my daughter.").text
    assert "Made for my daughter." in text
    assert "a LoRA of rank 16 on 96 layers: 1,500,000 trainable parameters" in text
    assert "Trained for 40 steps." in text
    assert "| my\\|cats | 1,200 |\n| dogs | 7 |" in text
    assert "| lora_rank | 16 |" in text
    assert "| ![](validation_images/step_40/a%20cat_64x64_seed1.png) | a cat \\| on a mat |" in text
    assert "an old cat" not in text
    assert "of another run" not in text


def test_no_path_of_this_machine_and_no_secret_is_in_it(tmp_path: Path) -> None:
    base = tmp_path / "models of me" / "my-sd3"
    base.mkdir(parents=True)
    card(tmp_path, base_model=str(base), base_folder=base, note="The PassWord")
    text = (tmp_path / "README.md").read_text()
    assert "<code>my-sd3</code>" in text
    assert "The (hidden)" in text
    assert str(tmp_path) not in text
    assert "models of me" not in text
    assert "secret place" not in text
    assert "base_model:" not in text


def test_no_html_or_markdown_of_a_prompt_an_id_or_a_name_has_an_effect(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> <b>**a**</b> `b` [c](d) | e & f\n\n<img src=x>"
    output = tmp_path / "<b>mine"
    save_image(output, step=40, prompt=evil)
    shown = card(output, base_model=evil, datasets={evil: 7}, trained=evil, settings={"lora": {"lora_target": evil}})
    assert shown.data.to_dict()["base_model"] == evil
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(shown.text)
    for mark in ("<script", "<b>", '<img src="x', "<img src=x", "<strong>", 'href="d"'):
        assert mark not in html
    shown_as = "&lt;script&gt;alert(1)&lt;/script&gt; &lt;b&gt;**a**&lt;/b&gt; `b` [c](d) | e &amp; f &lt;img src=x&gt;"
    assert html.count(shown_as) == 6, "of the base (twice), what was trained, the prompt, the dataset and the setting"
    assert "<h1>&lt;b&gt;mine</h1>" in html
    assert "cp pytorch_lora_weights.safetensors 'ComfyUI/models/loras/&lt;b&gt;mine.safetensors'" in html


def test_settings_that_are_shown_are_settings() -> None:
    declared = {(option.group, option.name) for option in all_options()}
    assert {(group, name) for group, names in SETTINGS_SHOWN.items() for name in names} <= declared


def test_a_run_that_is_not_over_promises_nothing(tmp_path: Path) -> None:
    text = card(tmp_path, complete=False).text
    assert "at step 20 of 40: the final weights are not here yet" in text
    assert "```python" not in text
    listener = ModelCard(note="", repository="", clean=str)
    listener.handle(started(tmp_path))
    listener.handle(CheckpointSaved(step=30, path=tmp_path / "checkpoint-30"))
    assert "at step 30 of 40" in (tmp_path / "README.md").read_text()


def test_a_readme_of_the_user_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    listener = ModelCard(note="", repository="", clean=str)
    listener.handle(started(tmp_path))
    listener.handle(RunFinished(step=40, seconds=1.0, written=()))
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert "no model card is written" in caplog.text


def test_a_card_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    mark = "<!-- Written by SimpleTuner at each checkpoint and at the end of a run; what you change here is lost. -->"
    (tmp_path / "README.md").write_text(f"---\nlicense: other\n---\n\n{mark}\n\n# old\n")
    assert "# old" not in card(tmp_path).text


def test_how_it_is_used_names_where_it_is(tmp_path: Path) -> None:
    lora = card(tmp_path, repository="me/cats").text
    assert f"from_pretrained('{BASE}', torch_dtype=torch.bfloat16)" in lora
    assert "load_lora_weights('me/cats', weight_name='pytorch_lora_weights.safetensors')" in lora
    assert "cp pytorch_lora_weights.safetensors ComfyUI/models/loras/cats.safetensors" in lora
    assert "needs diffusers 0.32 or newer." in lora
    assert "max_sequence_length=154" in lora
    settings = {**SETTINGS, "export": {"export_comfyui": True}, "lora": {"lora_type": "lycoris"}}
    lycoris = card(tmp_path, repository="me/cats", settings=settings).text
    assert "cp comfyui_lora.safetensors ComfyUI/models/loras/cats.safetensors" in lycoris
    assert "needs diffusers 0.32 or newer and lycoris-lora." in lycoris
    full = card(tmp_path, repository="me/cats", model_type="full", result="pipeline").text
    assert "from_pretrained('me/cats', torch_dtype=torch.bfloat16)" in full
    assert "load_lora" not in full
    assert "cp transformer/diffusion_pytorch_model.safetensors ComfyUI/models/diffusion_models/cats.safetensors" in full
    assert "from_pretrained('pipeline'," in card(tmp_path, model_type="full", result="pipeline").text


FRONT = "---\nlanguage: en\n{}\n---\n# A model\nlicense: wrong\n"


@pytest.mark.parametrize(
    ("stated", "license"),
    [
        ("license: apache-2.0", License(identifier="apache-2.0")),
        (
            'license: "other"\nlicense_name: my-own\nlicense_link: LICENSE.md',
            License(identifier="other", name="my-own", link="https://huggingface.co/me/sd3/blob/main/LICENSE.md"),
        ),
        (
            "license: other\nlicense_name: own\nlicense_link: >-\n  https://example.org/license",
            License(identifier="other", name="own", link="https://example.org/license"),
        ),
        ("tags: [a]", License(identifier="unknown")),
    ],
)
def test_the_license_is_the_base_models(tmp_path: Path, stated: str, license: License) -> None:
    (tmp_path / "README.md").write_text(FRONT.format(stated))
    assert license_of("me/sd3", folder=tmp_path, known=SD3_FACTS.licenses) == license


def test_a_license_is_never_guessed(tmp_path: Path) -> None:
    assert license_of("me/sd3", folder=tmp_path, known=SD3_FACTS.licenses).identifier == "unknown"
    here = tmp_path / "stabilityai" / "stable-diffusion-3.5-medium"
    here.mkdir(parents=True)
    assert license_of(str(here), folder=here, known=SD3_FACTS.licenses).identifier == "unknown"
    text = card(tmp_path, base_model=str(here), base_folder=here)
    assert text.data.to_dict()["license"] == "unknown"
    assert "look it up before you share this model" in text.text
