"""Stands for fine_tune.py: trains a whole SD1.5 or SD2 in appearance."""

import argparse

from library import config_util, custom_train_functions, pretence, train_util


def setup_parser():
    parser = argparse.ArgumentParser()
    train_util.add_sd_models_arguments(parser)
    train_util.add_dataset_arguments(parser, False, True, True)
    train_util.add_training_arguments(parser, False)
    train_util.add_sd_saving_arguments(parser)
    train_util.add_optimizer_arguments(parser)
    config_util.add_config_arguments(parser)
    custom_train_functions.add_custom_train_arguments(parser)
    parser.add_argument("--diffusers_xformers", action="store_true")
    parser.add_argument("--train_text_encoder", action="store_true")
    parser.add_argument("--learning_rate_te", type=float)
    parser.add_argument("--no_half_vae", action="store_true")
    return parser


if __name__ == "__main__":
    parser = setup_parser()
    args = train_util.read_config_from_file(parser.parse_args(), parser)
    pretence.fine_tune(args)
