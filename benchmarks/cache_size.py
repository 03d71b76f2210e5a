"""What caches cost: bytes of a caption at SD3's widths and of a latent, and seconds to open 100,000 entries.

`python -m benchmarks.cache_size`. Captions are outputs of CLIP and T5 layers of SD3's real widths (768, 1280 and 4096,
77 tokens each) with random weights, so that their numbers are spread as activations are.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.cache.keys import text_keys
from helpers.cache.store import open_tensors
from helpers.cache.writer import ShardWriter
from helpers.storage.local import LocalCache

TOKENS = 77
WIDTHS = {"clip_l": 768, "clip_g": 1280, "t5": 4096}
ENTRIES = 100_000


def caption_outputs(seed: int) -> dict[str, dict[str, Tensor]]:
    """The outputs of the three encoders for a caption of random tokens, through one real layer of each."""
    return {
        "clip_l": _clip(768, 12, seed=seed),
        "clip_g": _clip(1280, 20, seed=seed),
        "t5": _t5(seed=seed),
    }


def _clip(width: int, heads: int, *, seed: int) -> dict[str, Tensor]:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.no_grad():
        output = CLIPTextModelWithProjection(config).eval()(_ids(), output_hidden_states=True)
    return {"hidden": output.hidden_states[-2][0].bfloat16(), "pooled": output.text_embeds[0].bfloat16()}


def _t5(*, seed: int) -> dict[str, Tensor]:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=1000, d_model=4096, d_kv=64, d_ff=10240, num_layers=1, num_heads=64, feed_forward_proj="gated-gelu"
    )
    with torch.no_grad():
        return {"hidden": T5EncoderModel(config).eval()(_ids()).last_hidden_state[0].bfloat16()}


def _ids() -> Tensor:
    return torch.randint(3, 1000, (1, TOKENS))


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def write(folder: Path, entries: dict[str, dict[str, Tensor]], *, compress: bool = False) -> int:
    """The bytes of a store of these entries, index included."""
    store = LocalCache(folder)
    with ShardWriter(store, rank=0, write_batch_size=128, compress=compress) as writer:
        for key, tensors in entries.items():
            writer.add({key: tensors})
    open_tensors(store).compact()
    return folder_bytes(folder)


def captions(root: Path) -> None:
    outputs = [caption_outputs(seed) for seed in range(2)]
    count = 64
    entries = {}
    for part in WIDTHS:
        for number, key in enumerate(text_keys([str(number) for number in range(count)], part_identity=part).tolist()):
            entries[key.decode()] = outputs[number % len(outputs)][part]
    raw = sum(tensor.nbytes for one in entries.values() for tensor in one.values())
    for compress, aim in ((False, 0.96), (True, 0.67)):
        started = time.perf_counter()
        size = write(root / f"text-{compress}", entries, compress=compress)
        wrote = time.perf_counter() - started
        tensors = open_tensors(LocalCache(root / f"text-{compress}"))
        started = time.perf_counter()
        for key, wanted in entries.items():
            found = tensors.read(key)
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        read = time.perf_counter() - started
        print(
            f"caption{', compressed' if compress else '':12}: {size / count / 1e6:.3f} MB (aim: at most {aim}), "
            f"{size / raw:.3f} of the bare 16-bit tensors; {count / wrote:.0f} written/s, {count / read:.0f} read/s"
        )


def latents(root: Path) -> None:
    for edge in (256, 512, 1024):
        count = 128 if edge == 1024 else 512
        keys = text_keys([str(number) for number in range(count)], part_identity="latents").tolist()
        entries = {key.decode(): {"latents": torch.randn(16, edge // 8, edge // 8).half()} for key in keys}
        raw = sum(one["latents"].nbytes for one in entries.values())
        size = write(root / f"latents-{edge}", entries)
        print(
            f"latents of {edge} px: {size / count:.0f} bytes, {size / raw - 1:.2%} over the bare ones (aim: at most 2%)"
        )


def opening(root: Path) -> None:
    """A store of 100,000 small entries in shards of 128."""
    keys = text_keys([str(number) for number in range(ENTRIES)], part_identity="many")
    latent = {"latents": torch.zeros(16, 2, 2).half()}
    store = LocalCache(root / "many")
    with ShardWriter(store, rank=0, write_batch_size=128) as writer:
        for key in keys.tolist():
            writer.add({key.decode(): latent})
    for state in ("without its index", "with its index"):
        started = time.perf_counter()
        tensors = open_tensors(store)
        opened = time.perf_counter()
        assert not tensors.missing(keys).any()
        asked = time.perf_counter()
        tensors.compact()
        print(f"{ENTRIES} entries {state}: opened in {opened - started:.3f} s, all looked up in {asked - opened:.3f} s")
    chosen = [key.decode() for key in np.random.default_rng(0).choice(keys, 2000).tolist()]
    started = time.perf_counter()
    for key in chosen:
        tensors.read(key)
    print(f"one read of a latent: {(time.perf_counter() - started) / len(chosen) * 1e6:.0f} microseconds")
    started = time.perf_counter()
    text_keys([str(number) for number in range(ENTRIES)], part_identity="many")
    print(f"{ENTRIES} text keys: {time.perf_counter() - started:.3f} s")


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        captions(Path(work))
        latents(Path(work))
        opening(Path(work))


if __name__ == "__main__":
    main()
