"""Stands for sdxl_train_network.py."""

import train_network
from library import pretence, sdxl_train_util, train_util


def setup_parser():
    parser = train_network.setup_parser()
    sdxl_train_util.add_sdxl_training_arguments(parser)
    return parser


if __name__ == "__main__":
    parser = setup_parser()
    args = train_util.read_config_from_file(parser.parse_args(), parser)
    pretence.train_network(args, "sdxl_train_network")
