"""Stands for library/sdxl_train_util.py."""


def add_sdxl_training_arguments(parser, support_text_encoder_caching=True):
    parser.add_argument("--cache_text_encoder_outputs", action="store_true")
    parser.add_argument("--cache_text_encoder_outputs_to_disk", action="store_true")
    parser.add_argument("--disable_mmap_load_safetensors", action="store_true")
