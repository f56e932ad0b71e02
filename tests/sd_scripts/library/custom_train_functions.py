"""Stands for library/custom_train_functions.py."""


def add_custom_train_arguments(parser, support_weighted_captions=True):
    parser.add_argument("--min_snr_gamma", type=float)
    parser.add_argument("--debiased_estimation_loss", action="store_true")
