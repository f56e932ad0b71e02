"""Stands for library/custom_train_functions.py."""


def add_custom_train_arguments(parser, support_weighted_captions=True):
    parser.add_argument("--min_snr_gamma", type=float)
    parser.add_argument("--scale_v_pred_loss_like_noise_pred", action="store_true")
    parser.add_argument("--v_pred_like_loss", type=float)
    parser.add_argument("--debiased_estimation_loss", action="store_true")
    if support_weighted_captions:
        parser.add_argument("--weighted_captions", action="store_true")
