"""What library/strategy_*.py keep beside the pictures: found by its name, and taken for what it says."""

import hashlib
import os

from library.files import members_of, write_arrays
from library.train_util import log

SUFFIXES = {"train_network": "_sd.npz", "fine_tune": "_sdxl.npz", "sdxl_train_network": "_sdxl.npz"}
"""fine_tune.py calls its latents as SDXL does."""
FLUX = "_flux.npz"
TEXTS = {
    "sdxl_train_network": ("_te_outputs.npz", ("hidden_state1", "hidden_state2", "pool2")),
    "flux_train_network": ("_flux_te.npz", ("l_pooled", "t5_out", "txt_ids", "t5_attn_mask", "apply_t5_attn_mask")),
}


def cache_latents(args, script, datasets):
    """The number of pictures that had to be encoded."""
    log("caching latents with caching strategy.")
    encoded = 0
    for dataset in datasets:
        flips = any(subset["flip_aug"] for subset in dataset.subsets)
        for picture in dataset.pictures:
            encoded += not args.cache_latents_to_disk or _write_latents(script, dataset, picture, flips)
    return encoded


def _write_latents(script, dataset, picture, flips):
    bucket = dataset.bucket(picture) if dataset.options["enable_bucket"] else (dataset.options["resolution"],) * 2
    name = "latents" if script != "flux_train_network" else f"latents_{bucket[1] // 8}x{bucket[0] // 8}"
    wanted = [name, *([name.replace("latents", "latents_flipped")] if flips else [])]
    path = _latents_path(script, picture)
    if set(wanted) <= members_of(path):
        return False
    with open(picture.path, "rb") as file:
        digest = hashlib.sha256(file.read()).digest()
    write_arrays(path, {**dict.fromkeys(wanted, digest), "original_size": bytes(picture.size[0:1])})
    return True


def _latents_path(script, picture):
    """An old plain .npz comes first, of the scripts that wrote such."""
    stem = os.path.splitext(picture.path)[0]
    if script in SUFFIXES and os.path.exists(stem + ".npz"):
        return stem + ".npz"
    return f"{stem}_{picture.size[0]:04d}x{picture.size[1]:04d}{SUFFIXES.get(script, FLUX)}"


def cache_texts(args, script, datasets):
    log("caching Text Encoder outputs with caching strategy.")
    suffix, names = TEXTS[script]
    for picture in (picture for dataset in datasets for picture in dataset.pictures):
        path = os.path.splitext(picture.path)[0] + suffix
        if args.cache_text_encoder_outputs_to_disk and not set(names) <= members_of(path):
            digest = hashlib.sha256(picture.caption.encode()).digest()
            write_arrays(path, dict.fromkeys(names, digest))
