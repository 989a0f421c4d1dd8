"""Small images, up to about 64 px on a side: CIFAR, Fashion-MNIST, icons, characters, folders of thumbnails."""

from plusx import config as configs
from plusx.config import Config, Facts

BATCH = 128
PEAK_LR = 0.2  # at a batch of 128
LEAST_STEPS = 1500  # a set too small for 15 epochs to fill these gets more epochs


def small(facts: Facts) -> Config:
    """From scratch on small images, in memory, in minutes on a CPU.

    SGD with Nesterov momentum and a linear rate that falls toward 0; weight decay 5e-4 on weights only;
    translations by an eighth of the side and alternating mirrors; each block starts as the identity (zero-initialised
    last scale), the stem as whitening filters of the training images. SGD, the batch of 128 and the translations are
    those of the paper's CIFAR recipe (section 4.2); `docs/design.md` says why each of the others is there.

    Command: `plusx train cifar10`; it is the default up to 64 px.
    Source: the paper's section 4.2; the network, whitening, linear-to-zero rates and alternating mirrors come from
    CIFAR-10 speed records (`docs/log.md`).
    Cost and result: on two CPU cores, last epoch, one seed: CIFAR-10, 15 epochs, 92.39 % test top-1 in 15 minutes;
    Fashion-MNIST, 5 epochs, 93.20 % in 5 minutes.
    """
    batch = BATCH if facts.n_train >= 10_000 else 64 if facts.n_train >= 4_000 else 32
    steps = -(-facts.n_train // batch)
    return Config(
        recipe="small",
        data=configs.DataConfig(mode="small"),
        augment=configs.AugmentConfig(crop="translate"),
        model=configs.ModelConfig(),
        optim=configs.OptimConfig(
            name="sgd", lr=PEAK_LR * batch / BATCH, weight_decay=5e-4, nesterov=True, label_smoothing=0.1
        ),
        schedule=configs.ScheduleConfig(name="linear", epochs=max(15, min(100, -(-LEAST_STEPS // steps))), warmup=0.1),
        engine=configs.EngineConfig(batch=batch),
    )
