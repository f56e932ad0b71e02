"""Stands for train_network.py: trains a LoRA of SD1.5 or SD2 in appearance."""

import argparse

from library import config_util, custom_train_functions, pretence, train_util


def setup_parser():
    parser = argparse.ArgumentParser()
    train_util.add_sd_models_arguments(parser)
    train_util.add_dataset_arguments(parser, True, True, True)
    train_util.add_training_arguments(parser, True)
    train_util.add_masked_loss_arguments(parser)
    train_util.add_optimizer_arguments(parser)
    config_util.add_config_arguments(parser)
    custom_train_functions.add_custom_train_arguments(parser)
    parser.add_argument("--no_metadata", action="store_true")
    parser.add_argument("--save_model_as", type=str, choices=[None, "ckpt", "pt", "safetensors"], default="safetensors")
    parser.add_argument("--unet_lr", type=float)
    parser.add_argument("--text_encoder_lr", type=float, nargs="*")
    parser.add_argument("--network_weights", type=str)
    parser.add_argument("--network_module", type=str)
    parser.add_argument("--network_dim", type=int)
    parser.add_argument("--network_alpha", type=float, default=1)
    parser.add_argument("--network_dropout", type=float)
    parser.add_argument("--network_args", type=str, nargs="*")
    parser.add_argument("--network_train_unet_only", action="store_true")
    parser.add_argument("--network_train_text_encoder_only", action="store_true")
    parser.add_argument("--training_comment", type=str)
    parser.add_argument("--base_weights", type=str, nargs="*")
    parser.add_argument("--base_weights_multiplier", type=float, nargs="*")
    parser.add_argument("--cpu_offload_checkpointing", action="store_true")
    parser.add_argument("--fp8_base_unet", action="store_true")
    parser.add_argument("--dim_from_weights", action="store_true")
    parser.add_argument("--scale_weight_norms", type=float)
    parser.add_argument("--no_half_vae", action="store_true")
    parser.add_argument("--initial_step", type=int)
    parser.add_argument("--skip_until_initial_step", action="store_true")
    parser.add_argument("--initial_epoch", type=int)
    parser.add_argument("--validation_seed", type=int)
    parser.add_argument("--validation_split", type=float, default=0.0)
    parser.add_argument("--validate_every_n_steps", type=int)
    parser.add_argument("--validate_every_n_epochs", type=int)
    parser.add_argument("--max_validation_steps", type=int)
    return parser


if __name__ == "__main__":
    parser = setup_parser()
    args = train_util.read_config_from_file(parser.parse_args(), parser)
    pretence.train_network(args)
