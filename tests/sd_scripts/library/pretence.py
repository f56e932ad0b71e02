"""What the scripts do, without a model: prints, bars, files and scalars as sd-scripts has them, losses from a formula.

Environment: STAND_IN_SECONDS, how long a step takes, and STAND_IN_FAULTS, a comma-separated list of these words. What
strikes at a step does so at the second of this start, or at the one that STAND_IN_FAULT_STEP says.

    crash         an error in the step                 oom            out of memory in the step
    oom_caching   out of memory caching latents        oom_sampling   out of memory drawing the first sample
    hang          the step never ends                  deaf           SIGTERM is ignored
    grandchild    leaves a deaf process behind         nan            losses are nan from the step on
    metadata      another rank in the weights          torn           ends with half a record of scalars
    half_weights  the finished file is cut off         no_weights     ends well without a finished file
    refuse        an assertion about the settings      untracked      writes no scalars
    fewer         one process in place of several      alone          several, and each trains alone
    quiet         does not say of how many it is one
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

from library import caching, config_util, schedules, train_util
from library.files import EventWriter, read_torch_file, write_picture, write_torch_file, write_weights
from library.train_util import log

OF_STATES = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")
RATE_OF_EACH_TEXT_ENCODER = ("networks.lora_flux", "networks.lora_sd3", "networks.lora_lumina", "networks.lora_anima")
"""Networks that take a list of learning rates; of a list the others take the first."""


class OutOfMemoryError(RuntimeError):
    pass


def faulty(word):
    return word in os.environ.get("STAND_IN_FAULTS", "").split(",")


def fail_of_memory():
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.00 GiB")


def train_network(args, script="train_network"):
    Training(args, script).run()


def fine_tune(args):
    Training(args, "fine_tune").run()


class Training:
    def __init__(self, args, script):
        self.args = args
        self.script = script
        self.is_network = script != "fine_tune"
        self.seconds = float(os.environ.get("STAND_IN_SECONDS", "0.01"))
        self.fault_step = int(os.environ.get("STAND_IN_FAULT_STEP", "2"))
        self.prompts = train_util.load_prompts(args.sample_prompts) if args.sample_prompts else []
        self.losses = []
        self.global_step = 0
        self.epoch = 0
        self.scheduler_steps = 0
        """Over all starts: it is part of a state."""
        self.tracker = None
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))

    def run(self):
        if faulty("deaf"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if faulty("grandchild"):
            code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
            subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        if not self.prepare():
            return
        epoch_to_start = self.count_from()
        self.open_tracker()
        self.sample(0)
        self.loop(epoch_to_start)
        self.finish()

    # ------------------------------------------------------------------------------------------------- before the loop

    def prepare(self):
        """False where there is nothing to train on: told as an error, and then an end with status 0."""
        args = self.args
        self.load_tokenizer()
        log(f"Loading dataset config from {args.dataset_config}")
        log("prepare images.")
        self.train, self.validation = config_util.read_datasets(args, folders=self.is_network)
        pictures = sum(len(dataset.pictures) for dataset in self.train)
        if pictures == 0:
            log("No data found. Please verify arguments (train_data_dir must be the parent of folders with images)")
            return False
        assert not faulty("refuse"), (
            "full_bf16 requires mixed precision='bf16' / full_bf16を使う場合はmixed_precision='bf16'"
        )
        self.assert_extra_args()
        log("preparing accelerator")
        print("accelerator device: cpu")
        if not faulty("quiet"):
            log(f"loading model for process {self.rank}/{self.world_size}")
        if not self.meet():
            return False
        if not os.path.exists(args.pretrained_model_name_or_path or os.devnull):
            name = args.pretrained_model_name_or_path
            raise OSError(
                f'The provided pretrained_model_name_or_path "{name}" is neither a valid local path nor a valid'
            )
        self.cache()
        if self.is_network:
            print("import network module:", args.network_module)
        print("prepare optimizer, data loader etc.")
        self.batches = sum(dataset.batches() for dataset in self.train)
        self.factor = schedules.factor_of(args)
        return True

    def meet(self):
        """Waits for the others where there are any; False in all but the first, which does what is left to do."""
        folder = os.environ.get("STAND_IN_MEETING")
        if folder is None:
            return True
        open(os.path.join(folder, str(self.rank)), "w").close()
        while self.rank == 0 and len(os.listdir(folder)) < self.world_size:
            time.sleep(0.01)
        return self.rank == 0

    def load_tokenizer(self):
        log("Using v1 tokenizer")
        place = os.path.join(self.args.tokenizer_cache_dir or "", "openai_clip-vit-large-patch14")
        if self.args.tokenizer_cache_dir and os.path.exists(place):
            log(f"load tokenizer from cache: {place}")
            for name in ("vocab.json", "merges.txt"):
                open(os.path.join(place, name), "rb").close()

    def assert_extra_args(self):
        args, subsets = self.args, [subset for dataset in self.train for subset in dataset.subsets]
        assert not args.cache_latents or not any(each["color_aug"] or each["random_crop"] for each in subsets), (
            "when caching latents, either color_aug or random_crop cannot be used / latentをキャッシュするときは"
        )
        if not getattr(args, "cache_text_encoder_outputs", False):
            return
        changing = ("caption_dropout_rate", "shuffle_caption", "token_warmup_step", "caption_tag_dropout_rate")
        assert not any(each[name] for each in subsets for name in changing), (
            "when caching Text Encoder output, either caption_dropout_rate, shuffle_caption, token_warmup_step or"
            " caption_tag_dropout_rate cannot be used / Text Encoderの出力をキャッシュするときは"
        )
        assert self.script != "sdxl_train_network" or args.network_train_unet_only, (
            "network for Text Encoder cannot be trained with caching Text Encoder outputs / Text Encoderの"
        )

    def cache(self):
        args, datasets = self.args, [*self.train, *self.validation]
        if args.cache_latents:
            count = caching.cache_latents(args, self.script, datasets)
            print(f"\r100%|##########| {count}/{count} [00:00<00:00, 99.00it/s]", file=sys.stderr)
            if faulty("oom_caching"):
                fail_of_memory()
        if getattr(args, "cache_text_encoder_outputs", False):
            caching.cache_texts(args, self.script, datasets)

    def count_from(self):
        """The first epoch. `global_step` forgets the epochs that are skipped, and the bar is drawn for the rest."""
        args = self.args
        steps_from_state = self.load_state() if args.resume else None
        self.updates = math.ceil(self.batches / args.gradient_accumulation_steps)
        self.epochs = math.ceil(args.max_train_steps / self.updates)
        print("running training / 学習開始")
        print(f"  num epochs / epoch数: {self.epochs}")
        print(f"  total optimization steps / 学習ステップ数: {args.max_train_steps}")
        epoch_to_start, skipped = self.skipped_by(steps_from_state) if self.is_network else (0, 0)
        self.global_step = self.skipped = skipped
        self.bar_total = args.max_train_steps - skipped
        return epoch_to_start

    def skipped_by(self, steps_from_state):
        """Epochs, and batches of the epoch that is begun."""
        args, initial_step = self.args, steps_from_state or 0
        if args.initial_step is not None or args.initial_epoch is not None:
            if steps_from_state is not None:
                log("steps from the state is ignored because initial_step is specified", "WARNING")
            initial_step = args.initial_step
            if initial_step is None:
                initial_step = (args.initial_epoch - 1) * self.updates
        assert initial_step == 0 or args.max_train_steps > initial_step, (
            f"max_train_steps should be greater than initial step: {args.max_train_steps} vs {initial_step}"
        )
        if initial_step == 0 or not args.skip_until_initial_step:
            return initial_step // self.updates, 0
        log(f"skipping {initial_step} steps / {initial_step}ステップをスキップします")
        initial_step *= args.gradient_accumulation_steps
        epoch_to_start = initial_step // self.updates
        return epoch_to_start, initial_step - epoch_to_start * self.batches

    def load_state(self):
        """The updates that it has seen, where it says so."""
        folder = self.args.resume
        log(f"resume training from local state: {folder}")
        for name in OF_STATES:
            if not os.path.exists(os.path.join(folder, name)):
                raise FileNotFoundError(2, "No such file or directory", os.path.join(folder, name))
        self.scheduler_steps = int(read_torch_file(os.path.join(folder, "scheduler.bin")) or 0)
        path = os.path.join(folder, "train_state.json")
        if not self.is_network or not os.path.exists(path):
            return None
        with open(path) as file:
            return json.load(file)["current_step"]

    def open_tracker(self):
        if self.args.logging_dir and not faulty("untracked"):
            prefix = self.args.log_prefix or ""
            folder = os.path.join(self.args.logging_dir, prefix + time.strftime("%Y%m%d%H%M%S"))
            self.tracker = EventWriter(os.path.join(folder, "network_train" if self.is_network else "finetuning"))

    # -------------------------------------------------------------------------------------------------------- the loop

    def loop(self, epoch_to_start):
        self.bar()
        for epoch in range(epoch_to_start, self.epochs):
            print(f"\nepoch {epoch + 1}/{self.epochs}\n", flush=True)
            self.epoch = epoch + 1
            for batch in range(self.skipped, self.batches):
                self.step(last_of_update=(batch + 1) % self.args.gradient_accumulation_steps == 0, of_epoch=batch + 1)
                if self.global_step >= self.args.max_train_steps:
                    break
            self.skipped = 0
            self.end_epoch()

    def end_epoch(self):
        """Numbers of an epoch are logged under its own number, also of one that was left before its end."""
        args, number = self.args, self.epoch
        if self.is_network:
            self.validate()
        if self.tracker:
            self.tracker.write(number, {"loss/epoch_average" if self.is_network else "loss/epoch": self.average()})
        every = args.save_every_n_epochs
        if every and number % every == 0 and number < self.epochs:
            self.save(train_util.get_epoch_ckpt_name(args, ".safetensors", number))
            self.save_state(f"{args.output_name}-{number:06d}-state")
        self.sample(number)

    def validate(self):
        """At four timesteps a batch."""
        every, total = self.args.validate_every_n_epochs or 1, 4 * sum(each.batches() for each in self.validation)
        if total == 0 or self.epoch % every:
            return
        for done in range(total + 1):
            bar = f"\repoch validation steps: {100 * done // total:3d}%|{'#' * (10 * done // total):10}| {done}/{total}"
            print(f"{bar} [00:00<00:00, 9.00it/s, val_epoch_avg_loss=0.5]", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        if self.tracker:
            loss = 2 / (1 + self.scheduler_steps)
            told = {"average": loss, "divergence": loss - self.average()}
            self.tracker.write(self.epoch, {f"loss/validation/epoch_{name}": value for name, value in told.items()})

    def step(self, *, last_of_update, of_epoch):
        time.sleep(self.seconds)
        is_update = last_of_update or of_epoch == self.batches
        if is_update:
            self.scheduler_steps += 1
            self.global_step += 1
            self.bar()
            self.break_down()
            self.sample(None)
            self.save_on_the_way()
        is_nan = faulty("nan") and self.global_step >= self.fault_step
        self.losses.append(math.nan if is_nan else 1 / (1 + len(self.losses)))
        self.bar(f", avr_loss={self.average():.3g}")
        if self.tracker:
            self.tracker.write(self.global_step, self.scalars())

    def break_down(self):
        if self.global_step != self.fault_step:
            return
        if faulty("crash"):
            raise RuntimeError("something broke")
        if faulty("oom"):
            fail_of_memory()
        if faulty("hang"):
            time.sleep(600)

    def average(self):
        return sum(self.losses) / len(self.losses)

    def scalars(self):
        """The learning rate is that of the next update."""
        rate = self.args.unet_lr if self.is_network and self.args.unet_lr is not None else self.args.learning_rate
        rate *= self.factor(self.scheduler_steps)
        if not self.is_network:
            return {"loss": self.losses[-1], "lr/unet": rate}
        logged = {"loss/current": self.losses[-1], "loss/average": self.average(), "lr/unet": rate}
        return logged | ({"lr/d*lr/unet": rate / 4} if self.args.optimizer_type.lower() == "prodigy" else {})

    def bar(self, more=""):
        done, total = self.global_step - self.args_skipped(), self.bar_total
        rate = "?it/s" if done == 0 else f"{max(self.seconds, 0.001):5.2f}s/it"
        percent = 100 * done // max(1, total)
        drawn = f"\rsteps: {percent:3d}%|{'#' * (percent // 10):10}| {done}/{total} [00:00<00:00, {rate}{more}]"
        print(drawn, end="", file=sys.stderr, flush=True)

    def args_skipped(self):
        return self.args.max_train_steps - self.bar_total

    # ----------------------------------------------------------------------------------------------------------- files

    def sample(self, epoch):
        """At the beginning the epoch is 0, after a step there is none."""
        args = self.args
        if self.global_step == 0 or epoch == 0:
            if not args.sample_at_first or epoch != 0:
                return
        elif args.sample_every_n_epochs:
            if epoch is None or epoch % args.sample_every_n_epochs:
                return
        elif not args.sample_every_n_steps or self.global_step % args.sample_every_n_steps or epoch is not None:
            return
        log("")
        log(f"generating sample images at step / サンプル画像生成 ステップ: {self.global_step}")
        if faulty("oom_sampling"):
            fail_of_memory()
        number = f"e{epoch:06d}" if epoch is not None else f"{self.global_step:06d}"
        for index, (_prompt, seed) in enumerate(self.prompts):
            end = time.strftime("%Y%m%d%H%M%S") + ("" if seed is None else f"_{seed}")
            write_picture(os.path.join(args.output_dir, "sample", f"{args.output_name}_{number}_{index:02d}_{end}.png"))

    def save_on_the_way(self):
        args = self.args
        if args.save_every_n_steps and self.global_step % args.save_every_n_steps == 0:
            self.save(train_util.get_step_ckpt_name(args, ".safetensors", self.global_step))
            self.save_state(f"{args.output_name}-step{self.global_step:08d}-state")
            old = train_util.get_remove_step_no(args, self.global_step)
            path = os.path.join(args.output_dir, train_util.get_step_ckpt_name(args, ".safetensors", old or 0))
            if old is not None and os.path.exists(path):
                os.remove(path)
            if old is not None and old > 0:
                shutil.rmtree(os.path.join(args.output_dir, f"{args.output_name}-step{old:08d}-state"), True)

    def save(self, name):
        path = os.path.join(self.args.output_dir, name)
        print(f"\nsaving checkpoint: {path}", flush=True)
        write_weights(path, self.metadata() if self.is_network else {})

    def metadata(self):
        args = self.args
        rates = args.text_encoder_lr
        if isinstance(rates, list) and args.network_module not in RATE_OF_EACH_TEXT_ENCODER:
            rates = rates[0] if rates else None
        found = {
            "ss_output_name": args.output_name, "ss_learning_rate": args.learning_rate, "ss_unet_lr": args.unet_lr,
            "ss_text_encoder_lr": rates, "ss_max_train_steps": args.max_train_steps,
            "ss_network_module": args.network_module, "ss_network_alpha": args.network_alpha,
            "ss_network_dim": (args.network_dim or 4) + faulty("metadata"), "ss_network_dropout": args.network_dropout,
            "ss_seed": args.seed, "ss_lr_scheduler": args.lr_scheduler, "ss_steps": self.global_step,
            "ss_gradient_accumulation_steps": args.gradient_accumulation_steps, "ss_clip_skip": args.clip_skip,
            "ss_mixed_precision": args.mixed_precision, "ss_max_grad_norm": args.max_grad_norm,
            "ss_min_snr_gamma": args.min_snr_gamma, "ss_noise_offset": args.noise_offset,
            "ss_optimizer": optimizer_name(args), "ss_lr_warmup_steps": args.lr_warmup_steps,
            "ss_training_comment": args.training_comment, "ss_epoch": self.epoch, "ss_num_epochs": self.epochs,
            "ss_num_train_images": sum(len(each.pictures) for each in self.train),
            "ss_num_validation_images": sum(len(each.pictures) for each in self.validation),
            "ss_num_batches_per_epoch": self.batches, "ss_cache_latents": bool(args.cache_latents),
            "ss_validation_split": args.validation_split, "ss_validate_every_n_epochs": args.validate_every_n_epochs,
            "ss_sd_model_name": os.path.basename(args.pretrained_model_name_or_path or ""),
        }  # fmt: skip
        if args.network_args:
            found["ss_network_args"] = json.dumps(self.network_arguments())
        found["ss_datasets"] = json.dumps([self.dataset_metadata(dataset) for dataset in self.train])
        found["ss_dataset_dirs"] = json.dumps(
            {
                os.path.basename(subset.get("metadata_file") or subset["image_dir"]): {
                    "n_repeats": subset["num_repeats"], "img_count": subset["img_count"],
                }
                for dataset in self.train for subset in dataset.subsets
            }
        )  # fmt: skip
        return {name: str(value) for name, value in found.items()}

    def network_arguments(self):
        """The network's dropout is put among them."""
        told = dict(each.split("=", 1) for each in self.args.network_args)
        return {"dropout": self.args.network_dropout} | told

    def dataset_metadata(self, dataset):
        told = ("shuffle_caption", "keep_tokens", "flip_aug", "num_repeats", "img_count")
        return {
            "is_dreambooth": dataset.options["is_dreambooth"],
            "batch_size_per_device": dataset.batch_size,
            "num_train_images": len(dataset.pictures),
            "resolution": [dataset.options["resolution"]] * 2,
            "enable_bucket": bool(dataset.options["enable_bucket"]),
            "subsets": [{name: subset[name] for name in told} for subset in dataset.subsets],
        }

    def save_state(self, name):
        if not self.args.save_state:
            return
        log(f"saving state at step {self.global_step}")
        folder = os.path.join(self.args.output_dir, name)
        os.makedirs(folder, exist_ok=True)
        if self.is_network:
            with open(os.path.join(folder, "train_state.json"), "w") as file:
                json.dump({"current_epoch": self.epoch, "current_step": self.global_step}, file)
        write_weights(os.path.join(folder, "model.safetensors"), {})
        for part in OF_STATES[1:]:
            write_torch_file(os.path.join(folder, part), str(self.scheduler_steps) if part == "scheduler.bin" else "")

    def finish(self):
        if faulty("torn") and self.tracker:
            self.tracker.tear()
        if self.args.save_state or self.args.save_state_on_train_end:
            log("saving last state.")
            self.args.save_state = True
            self.save_state(f"{self.args.output_name}-state")
        if faulty("no_weights"):
            return
        name = train_util.get_last_ckpt_name(self.args, ".safetensors")
        self.save(name)
        if faulty("half_weights"):
            path = os.path.join(self.args.output_dir, name)
            os.truncate(path, os.path.getsize(path) - 8)
        log("model saved.")


def optimizer_name(args):
    """Its class, and its arguments in brackets."""
    known = {"": "torch.optim.adamw.AdamW", "adamw": "torch.optim.adamw.AdamW"}
    name = known.get(args.optimizer_type.lower(), args.optimizer_type)
    return name + (f"({','.join(args.optimizer_args)})" if args.optimizer_args else "")
