"""ImageNet (section 4.1): the paper's own training, and the best one known since for ResNet-50."""

from plusx import config as configs
from plusx.config import Config, Facts


def imagenet_paper(facts: Facts) -> Config:
    """The paper's ImageNet training (`--model resnet34`, `plain34`, `resnet101`, …) on a folder with train/ and val/.

    Shorter side uniform in [256, 480], a random 224 px crop, random mirrors; per-pixel mean subtracted; PCA colour
    augmentation along the training set's own directions; SGD with momentum 0.9, weight decay 1e-4 on every parameter,
    batch 256, rate 0.1, 600,000 steps. The paper divides the rate by 10 "when the error plateaus" and gives no steps:
    here it falls at a quarter, a half and three quarters of the run, a departure that makes runs comparable;
    `--set schedule.name=plateau` is the rule itself, on the validation error. Test with
    `plusx evaluate --protocol 10-crop` or `multi-scale`.

    Command: `torchrun --standalone --nproc-per-node 8 -m plusx train imagenet/ --recipe imagenet-paper`.
    Source: sections 3.4 and 4.1.
    Cost: 120 epochs of 1.28 million images; 3.9 G multiply-adds for each image and pass of ResNet-50, a step is three.
    Expected result: the paper's 10-crop top-1 errors, 24.52 % (34 layers, option B, that of `resnet34`; 25.03 with
    `--set model.shortcut=A`, 24.19 with C), 22.85 (50), 21.75 (101), 21.43 (152); not measured here.
    """
    return Config(
        recipe="imagenet-paper",
        data=configs.DataConfig(mode="photo", size=224, resize=256, normalize="pixel", copies=0),
        augment=configs.AugmentConfig(crop="scale", flip="random", colour=0.1),
        model=configs.ModelConfig(name="resnet50", zero_init_last=False, whiten_stem=False),
        optim=configs.OptimConfig(name="sgd", lr=0.1, weight_decay=1e-4, decay="all"),
        schedule=configs.ScheduleConfig(name="multistep", steps=600_000, milestones=(0.25, 0.5, 0.75)),
        engine=configs.EngineConfig(batch=256, precision="fp32", select="last"),
    )


def imagenet_modern(facts: Facts) -> Config:
    """ResNet-50 by the best public recipe that torchvision has weights of (80.86 %).

    Random resized crops of 176 px, mirrors, TrivialAugment, a rectangle erased in a tenth of the images, mixup 0.2 or
    cutmix 1.0 (each has every second batch, an image with its neighbour), label smoothing 0.1; each step has its
    examples four times, so that an epoch of 1.28 million has a quarter of them; SGD with rate 0.5 at batch 1,024,
    weight decay 2e-5 on weights only, 5 epochs of warmup, a cosine over 600 epochs; averaged weights, which are
    evaluated at 224 px. Departures, beside a reference of eight GPUs with 128 images each: the whole batch has one
    choice of mixup or cutmix and one share, there each GPU's part has its own; batch norm is over each process's part,
    which is 128 images only with eight processes; the head's biases do not decay, and begin at 0; the rate moves at
    every step, there once an epoch; weights are averaged after every step and from the first on, there after every
    32nd, as fast, once the warmup is over.

    Command: `torchrun --standalone --nproc-per-node 8 -m plusx train imagenet/ --recipe imagenet-modern`.
    Source: torchvision's references/classification, weights IMAGENET1K_V2.
    Cost: 600 epochs; days on eight GPUs. `--epochs 100` rescales the schedule.
    Expected result: published 80.86 % top-1; not measured here.
    """
    return Config(
        recipe="imagenet-modern",
        data=configs.DataConfig(mode="photo", size=224, resize=232, normalize="imagenet"),
        augment=configs.AugmentConfig(
            crop="resized", flip="random", mixup=0.2, cutmix=1.0, size=176, policy="trivial", erase=0.1, repeats=4
        ),
        model=configs.ModelConfig(name="resnet50-v1.5", zero_init_last=False, whiten_stem=False),
        optim=configs.OptimConfig(name="sgd", lr=0.5, weight_decay=2e-5, label_smoothing=0.1),
        schedule=configs.ScheduleConfig(name="cosine", epochs=600, warmup=5 / 600),
        engine=configs.EngineConfig(batch=1024, ema=0.999966, select="last"),
    )
