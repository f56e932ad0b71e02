"""Stands for library/config_util.py."""


def add_config_arguments(parser):
    parser.add_argument("--dataset_config", type=str)
