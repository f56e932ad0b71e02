"""Scripts of sd-scripts, by what they train."""

from __future__ import annotations

SD = frozenset({"train_network.py", "fine_tune.py", "train_db.py"})
SDXL = frozenset({"sdxl_train_network.py", "sdxl_train.py"})
SD3 = frozenset({"sd3_train_network.py", "sd3_train.py"})
FLUX = frozenset({"flux_train_network.py", "flux_train.py"})
LUMINA = frozenset({"lumina_train_network.py", "lumina_train.py"})
HUNYUAN = frozenset({"hunyuan_image_train_network.py"})
ANIMA = frozenset({"anima_train_network.py", "anima_train.py"})
NOISE = SD | SDXL
"""They train models that predict noise or v."""
FLOW = SD3 | FLUX | LUMINA | HUNYUAN | ANIMA
ADAPTERS = frozenset(script for script in NOISE | FLOW if script.endswith("train_network.py"))
CHECKPOINTS = (NOISE | FLOW) - ADAPTERS
FINE_TUNE = frozenset({"fine_tune.py"})
"""It takes no folders of pictures, and masks no loss (ConfigSanitizer(False, True, False, True))."""
WEIGHS_REG = ADAPTERS | {"train_db.py"}
"""They have --prior_loss_weight; the others take regularisation pictures, and weigh them like all."""
SD_CHECKPOINTS = SD & CHECKPOINTS
SWAPPING = FLOW - {"lumina_train.py"}
"""They swap blocks; lumina_train.py has the argument, and never looks at it."""
EVERY = NOISE | FLOW
DROPS_CACHED_CAPTIONS = ANIMA
"""is_text_encoder_output_cacheable of library/train_util.py and its callers: the others refuse caption dropout."""
