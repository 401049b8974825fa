"""A whole run: every phase of a recipe in turn, from the start or from where a killed process left it."""

import gc
import json
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bcdnet.data import preprocess_of
from bcdnet.data.match import dataset_name
from bcdnet.errors import RecipeError
from bcdnet.files import write_text
from bcdnet.models import Loaded, Network, NetworkConfig, build, load_model, save_model
from bcdnet.nn import lacks_statistics, restore_statistics
from bcdnet.training.build import check_fit, design, initial_weights, with_name
from bcdnet.training.callbacks import Snapshot
from bcdnet.training.checkpoint import newest_readable, write_checkpoint
from bcdnet.training.curves import draw_curves
from bcdnet.training.data import VALIDATION, RunData, evaluated_split, iterations_per_epoch
from bcdnet.training.log import read_rows, rewind
from bcdnet.training.loss import check_heads
from bcdnet.training.phase import Outcome, Phase, check_devices, phases_of, run_phase
from bcdnet.training.recipe import TEACHER, Recipe
from bcdnet.training.recipe_file import load_recipe
from bcdnet.training.run_folder import RunFolder, environment
from bcdnet.training.teacher import Teacher, check_logits, examine, load_teacher

Results = dict[str, dict[str, Any]]


def train(recipe: Recipe, resume: bool = False, say: Callable[[str], None] = print) -> Results:
    """Run a recipe into its `run_dir` and return what `metrics.json` holds: per phase, the figures of what it exported,
    and those of a teacher from elsewhere.

    `resume` continues the run in the folder. On a CPU the result is bit-identical to that of a run that was never
    interrupted: data order, augmentation, learning rate and every other random number are functions of the seed and the
    iteration, and a checkpoint holds the rest. `say` gets the messages for a person.

    Raises RecipeError, DataError or CheckpointError before any training if something that was given is wrong;
    KeyboardInterrupt after Ctrl-C, SystemExit(143) after SIGTERM.
    """
    if not recipe.run_dir:
        raise RecipeError("run_dir: say where the run shall go, as in run_dir=runs/first")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning's own use of a function that newer versions of torch want to be called otherwise.
        warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree")
        run = Run(_resolved(recipe, resume), say)
        try:
            return run.go(resume)
        except SystemExit as stop:
            # How Lightning stops: after Ctrl-C with status 1, after SIGTERM without one, which would pass for success.
            run.say(f"stopped; --resume continues {recipe.run_dir} from its last checkpoint")
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise SystemExit(143 if isinstance(stop, SIGTERMException) else stop.code) from None
        finally:
            run.folder.close()


def _resolved(recipe: Recipe, resume: bool) -> Recipe:
    """The recipe with its network's name and settings; a run that goes on has them, and needs no checkpoint for it."""
    if recipe.model.name is not None:
        return recipe
    begun = RunFolder(recipe.run_dir).recipe
    if not (resume and begun.is_file()):
        return replace(recipe, model=with_name(recipe.model))
    own = load_recipe(begun).model
    kwargs = {**own.kwargs, **recipe.model.kwargs}
    return replace(recipe, model=replace(own, checkpoint=recipe.model.checkpoint, kwargs=kwargs))


class Run:
    """The state between the phases: which are done, with which results, and the student so far."""

    def __init__(self, recipe: Recipe, say: Callable[[str], None]) -> None:
        self.recipe = recipe
        self.folder = RunFolder(recipe.run_dir)
        # Before Lightning starts a node's other processes, each node's first has rank 0.
        node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
        self.first_process = getattr(rank_zero_only, "rank", 0) == 0 and node == "0"
        self.say = say if self.first_process else lambda message: None
        self.phases = phases_of(recipe)
        self.networks: list[NetworkConfig] = []  # of each phase
        self.results: Results = {}
        # The provenance of the networks that the student begins with and learns from.
        self.origin: dict[str, Any] | None = None
        self.taught_by: dict[str, Any] | None = None
        self.initial: tuple[dict[str, torch.Tensor], Loaded] | None = None
        self.teacher_digest: str | None = None

    def go(self, resume: bool) -> Results:
        """All phases; see `train`."""
        check_devices(self.recipe.trainer)
        if self.first_process:
            self.folder.check(self.recipe, resume)
        data = RunData(self.recipe)
        state = newest_readable(self.folder.checkpoints, self.say) if resume else None
        begin = int(state["phase"]) if state else 0
        self.origin = state.get("origin") if state else None
        self.teacher_digest = state.get("teacher") if state else None
        self._check_models(data, begun=begin if state else -1)
        if state:
            data.check_resumed(state, self.phases[begin].step.augment)
            self.results = state["results"]
        if self.first_process:
            self.folder.open(self.recipe, resume)
        if self.first_process and resume:
            finished = {phase.name for phase in self.phases[:begin]}
            rewind(self.folder.rows, finished, self.phases[begin].name, state["iteration"] if state else 0)
            self.say(
                f"resuming {self.folder.path} in {self.phases[begin].name} at iteration {state['iteration']}"
                if state
                else f"{self.folder.path} has no checkpoint yet: starting it anew"
            )
        for phase in self.phases[begin:]:
            self._run(phase, data, state if phase.index == begin else None)
        self._finish()
        return self.results

    def _check_models(self, data: RunData, begun: int) -> None:
        """Build everything once, so that a wrong setting is an error before any training.

        `begun`: the phase that the run goes on in, -1 if it begins.
        """
        config = self.recipe.teacher
        if len(data.class_names) < 2:
            raise RecipeError(f"data.path: {self.recipe.data.path} has one class alone; there is nothing to tell apart")
        for phase in self.phases:
            iterations_per_epoch(len(data.source), phase.step)
            if self._begins(phase):
                classes, channels = len(data.class_names), self.recipe.data.channels
                model = design(phase.model, classes, channels, phase.section)
            self.networks.append(model.config)
            check_heads(model, phase.step, taught=config is not None and phase.role == "student")
            check_fit(model, phase.section, self.recipe, phase.step, len(data.class_names))
            if phase.model.checkpoint is not None and self._begins(phase) and phase.index > begun:
                self.initial = initial_weights(phase.model, model, self.recipe.data, data.class_names)
                self.origin = self.initial[1].provenance
        if config is not None and config.train is None:
            teacher = load_teacher(config, None, self.recipe.data, data.class_names)
            check_logits(teacher, self.recipe.data, len(data.class_names))
            self._check_teacher(teacher)

    def _check_teacher(self, teacher: Teacher) -> None:
        digest = teacher.digest()
        if self.teacher_digest not in (None, digest):
            raise RecipeError(
                "--resume: teacher.checkpoint: this is not the network that taught the run so far; give the place "
                "where that is"
            )
        self.teacher_digest = digest

    def _begins(self, phase: Phase) -> bool:
        """Whether its network is not that of the phase before it."""
        return phase.index == 0 or self.phases[phase.index - 1].role != phase.role

    def _run(self, phase: Phase, data: RunData, state: Snapshot | None) -> None:
        teacher = self._teacher(phase, data)
        model = self._student_before(phase, data)

        def save(snapshot: Snapshot) -> None:
            own = {
                "results": self.results,
                "source": data.kind,
                "data": data.digest,
                "origin": self.origin,
                "teacher": self.teacher_digest,
            }
            write_checkpoint(self.folder.checkpoints, phase.index, phase.name, {**snapshot, **own})

        started = time.perf_counter()
        outcome = run_phase(
            phase, model, self.recipe, data, self.folder, teacher=teacher, state=state, save=save, say=self.say
        )
        self.say(f"{phase.name}: done in {time.perf_counter() - started:.0f} s")
        if self.first_process:
            self._export(phase, model, outcome, data)
        wait_for(self.folder.weights(phase.name))
        gc.collect()  # Lightning's loops hold on to themselves, and to the phase's copy of the images on a GPU

    def _teacher(self, phase: Phase, data: RunData) -> Teacher | None:
        config = self.recipe.teacher
        if config is None or phase.role == "teacher":
            return None
        trained = self.folder.weights(config.train.name) if config.train is not None else None
        teacher = load_teacher(config, trained, self.recipe.data, data.class_names)
        self._check_teacher(teacher)
        if self.first_process and TEACHER not in self.results:
            found = examine(teacher, self.recipe, data)
            self.results = {**self.results, TEACHER: found.to_json()}
            self.say(f"teacher: {found.top1:.2f} % top-1 itself, of {found.images:,} images")
        self.taught_by = teacher.provenance or {"model": config.model, "results": _brief(self.results.get(TEACHER, {}))}
        return teacher

    def _student_before(self, phase: Phase, data: RunData) -> Network:
        """The network as the phase finds it: what the step before it exported; the recipe's checkpoint; or fresh.

        Of a phase that goes on, a checkpoint of its own has the weights.
        """
        torch.manual_seed(self.recipe.seed)  # on which fresh weights depend, and on nothing else
        model = build(self.networks[phase.index])
        if not self._begins(phase):
            before = load_model(self.folder.weights(self.phases[phase.index - 1].name)).model
            model.load_state_dict(before.state_dict())
        elif self.initial is not None and phase.model.checkpoint is not None:
            (weights, loaded), self.initial = self.initial, None  # which need not be kept through the training
            model.load_state_dict(weights, strict=False)
            head = "" if any(name.startswith("head.") for name in weights) else "; the head is new"
            self.say(f"{phase.name}: begins with the weights of {phase.model.checkpoint}{head}")
            if lacks_statistics(loaded.model):
                self.say(f"{phase.name}: measures batch statistics, which a packed network lacks")
                restore_statistics(model, data.sample(phase.step))
        return model

    def _export(self, phase: Phase, model: Network, outcome: Outcome, data: RunData) -> None:
        figures = {
            **outcome.evaluation,
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "weight_bits": phase.step.weight_bits,
            "epochs": outcome.epochs,
            "iterations": outcome.iterations,
            "train_seconds": round(outcome.seconds, 1),
            "train_images_per_second": round(outcome.images / max(outcome.seconds, 1e-9), 1),
        }
        self.results = {**self.results, phase.name: figures}
        paths = [self.folder.weights(phase.name)]
        if phase is self.phases[-1]:
            paths.append(self.folder.model)
        provenance = {
            "recipe": self.recipe.name,
            "step": phase.name,
            "model": phase.model.name,
            "data": dataset_name(self.recipe.data.path),
            "results": {**_brief(figures), "split": evaluated_split(self.recipe) or VALIDATION},
            **environment(self.recipe.seed),
        }
        if phase.role == "student":
            known = {"began_with": self.origin, "taught_by": self.taught_by}
            provenance |= {key: shortened(value) for key, value in known.items() if value is not None}
        for path in paths:
            save_model(
                path,
                model,
                labels=data.class_names,
                preprocess=preprocess_of(self.recipe.data),
                provenance=provenance,
            )

    def _finish(self) -> None:
        if self.first_process:
            write_text(self.folder.metrics, json.dumps(self.results, indent=2) + "\n")
            draw_curves(read_rows(self.folder.rows), self.folder.curves, self.recipe.name)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _brief(figures: dict[str, Any]) -> dict[str, Any]:
    """What a model file tells of its results."""
    return {key: figures[key] for key in ("top1", "top5", "loss", "images") if key in figures}


def shortened(provenance: dict[str, Any], generations: int = 4) -> dict[str, Any]:
    """What a network's own file says of one that helped to train it, and of those that it goes back to, a few.

    Of several in a row that differ in their schedule alone the last, so that no data is forgotten for their number.
    """
    kept: dict[str, Any] = {key: provenance[key] for key in ("model", "data", "recipe", "results") if key in provenance}
    for key in ("began_with", "taught_by"):
        before = provenance.get(key)
        while key == "began_with" and isinstance(before, dict) and _kind(before) == _kind(provenance):
            before = before.get(key)
        if isinstance(before, dict) and generations > 1:
            kept[key] = shortened(before, generations - 1)
    return kept


def _kind(provenance: dict[str, Any]) -> tuple[Any, ...]:
    """What was trained on what, by whom."""
    teacher = provenance.get("taught_by")
    return provenance.get("model"), provenance.get("data"), isinstance(teacher, dict) and teacher.get("model")


def wait_for(exported: Path) -> None:
    """Wait until the first process has written what the others will read."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    while not exported.is_file():  # a phase that was complete before the run was resumed starts no process group
        time.sleep(0.1)
