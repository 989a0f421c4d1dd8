"""Standard deviations of layer responses (Fig. 7): are residual functions closer to zero than plain ones?"""

from statistics import fmean

import torch

from plusx.models.probe import layer_responses
from plusx.result import Run
from plusx.studies.core import Claim, Figure, Results, Study, Verdict, ends, lower
from plusx.studies.curves import Measured
from plusx.studies.settings import cifar_arms, named
from plusx.studies.trained import trained

IMAGES = 1000


def measure(run: Run) -> Measured:
    """Responses of the 3x3 layers after batch norm, before ReLU or addition, on test images."""
    classifier, network, dataset = trained(run)
    split = dataset.splits[run.watched]
    images = [classifier.preprocess.load(split.source(i)) for i in range(min(IMAGES, len(split)))]
    responses = list(layer_responses(network, torch.stack(images)).values())
    return Measured(
        values={"response": fmean(responses)},
        series={
            "by_layer": list(enumerate(responses, 1)),
            "sorted": list(enumerate(sorted(responses, reverse=True), 1)),
        },
    )


def residual_is_lower(results: Results, end: int) -> Verdict:
    """At the least (0) or greatest (1) depth of the plain nets, the residual net's responses against theirs."""
    plain = ends(results, "plain")[end]
    return lower(results, "response", plain.replace("plain", "resnet"), plain)


STUDY = Study(
    name="responses",
    claim="Layers of residual nets respond less strongly than those of plain nets, and the deeper the net, the less.",
    source="Section 4.2, Fig. 7",
    measures={"response": "mean standard deviation of 3x3 layers' responses"},
    arms=cifar_arms(
        named("plain20", "plain32", "resnet20", "resnet32"),
        named("plain20", "plain56", "resnet20", "resnet56", "resnet110"),
    ),
    measure=measure,
    claims=(
        Claim("At their least depth, the residual one responds less strongly.", lambda r: residual_is_lower(r, 0)),
        Claim(
            "At the greatest depth of plain nets, the residual one responds less strongly.",
            lambda r: residual_is_lower(r, 1),
        ),
        Claim(
            "The deepest residual net responds less strongly than the shallowest.",
            lambda r: lower(r, "response", ends(r, "resnet")[1], ends(r, "resnet")[0]),
        ),
    ),
    figures=(
        Figure("Responses in the order of layers", "by_layer", "layer", "standard deviation"),
        Figure("Responses sorted", "sorted", "rank", "standard deviation"),
    ),
)
