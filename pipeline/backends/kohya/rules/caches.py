"""What can't change from step to step, once it was encoded for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.backends.kohya.asked import Asked
from pipeline.backends.kohya.rules.reading import first_on, is_on, is_true, network_key, trains_text_encoders
from pipeline.backends.kohya.rules.wording import line_of, problem_of, spelt, switched_off
from pipeline.backends.kohya.scripts import ADAPTERS, DROPS_CACHED_CAPTIONS, FLUX, SD3
from pipeline.errors import Problem

TEXT_CACHES = ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "use_t5xxl_cache_only")
LATENT_CACHES = ("cache_latents", "cache_latents_to_disk")
"""To the disk switches on the other, in every script."""
REFUSED_WORDINGS = ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step")
"""is_text_encoder_output_cacheable of train_util.py; every script asserts it but lumina_train_network.py, which trains
without them."""
LOST_WORDINGS = ("secondary_separator", "enable_wildcard", "caption_dropout_every_n_epochs")
"""process_caption of train_util.py, which is never called for what is cached: strategies encode the file's words."""


def captions_behind_a_cache(asked: Asked) -> Iterator[Problem]:
    """What changes the words of a caption, when they were encoded once for all steps."""
    cache = first_on(asked, TEXT_CACHES)
    if cache is None:
        return
    for name in (*REFUSED_WORDINGS, *LOST_WORDINGS):
        if not is_on(asked, name) or (name == "caption_dropout_rate" and asked.parser.script in DROPS_CACHED_CAPTIONS):
            continue
        refused = name in REFUSED_WORDINGS and asked.parser.script != "lumina_train_network.py"
        end = "sd-scripts refuses the two together" if refused else "it would have no effect"
        reason = f"{line_of(asked, cache)} encodes each caption once, as it stands in its file: {end}"
        yield problem_of(asked, name, reason, f"{switched_off(asked, name)}, or {switched_off(asked, cache)}")


TRAINED_BESIDE_A_CACHE: Mapping[str, str] = {
    "sdxl_train_network.py": "sd-scripts refuses to train text encoders whose outputs are cached",
    "anima_train_network.py": "sd-scripts refuses to train a text encoder whose outputs are cached",
    "hunyuan_image_train_network.py": "the text encoders are put away, and the first step dies looking for them",
    "lumina_train_network.py": "a trained text encoder reads every caption anew: the cache is filled and never used",
    "sdxl_train.py": "sd-scripts refuses to train text encoders whose outputs are cached",
    "sd3_train.py": "sd-scripts refuses to train CLIP beside it (T5 alone may be cached: use_t5xxl_cache_only)",
}
"""FLUX and SD3 train CLIP beside the cache of T5, and the other finetunes train no text encoder."""


def text_encoders_behind_a_cache(asked: Asked) -> Iterator[Problem]:
    """A text encoder that changes, and outputs of it that don't."""
    cache = first_on(asked, TEXT_CACHES)
    reason = TRAINED_BESIDE_A_CACHE.get(asked.parser.script)
    if cache is None or reason is None or not trains_text_encoders(asked) or is_on(asked, "use_t5xxl_cache_only"):
        return
    yield problem_of(asked, cache, reason, f"mode.text_encoder_lr=0, or {switched_off(asked, cache)}")


def t5_behind_a_cache(asked: Asked) -> Iterator[Problem]:
    """post_process_network of flux_train_network.py and sd3_train_network.py raises."""
    cache = first_on(asked, TEXT_CACHES)
    trained = is_true(asked.network_args.get("train_t5xxl"))
    if cache is not None and trained and asked.parser.script in (FLUX | SD3) & ADAPTERS:
        reason = f"sd-scripts refuses to train T5 beside {line_of(asked, cache)}"
        key = network_key(asked, "train_t5xxl")
        yield Problem(
            key, spelt(asked.network_args["train_t5xxl"]), reason, f"{key}=false, or {switched_off(asked, cache)}"
        )


def pictures_behind_a_cache(asked: Asked) -> Iterator[Problem]:
    """What changes a picture, when it was encoded once for all steps. Flips are cached beside it."""
    cache = first_on(asked, LATENT_CACHES)
    for name in ("color_aug", "random_crop"):  # is_latent_cacheable of train_util.py, asserted by every script
        if cache is not None and is_on(asked, name):
            reason = f"{line_of(asked, cache)} encodes each picture once: sd-scripts refuses the two together"
            yield problem_of(asked, name, reason, f"{switched_off(asked, name)}, or {switched_off(asked, cache)}")
    against = cache or first_on(asked, ("enable_bucket",))
    if against is not None and is_on(asked, "face_crop_aug_range"):
        # crop_target is called for uncached, unbucketed ones
        reason = f"beside {line_of(asked, against)} sd-scripts crops no faces, and says nothing"
        fix = f"{switched_off(asked, 'face_crop_aug_range')}, or {switched_off(asked, against)}"
        yield problem_of(asked, "face_crop_aug_range", reason, fix)
