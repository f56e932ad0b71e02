"""Stands for library/config_util.py and the datasets: what the dataset's file may say, which pictures it means, and how
many batches they make."""

import functools
import json
import math
import os
import tomllib

from library.files import picture_size
from library.train_util import log

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OF_SUBSETS = {
    "color_aug": bool, "flip_aug": bool, "num_repeats": int, "random_crop": bool, "shuffle_caption": bool,
    "keep_tokens": int, "keep_tokens_separator": str, "secondary_separator": str, "caption_separator": str,
    "enable_wildcard": bool, "token_warmup_min": int, "token_warmup_step": (int, float), "caption_prefix": str,
    "caption_suffix": str, "resize_interpolation": str, "caption_dropout_every_n_epochs": int,
    "caption_dropout_rate": (int, float), "caption_tag_dropout_rate": (int, float), "face_crop_aug_range": list,
}  # fmt: skip
OF_DATASETS = {
    "batch_size": int, "bucket_no_upscale": bool, "bucket_reso_steps": int, "enable_bucket": bool,
    "max_bucket_reso": int, "min_bucket_reso": int, "validation_seed": int, "validation_split": float,
    "resolution": (int, list), "network_multiplier": float,
}  # fmt: skip
OF_FOLDERS = {"caption_extension": str, "class_tokens": str, "cache_info": bool}
OF_ONE_FOLDER = {"image_dir": str, "is_reg": bool, "alpha_mask": bool}
OF_METADATA = {"metadata_file": str, "image_dir": str, "alpha_mask": bool}
ARGUMENT = {"batch_size": "train_batch_size"}
"""An option that the file does not say is what the argument of its name says, or of this one."""


class MultipleInvalid(ValueError):
    pass


MultipleInvalid.__module__ = "voluptuous.error"


def add_config_arguments(parser):
    parser.add_argument("--dataset_config", type=str)


class Picture:
    def __init__(self, path, caption, size):
        self.path, self.caption, self.size = path, caption, size


class Dataset:
    """One entry of `datasets`, with the pictures of one purpose."""

    def __init__(self, options, subsets, pictures):
        self.options, self.subsets, self.pictures = options, subsets, pictures
        self.batch_size = options["batch_size"]

    def batches(self):
        """Every bucket's last batch may be a smaller one."""
        if not self.options["enable_bucket"]:
            return math.ceil(len(self.pictures) / self.batch_size)
        counts = {}
        for picture in self.pictures:
            counts[self.bucket(picture)] = counts.get(self.bucket(picture), 0) + 1
        return sum(math.ceil(count / self.batch_size) for count in counts.values())

    def bucket(self, picture):
        options = self.options
        sides = _sides(
            options["resolution"], options["min_bucket_reso"], options["max_bucket_reso"], options["bucket_reso_steps"]
        )
        width, height = picture.size
        if (width, height) in sides:
            return width, height
        return min(sides, key=lambda side: abs(side[0] / side[1] - width / height))


@functools.cache
def _sides(resolution, shortest, longest, step):
    assert resolution >= shortest, "min_bucket_reso must be equal or less than resolution"
    assert resolution <= longest, "max_bucket_reso must be equal or greater than resolution"
    square, area = resolution // step * step, resolution * resolution
    found = {(square, square)}
    for width in range(shortest, longest + 1, step):
        height = min(longest, area // width // step * step)
        if height >= shortest:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def read_datasets(args, *, folders):
    """Those to train on, and those to validate with. `folders`: the script takes datasets of folders too."""
    with open(args.dataset_config, "rb") as file:
        config = tomllib.load(file)
    _check(config, folders)
    general = config.get("general", {})
    train, validation = [], []
    for entry in config["datasets"]:
        options = _options(OF_DATASETS, args, general, entry)
        for key in ("min_bucket_reso", "max_bucket_reso"):  # in whole steps
            up = key == "max_bucket_reso" and options[key] % options["bucket_reso_steps"]
            options[key] += options["bucket_reso_steps"] * bool(up) - options[key] % options["bucket_reso_steps"]
        options["resolution"] = int(options["resolution"] or 512)
        options["is_dreambooth"] = not any("metadata_file" in subset for subset in entry["subsets"])
        subsets = [_options(OF_SUBSETS | OF_FOLDERS, args, general, entry, s) | s for s in entry["subsets"]]
        train.append(_dataset(options, subsets, for_training=True))
        if options["is_dreambooth"] and options["validation_split"] > 0:
            validation.append(_dataset(options, subsets, for_training=False))
    return train, validation


def _options(known, args, *tables):
    """The innermost table that has it; else the argument; else 1 for numbers of pictures and nothing for the rest."""
    found = {name: getattr(args, ARGUMENT.get(name, name), None) for name in known}
    found["num_repeats"] = 1
    for table in tables:
        found |= {name: value for name, value in table.items() if name in known}
    return found


def _dataset(options, subsets, *, for_training):
    pictures, kept = [], []
    for subset in subsets:
        read = _of_folder if options["is_dreambooth"] else _of_metadata
        found = read(subset, options, for_training)
        if found:
            kept.append(subset | {"img_count": len(found)})
            pictures += found * subset["num_repeats"]
        else:
            name = subset.get("image_dir") or subset.get("metadata_file")
            log(f"ignore subset with image_dir='{name}': no images found", "WARNING")
    log(f"{len(pictures)} {'train' if for_training else 'validation'} images with repeats.")
    return Dataset(options, kept, pictures)


def _of_metadata(subset, _options, _for_training):
    """The file names its pictures one by one."""
    path = subset["metadata_file"]
    if not os.path.exists(path):
        raise ValueError(f"no metadata / メタデータファイルがありません: {path}")
    log(f"loading existing JSOL metadata: {path}")
    with open(path, encoding="utf-8") as file:
        rows = {row["image_path"]: row for row in map(json.loads, file)}
    for name in rows:
        assert os.path.isabs(name) or subset.get("image_dir"), "image_dir is required when image paths are relative"
    return [
        Picture(
            os.path.join(subset.get("image_dir") or "", name),
            ", ".join(filter(None, (row.get("caption", ""), row.get("tags", "")))),
            tuple(row.get("image_size") or picture_size(name) or (512, 512)),
        )
        for name, row in rows.items()
    ]


def _of_folder(subset, options, for_training):
    folder = subset["image_dir"]
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names if name.lower().endswith(PICTURES)]
    if options["validation_split"] > 0:
        paths, _ = zip(*((path, None) for path in paths))  # noqa: B905  (an empty folder ends the script there)
        share = len(paths) * options["validation_split"]
        first = math.ceil(len(paths) - share) if for_training else len(paths) - round(share)
        paths = paths[:first] if for_training else paths[first:]
    log(f"found directory {folder} contains {len(paths)} image files")
    return [
        Picture(path, _caption(path, subset["caption_extension"]), picture_size(path) or (512, 512)) for path in paths
    ]


def _caption(path, extension):
    """The first line of the file beside the picture."""
    path = os.path.splitext(path)[0] + extension
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read().strip().split("\n")[0]


# ----------------------------------------------------------------------------------------------------------- checking


def _check(config, folders):
    everywhere = OF_DATASETS | OF_SUBSETS | (OF_FOLDERS if folders else {})
    _check_keys(config, {"general": dict, "datasets": list}, "")
    _check_keys(config.get("general", {}), everywhere, "['general']")
    for number, entry in enumerate(config["datasets"]):
        where = f"['datasets'][{number}]"
        _check_keys(entry, everywhere | {"subsets": list}, where)
        for place, subset in enumerate(entry["subsets"]):
            inner = f"{where}['subsets'][{place}]"
            if "metadata_file" not in subset and not (folders and "image_dir" in subset):
                raise MultipleInvalid(f"required key not provided @ data{inner}['metadata_file']")
            _check_keys(
                subset, OF_SUBSETS | (OF_METADATA if "metadata_file" in subset else OF_ONE_FOLDER | OF_FOLDERS), inner
            )


def _check_keys(table, known, where):
    for key, value in table.items():
        if key not in known:
            raise MultipleInvalid(f"extra keys not allowed @ data{where}['{key}']")
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            raise MultipleInvalid(f"wrong type for dictionary value @ data{where}['{key}']")
