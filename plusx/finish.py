"""After the last step: calibration, the model file measured as anyone would, the report, the record."""

import platform
import shlex
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plusx import config as configs
from plusx import modelfile
from plusx.data import Dataset, EvalLoader
from plusx.data.copies import FOLDER as COPIES
from plusx.engine import FitResult, Log, fit_temperature, predict_logits
from plusx.evaluation import Evaluation, evaluate
from plusx.initial import make_network
from plusx.models import count_params
from plusx.plan import Plan, write_json
from plusx.report import ReportData, build
from plusx.result import Run
from plusx.text import plural

LEAST_CALIBRATION = 50  # images; fewer without a mistake cannot tell how sure to be


def write_model(
    folder: Path,
    plan: Plan,
    dataset: Dataset,
    manifest_hash: str,
    module: nn.Module,
    metrics: dict[str, Any],
    temperature: float | None = None,
) -> None:
    """Write the run's model file."""
    modelfile.save(
        folder / modelfile.FILE_NAME,
        module,
        classes=dataset.classes,
        task=dataset.task,
        preprocess=plan.preprocess,
        metrics=metrics,
        recipe=plan.config.recipe,
        config=configs.to_dict(plan.config),
        manifest_hash=manifest_hash,
        temperature=temperature,
    )


def calibrate(folder: Path, plan: Plan, dataset: Dataset, manifest_hash: str, log: Log) -> None:
    """Give the model file the temperature at which its probabilities fit the val split; answers stay the same."""
    if "val" not in dataset.splits or dataset.task != "single":
        return  # a test split may not choose anything, and labels of their own have no common softmax
    if why := too_few(dataset):
        log.line(why)
        return
    classifier = modelfile.load(folder, device=plan.config.engine.device)
    batches = EvalLoader(dataset.splits["val"], plan.preprocess, workers=plan.config.data.workers)
    answers = list(predict_logits(classifier.module, batches, classifier.device))
    temperature = fit_temperature(torch.cat([a[0] for a in answers]), torch.cat([a[1] for a in answers]))
    write_model(folder, plan, dataset, manifest_hash, classifier.module, classifier.meta["metrics"], temperature)
    log.line(f"probabilities are calibrated on val: temperature {temperature:.2f}")


def too_few(dataset: Dataset) -> str:
    """What to say of a val split that is too small to calibrate on; nothing where it is not, or is none."""
    held = len(dataset.splits.get("val", ()))
    few = f"probabilities are not calibrated: val has {plural('image', held)}, fewer than {LEAST_CALIBRATION}"
    return few if 0 < held < LEAST_CALIBRATION and dataset.task == "single" else ""


def finish(folder: Path, plan: Plan, dataset: Dataset, result: FitResult, log: Log) -> None:
    """Evaluate the model file as anyone would, write the report, clean up, and record that the run is done."""
    watched = dataset.watched
    assert watched is not None
    config = plan.config
    run = Run(
        folder=folder,
        model=config.model.name or "",
        recipe=config.recipe,
        epochs=result.epochs,
        n_train=len(dataset.splits["train"]),
        n_val=len(dataset.splits.get("val", ())),
        n_test=len(dataset.splits.get("test", ())),
        watched=watched.name,
        selected=config.engine.select or "last",
        best=result.best,
        final=result.final,
        seconds=result.seconds,
        images_per_second=result.images_per_second,
    )
    with log.counting("evaluating the model file") as progress:
        classifier = modelfile.load(folder, device=config.engine.device)
        evaluation = evaluate(classifier, dataset, split=watched.name, progress=progress)
    calibrated = classifier.meta.get("temperature") is not None
    if config.data.copies:
        shutil.rmtree(folder / COPIES, ignore_errors=True)
    build(report_data(run, plan, dataset, evaluation, result, calibrated), folder / "report.html")
    write_json(folder / modelfile.RECORD, {"request": vars(plan.request), **run.to_dict()})
    log.line(f"finished: {folder}")
    log.close()


def report_data(
    run: Run, plan: Plan, dataset: Dataset, evaluation: Evaluation, result: FitResult, calibrated: bool
) -> ReportData:
    """What the report shows, gathered from the parts."""
    sizes = {name: plural("image", len(split)) for name, split in dataset.splits.items()}
    config, counts = plan.config, dataset.splits["train"].counts(len(dataset.classes))
    steps = config.schedule.steps
    passed = f"{plural('step', steps)} of {config.engine.batch}" if steps else plural("epoch", run.epochs)
    length = f"{passed} on {plural('image', run.n_train)}"
    best = run.selected == "best"
    kept = f"of epoch {run.best['epoch']}, the best on {run.watched}" if best else "of the last epoch"
    return ReportData(
        title=f"{dataset.name}: {run.model}",
        subtitle=f"{run.model}, recipe {run.recipe}, {length}; weights {kept}.",
        evaluation=evaluation,
        calibrated=calibrated,
        rows=result.history,
        tiles={
            "training": f"{run.seconds / 60:.1f} min" if run.seconds >= 60 else f"{run.seconds:.0f} s",
            "speed": f"{run.images_per_second:,.0f} images/s",
            "parameters": f"{count_params(make_network(config, len(dataset.classes))):,}",
        },
        facts={
            "source": dataset.root,
            **sizes,
            "classes": f"{len(dataset.classes):,}",
            "training images a class": f"{min(counts):,} to {max(counts):,}",
            "median image": f"{plan.facts.width} x {plan.facts.height} px",
            "network input": f"{plan.preprocess.channels} x {plan.preprocess.size} x {plan.preprocess.size}",
        },
        notices=tuple(filter(None, (*dataset.notes, *plan.notes, too_few(dataset)))),
        choices=[(choice.field, choice.value, choice.reason) for choice in plan.choices],
        config=configs.to_dict(config),
        environment={"system": platform.platform()} | plan.versions,
        commands=[
            (
                "Exact metrics on data with labels",
                shlex.join(["plusx", "evaluate", str(run.folder), plan.request.data]),
            ),
            ("Labels for files and folders", f"plusx predict {shlex.quote(str(run.folder))} FILES"),
            ("From Python", f'plusx.load({str(run.folder)!r}).predict(["photo.jpg"])'),
        ],
    )
