"""One phase of a run: a network, the step that trains it, and Lightning's `fit` from where it stands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy

from bcdnet.data import evaluate_transform
from bcdnet.errors import RecipeError
from bcdnet.evaluation import Evaluation
from bcdnet.models import Network
from bcdnet.nn import rescale_latent_weights, set_weight_bits
from bcdnet.training.callbacks import Checkpointer, Recorder, Snapshot, callbacks_of
from bcdnet.training.data import RunData, TrainLoader, augmentation, iterations_per_epoch
from bcdnet.training.ema import copy_into
from bcdnet.training.evaluate import evaluate
from bcdnet.training.flips import SignHistory
from bcdnet.training.log import CsvRows
from bcdnet.training.module import Plan, StepModule, plan_step
from bcdnet.training.recipe import ModelConfig, Recipe, StepConfig, TrainerConfig
from bcdnet.training.run_folder import RunFolder
from bcdnet.training.sync_bn import share_buffers, synchronise_batch_norm
from bcdnet.training.teacher import Teacher


@dataclass(frozen=True)
class Phase:
    """`index` orders the phases of a run; `role`: the network that is trained; `model`: how to build it."""

    index: int
    role: str
    step: StepConfig
    model: ModelConfig

    @property
    def name(self) -> str:
        """The step's name, which names its files."""
        return self.step.name

    @property
    def section(self) -> str:
        """Where the recipe describes the network."""
        return "model" if self.role == "student" else "teacher.kwargs"


def phases_of(recipe: Recipe) -> list[Phase]:
    """The teacher's training if the recipe has one, then the steps."""
    phases: list[Phase] = []
    teacher = recipe.teacher
    if teacher is not None and teacher.train is not None:
        assert teacher.model is not None
        phases.append(Phase(0, "teacher", teacher.train, ModelConfig(teacher.model, teacher.kwargs)))
    return phases + [
        Phase(len(phases) + place, "student", step, recipe.model) for place, step in enumerate(recipe.steps)
    ]


@dataclass(frozen=True)
class Outcome:
    """What `run_phase` did: the evaluation of what the phase exports, its length, and its training time in seconds."""

    evaluation: dict[str, Any]
    epochs: int
    iterations: int
    images: int
    seconds: float


def run_phase(
    phase: Phase,
    model: Network,
    recipe: Recipe,
    data: RunData,
    folder: RunFolder,
    *,
    teacher: Teacher | None,
    state: Snapshot | None,
    save: Callable[[Snapshot], None],
    say: Callable[[str], None],
) -> Outcome:
    """Train `model`, in place, through one phase; in the end it holds the weights to export (averaged, with `ema`).

    `state`: a checkpoint of this phase to go on from. `save` gets a snapshot whenever a checkpoint is due; the last one
    holds the final evaluation, so that a run killed right after it need not repeat it. `say` gets a line per epoch.
    """
    step = phase.step
    set_weight_bits(model, step.weight_bits)
    model.set_distilled_training(teacher is not None)
    model.set_grad_checkpointing(recipe.trainer.grad_checkpointing)
    if step.latent_rms is not None and state is None:
        rescale_latent_weights(model, step.latent_rms)
    if recipe.trainer.channels_last:  # before the average is made of it, which takes in only its own layout fast
        model.to(memory_format=torch.channels_last)
    source = data.train(step.augment)
    plan = plan_step(step, iterations_per_epoch(len(source), step), state["iteration"] if state else 0)
    module = StepModule(
        model,
        step,
        plan,
        recipe.trainer,
        augmentation(source, recipe.data),
        index=phase.index,
        seed=recipe.seed,
        teacher=teacher,
        optimizer_state=state["optimizer"] if state else None,
    )
    if state:
        restore(module, state)

    def assess() -> Evaluation:
        config = recipe.validation
        world = recipe.trainer.world_size
        shares = data.evaluation(config.batch_size, module.device, module.global_rank, world)
        share_buffers(model, module.average.average.values() if module.average else ())
        with module.average.applied_to(model) if module.average else nullcontext():
            transform = partial(evaluate_transform, config=recipe.data)
            return evaluate(model, shares(0), transform, data.class_names, module.device)

    recorder = Recorder(
        recipe.trainer.log_every,
        recipe.validation.every,
        assess,
        say,
        state["seconds"] if state else 0.0,
        state["evaluation"] if state else None,
        SignHistory(model, state.get("signs") if state else None),
    )
    if plan.start < plan.iterations:
        checkpointer = Checkpointer(recipe.trainer.checkpoint_every, recorder, save)
        trainer = make_trainer(phase, recipe.trainer, plan, folder, callbacks_of(recorder, checkpointer, module))
        if recipe.trainer.sync_bn and recipe.trainer.world_size > 1:
            synchronise_batch_norm(model)
        with _naming_the_compiler():
            trainer.fit(module, TrainLoader(source, module))
    if module.average is not None:
        copy_into(model, module.average.average)
    assert recorder.evaluation is not None
    return Outcome(
        recorder.evaluation, plan.epochs, plan.iterations, plan.iterations * step.batch_size, recorder.seconds
    )


@contextmanager
def _naming_the_compiler() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # loaded by then, if it is one

        if not isinstance(error, TorchDynamoException):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise RecipeError(f"trainer.compile: {reason}; trainer.compile=false trains without a compiler") from error


def restore(module: StepModule, state: Snapshot) -> None:
    """Put a checkpoint's state into a fresh module; the optimiser's follows when Lightning has made the optimiser."""
    module.model.load_state_dict(state["model"])
    if module.average is not None:
        module.average.load_state_dict(state["average"])
    module.interval.sums = state["running"]["interval"]
    module.epoch.sums = state["running"]["epoch"]


def check_devices(config: TrainerConfig) -> None:
    """Raise RecipeError for an accelerator that is not here, or more devices than there are."""
    gpus = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    kind: str = config.accelerator
    if kind == "auto":
        kind = "cuda" if gpus["cuda"] else "mps" if gpus["mps"] else "cpu"
    if kind in gpus and config.devices > gpus[kind]:
        found = gpus[kind] or "none; trainer.accelerator=cpu trains"
        raise RecipeError(f"trainer.devices: {config.devices} x {kind}, but this machine has {found}")


def make_trainer(
    phase: Phase, config: TrainerConfig, plan: Plan, folder: RunFolder, callbacks: list[Callback]
) -> pl.Trainer:
    """A Lightning trainer that does what the recipe says and nothing of its own accord.

    Checkpoints, evaluation and logging are ours: Lightning counts epochs and batches from its own start, which is not
    the step's in a resumed run.
    """
    # Of one process Lightning would think, in an allocation of SLURM's, that it is one of as many as there are tasks.
    alone = LightningEnvironment() if config.world_size == 1 else None
    bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=DDPStrategy() if config.world_size > 1 else "auto",
        plugins=alone,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_epochs=-1,
        max_steps=plan.iterations - plan.start,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=phase.step.clip_norm,
        benchmark=True,  # batches have one shape, so cuDNN's search for the fastest kernels pays
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=[
            CsvRows(folder.rows, phase.name),
            TensorBoardLogger(folder.path, "tensorboard", phase.name, purge_step=plan.start + 1),
        ],
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bar,
        use_distributed_sampler=False,
    )
