"""Stands for library/flux_train_utils.py."""


def add_flux_train_arguments(parser):
    parser.add_argument("--clip_l", type=str)
    parser.add_argument("--t5xxl", type=str)
    parser.add_argument("--ae", type=str)
    parser.add_argument("--controlnet_model_name_or_path", type=str)
    parser.add_argument("--t5xxl_max_token_length", type=int)
    parser.add_argument("--apply_t5_attn_mask", action="store_true")
    parser.add_argument("--guidance_scale", type=float, default=3.5)
    parser.add_argument(
        "--timestep_sampling", type=str, choices=["sigma", "uniform", "sigmoid", "shift", "flux_shift"], default="sigma"
    )
    parser.add_argument("--sigmoid_scale", type=float, default=1.0)
    parser.add_argument(
        "--model_prediction_type", type=str, choices=["raw", "additive", "sigma_scaled"], default="sigma_scaled"
    )
    parser.add_argument("--discrete_flow_shift", type=float, default=3.0)
    parser.add_argument("--model_type", type=str, choices=["flux", "chroma"], default="flux")
