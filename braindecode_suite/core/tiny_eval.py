"""tiny-eval: a small convolutional network that says what is in a procedural scene, and only scores.

Another architecture and another objective than tiny-clip: residual convolutions trained to classify and to locate the main
object, never to match captions.
"""

import json
from importlib.resources import as_file, files
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from braindecode_suite.core.checks import check_shape
from braindecode_suite.core.errors import MissingWeights

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class _Residual(nn.Module):
    """Two convolutions with batch normalisation beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            if inputs != outputs or stride != 1
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class TinyEval(nn.Module):
    """Tell category, colour, place, position and size of a scene's main object.

    Parameters
    ----------
    categories, colours, places : sequence of str
        What the class scores stand for, in order.
    widths : sequence of int
        Channels at 32 x 32, 16 x 16 and 8 x 8.
    n_features : int
        Width of the penultimate features.

    Examples
    --------
    >>> import torch
    >>> model = TinyEval(["car", "cup"], ["red"], ["beach"], widths=(4, 4, 4), n_features=8).eval()
    >>> answer = model(torch.zeros(5, 3, 64, 64))
    >>> answer["category"].shape, answer["position"].shape
    (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        categories: list[str],
        colours: list[str],
        places: list[str],
        widths: tuple[int, int, int] = (24, 64, 128),
        n_features: int = 256,
    ) -> None:
        super().__init__()
        self.categories, self.colours, self.places = list(categories), list(colours), list(places)
        self.widths, self.n_features = tuple(widths), n_features
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.body = nn.Sequential(
            _Residual(widths[0], widths[1], 2),
            _Residual(widths[1], widths[1], 1),
            _Residual(widths[1], widths[2], 2),
            _Residual(widths[2], widths[2], 1),
        )
        self.squeeze = nn.Conv2d(widths[2], 32, 1)
        self.penultimate = nn.Linear(32 * 8 * 8, n_features)
        self.heads = nn.ModuleDict(
            {
                "category": nn.Linear(n_features, len(categories)),
                "colour": nn.Linear(n_features, len(colours)),
                "place": nn.Linear(n_features, len(places)),
                "position": nn.Linear(n_features, 2),
                "size": nn.Linear(n_features, 1),
            }
        )

    def config(self) -> dict[str, object]:
        """Return the arguments that build the same network."""
        return {
            "categories": self.categories,
            "colours": self.colours,
            "places": self.places,
            "widths": list(self.widths),
            "n_features": self.n_features,
        }

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features.

        Parameters
        ----------
        images : Tensor of shape (batch, 3, 64, 64)
            In [0, 1].

        Returns
        -------
        Tensor of shape (batch, features)
        """
        check_shape("images", images, "batch channels height width", channels=3, height=64, width=64)
        x = self.stem(images * 2 - 1)  # (batch, widths[0], 32, 32)
        x = functional.relu(self.squeeze(self.body(x)))  # (batch, 32, 8, 8)
        return functional.relu(self.penultimate(x.flatten(1)))  # (batch, features)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Describe the pictures.

        Parameters
        ----------
        images : Tensor of shape (batch, 3, 64, 64)
            In [0, 1].

        Returns
        -------
        dict
            category, colour, place: logits of shape (batch, classes); position: (batch, 2), x and y of the main object's
            centre as fractions of the image; size: (batch,), side of its box as a fraction of the image.
        """
        x = self.features(images)
        answers = {name: head(x) for name, head in self.heads.items()}
        answers["position"] = 0.5 + 0.25 * answers["position"]
        answers["size"] = 0.5 + 0.1 * answers["size"].squeeze(1)
        return answers


def load_tiny_eval(path: str | Path | None = None) -> TinyEval:
    """Load tiny-eval, ready to score.

    Parameters
    ----------
    path : str or Path, optional
        Folder with `model.safetensors` and `config.json`; the package's own by default.

    Returns
    -------
    TinyEval
        In evaluation mode, in float32, without gradients.
    """
    if path is None:
        with as_file(files("braindecode_suite") / "assets" / "tiny-eval") as folder:
            return _load(folder)
    return _load(Path(path))


def _load(folder: Path) -> TinyEval:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise MissingWeights(
                folder / name, expected="a file of tiny-eval", found="nothing", hint="reinstall the package"
            )
    model = TinyEval(**json.loads((folder / CONFIG).read_text()))
    state = load_file(folder / WEIGHTS)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False)
