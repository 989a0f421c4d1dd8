"""A finished run's network and the examples it was tested on."""

from plusx.config import DataConfig
from plusx.data import Dataset, open_dataset
from plusx.modelfile import Classifier, load
from plusx.models import Network
from plusx.plan import read_json
from plusx.result import Run


def trained(run: Run) -> tuple[Classifier, Network, Dataset]:
    """The model file of a run, the network in it, in evaluation mode, and the run's data."""
    recorded = read_json(run.folder / "config.json")
    config = DataConfig(**recorded["config"]["data"] | {"root": run.data_root})
    classifier = load(run.folder, device="cpu")
    assert isinstance(classifier.module, Network), "plusx trained it"
    return classifier, classifier.module, open_dataset(recorded["request"]["data"], config)
