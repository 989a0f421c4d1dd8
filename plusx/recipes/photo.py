"""Photos of any size, decoded and augmented by worker processes."""

from dataclasses import replace

from plusx import config as configs
from plusx.config import Config, Facts


def photo(facts: Facts) -> Config:
    """From scratch on photos: random resized crops, mirrors, SGD with a cosine rate.

    The crop keeps at least a quarter of the picture when there are few examples, 8 % when there are many: small sets
    are learnt faster from milder changes. Epochs grow as the set shrinks, since steps, not epochs, train a network.

    Command: `plusx train photos/`; it is the default above 64 px.
    Source: the paper's section 4.1 (batch 256, lr 0.1, momentum 0.9, weight decay 1e-4), its rate scaled to the batch;
    under 20,000 examples twice that rate, and a weight decay of 5e-4.
    Cost: 0.6 G multiply-adds for each image and pass of ResNet-18 at 128 px, 1.8 G at 224 px; a step is three passes.
    Expected result: not measured yet on a public set; small sets of photos stay below what `photo-finetune` reaches.
    """
    few = facts.n_train < 20_000
    batch = 32 if few else 256
    return Config(
        recipe="photo",
        data=configs.DataConfig(mode="photo", normalize="imagenet"),
        augment=configs.AugmentConfig(crop="resized", area=(0.25, 1.0) if few else (0.08, 1.0)),
        model=configs.ModelConfig(),
        optim=configs.OptimConfig(
            name="sgd",
            lr=0.1 * batch / 256 * (2 if few else 1),
            weight_decay=5e-4 if few else 1e-4,
            label_smoothing=0.1,
        ),
        schedule=configs.ScheduleConfig(name="cosine", epochs=30 if facts.n_train >= 5_000 else 60, warmup=0.05),
        engine=configs.EngineConfig(batch=batch),
    )


def photo_finetune(facts: Facts) -> Config:
    """From given weights (`--weights FILE`): a new head by class name, a tenth of the rate for the body.

    `--set optim.freeze=body` trains the head alone. The blocks come trained, so none is zero-initialised. Gray images
    are read as RGB, as those were that published weights were trained on.

    Command: `plusx train photos/ --weights imagenet`; it is the default with weights.
    Source: common transfer practice (head at full rate, body slower), SGD with a cosine rate.
    Cost: a quarter to a half of the epochs of `photo`. Expected result: depends on the weights; not measured yet.
    """
    base = photo(facts)
    return replace(
        base,
        recipe="photo-finetune",
        data=replace(base.data, channels=3),
        model=configs.ModelConfig(zero_init_last=False),
        augment=replace(base.augment, area=(0.25, 1.0)),
        optim=replace(base.optim, lr=0.02, body_lr=0.1, weight_decay=1e-4),
        schedule=replace(base.schedule, epochs=15, warmup=0.1),
    )
