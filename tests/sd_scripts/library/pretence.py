"""What the scripts do, without a model: prints, bars, files and scalars as sd-scripts has them, losses from a formula.

Environment: STAND_IN_FAULTS, a comma-separated list of the words below; STAND_IN_SECONDS, how long a step takes.

    crash         an error in the second step          oom            out of memory in the second step
    oom_caching   out of memory caching latents        oom_sampling   out of memory drawing the first sample
    hang          the second step never ends           deaf           SIGTERM is ignored
    grandchild    leaves a deaf process behind         nan            losses are nan from the second step on
    metadata      another rank in the weights          torn           ends with half a record of scalars
    half_weights  the finished file is cut off         no_weights     ends well without a finished file
    refuse        an assertion about the settings      untracked      writes no scalars
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib

from library import train_util
from library.files import EventWriter, write_picture, write_torch_file, write_weights
from library.train_util import log

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class OutOfMemoryError(RuntimeError):
    pass


def faulty(word):
    return word in os.environ.get("STAND_IN_FAULTS", "").split(",")


def fail_of_memory():
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.00 GiB")


def train_network(args):
    Training(args, is_network=True).run()


def fine_tune(args):
    Training(args, is_network=False).run()


class Training:
    def __init__(self, args, *, is_network):
        self.args = args
        self.is_network = is_network
        self.seconds = float(os.environ.get("STAND_IN_SECONDS", "0.01"))
        self.prompts = train_util.load_prompts(args.sample_prompts) if args.sample_prompts else []
        self.losses = []
        self.global_step = 0
        self.tracker = None

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
        log(f"Loading dataset config from {args.dataset_config}")
        log("prepare images.")
        pictures, batch_size = self.read_dataset()
        if pictures == 0:
            log("No data found. Please verify arguments (train_data_dir must be the parent of folders with images)")
            return False
        assert not faulty("refuse"), (
            "full_bf16 requires mixed precision='bf16' / full_bf16を使う場合はmixed_precision='bf16'"
        )
        log("preparing accelerator")
        print("accelerator device: cpu")
        log("loading model for process 0/1")
        if args.cache_latents:
            log("caching latents with caching strategy.")
            print(f"\r100%|##########| {pictures}/{pictures} [00:00<00:00, 99.00it/s]", file=sys.stderr)
            if faulty("oom_caching"):
                fail_of_memory()
        if getattr(args, "cache_text_encoder_outputs", False):
            log("caching Text Encoder outputs with caching strategy.")
        if self.is_network:
            print("import network module:", args.network_module)
        print("prepare optimizer, data loader etc.")
        self.batches = math.ceil(pictures / batch_size)
        return True

    def read_dataset(self):
        with open(self.args.dataset_config, "rb") as file:
            config = tomllib.load(file)
        general, count, batch_size = config.get("general", {}), 0, 1
        for dataset in config["datasets"]:
            batch_size = dataset.get("batch_size", general.get("batch_size", self.args.train_batch_size))
            for subset in dataset["subsets"]:
                names = os.listdir(subset["image_dir"]) if os.path.isdir(subset["image_dir"]) else []
                repeats = subset.get("num_repeats", dataset.get("num_repeats", general.get("num_repeats", 1)))
                count += repeats * sum(name.endswith(PICTURES) for name in names)
        return count, batch_size

    def count_from(self):
        """The first epoch. `global_step` forgets the epochs that are skipped, and the bar is drawn for the rest."""
        args = self.args
        initial_step = 0
        if args.resume:
            log(f"resume training from local state: {args.resume}")
            with open(os.path.join(args.resume, "train_state.json")) as file:
                initial_step = json.load(file)["current_step"]
        self.updates = math.ceil(self.batches / args.gradient_accumulation_steps)
        self.epochs = math.ceil(args.max_train_steps / self.updates)
        print("running training / 学習開始")
        print(f"  num epochs / epoch数: {self.epochs}")
        print(f"  total optimization steps / 学習ステップ数: {args.max_train_steps}")
        epoch_to_start = 0
        if initial_step and self.is_network:
            epoch_to_start = initial_step // self.updates
            if args.skip_until_initial_step:
                log(f"skipping {initial_step} steps / {initial_step}ステップをスキップします")
                initial_step *= args.gradient_accumulation_steps
                epoch_to_start = initial_step // self.updates
                self.global_step = initial_step - epoch_to_start * self.batches
        self.bar_total = args.max_train_steps - self.global_step
        self.skipped = self.global_step
        return epoch_to_start

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
            for batch in range(self.skipped, self.batches):
                self.step(last_of_update=(batch + 1) % self.args.gradient_accumulation_steps == 0, of_epoch=batch + 1)
                if self.global_step >= self.args.max_train_steps:
                    break
            self.skipped = 0
            if self.tracker:
                name = "loss/epoch_average" if self.is_network else "loss/epoch"
                self.tracker.write(epoch + 1, {name: self.average()})
            every = self.args.save_every_n_epochs
            if every and (epoch + 1) % every == 0 and epoch + 1 < self.epochs:
                self.save(train_util.get_epoch_ckpt_name(self.args, ".safetensors", epoch + 1))
                self.save_state(f"{self.args.output_name}-{epoch + 1:06d}-state")
            self.sample(epoch + 1)

    def step(self, *, last_of_update, of_epoch):
        time.sleep(self.seconds)
        is_update = last_of_update or of_epoch == self.batches
        if is_update:
            self.global_step += 1
            self.bar()
            self.break_down()
            self.sample(None)
            self.save_on_the_way()
        self.losses.append(math.nan if faulty("nan") and self.global_step > 1 else 1 / (1 + len(self.losses)))
        self.bar(f", avr_loss={self.average():.3g}")
        if self.tracker:
            self.tracker.write(self.global_step, self.scalars())

    def break_down(self):
        if self.global_step != 2:
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
        rate = self.args.unet_lr if self.is_network and self.args.unet_lr is not None else self.args.learning_rate
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
            old = self.global_step - args.save_last_n_steps - 1 if args.save_last_n_steps else 0
            old -= old % args.save_every_n_steps
            if old > 0:
                os.remove(os.path.join(args.output_dir, train_util.get_step_ckpt_name(args, ".safetensors", old)))
                shutil.rmtree(os.path.join(args.output_dir, f"{args.output_name}-step{old:08d}-state"), True)

    def save(self, name):
        path = os.path.join(self.args.output_dir, name)
        print(f"\nsaving checkpoint: {path}", flush=True)
        write_weights(path, self.metadata() if self.is_network else {})

    def metadata(self):
        args = self.args
        found = {
            "ss_output_name": args.output_name, "ss_learning_rate": args.learning_rate, "ss_unet_lr": args.unet_lr,
            "ss_text_encoder_lr": args.text_encoder_lr, "ss_max_train_steps": args.max_train_steps,
            "ss_network_module": args.network_module, "ss_network_alpha": args.network_alpha,
            "ss_network_dim": (args.network_dim or 4) + faulty("metadata"), "ss_network_dropout": args.network_dropout,
            "ss_seed": args.seed, "ss_lr_scheduler": args.lr_scheduler, "ss_steps": self.global_step,
            "ss_gradient_accumulation_steps": args.gradient_accumulation_steps, "ss_clip_skip": args.clip_skip,
            "ss_mixed_precision": args.mixed_precision, "ss_max_grad_norm": args.max_grad_norm,
            "ss_min_snr_gamma": args.min_snr_gamma, "ss_noise_offset": args.noise_offset,
            "ss_optimizer": optimizer_name(args), "ss_lr_warmup_steps": args.lr_warmup_steps,
        }  # fmt: skip
        if args.network_args:
            found["ss_network_args"] = json.dumps(dict(each.split("=", 1) for each in args.network_args))
        return {name: str(value) for name, value in found.items()}

    def save_state(self, name):
        if not self.args.save_state:
            return
        log(f"saving state at step {self.global_step}")
        folder = os.path.join(self.args.output_dir, name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "train_state.json"), "w") as file:
            json.dump({"current_epoch": 1, "current_step": self.global_step}, file)
        write_weights(os.path.join(folder, "model.safetensors"), {})
        for part in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl"):
            write_torch_file(os.path.join(folder, part))

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
