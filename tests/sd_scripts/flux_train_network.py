"""Stands for flux_train_network.py."""

import train_network
from library import flux_train_utils, pretence, train_util


def setup_parser():
    parser = train_network.setup_parser()
    train_util.add_dit_training_arguments(parser)
    flux_train_utils.add_flux_train_arguments(parser)
    parser.add_argument("--split_mode", action="store_true")
    return parser


if __name__ == "__main__":
    parser = setup_parser()
    args = train_util.read_config_from_file(parser.parse_args(), parser)
    pretence.train_network(args, "flux_train_network")
