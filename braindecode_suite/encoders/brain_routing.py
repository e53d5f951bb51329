"""Brain-routing: the attention of the transformer brain encoder turned round, as a `BrainEncoder`.

Every region (or parcel, sensor, unit) of the brain becomes a token, a linear function of its own units; every token of a latent
space has a learned query that looks at the regions by what they say and which they are. What it gathers is read by the query's
own linear map. The block between tokens and readout is that of `attention-routing` (Adeli, Sun & Kriegeskorte 2025,
arXiv:2505.17329); the direction, the contrast and the presets' numbers are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from braindecode_suite.core.checks import check_match, check_option, check_subject
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import FeatureSource
from braindecode_suite.core.files import data_hash
from braindecode_suite.core.latents import ROLES, Latents, Target
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.encoders.brain_routing_config import PRESETS, BrainRoutingConfig, preset
from braindecode_suite.encoders.brain_routing_network import BrainRoutingNetwork
from braindecode_suite.encoders.brain_routing_task import BrainRoutingTask
from braindecode_suite.encoders.latent_task import TargetLatents, fit_scalers, one_subject
from braindecode_suite.encoders.mindeye_network import join_state, split_state
from braindecode_suite.learning.checkpoints import (
    SavedModel,
    check_cohort,
    describe_fit,
    open_model,
    recipe_tensors,
    save_model,
)
from braindecode_suite.learning.model_tensors import (
    add_prefix,
    restore_routes,
    restore_target_scalers,
    restore_unit_scaler,
    route_tensors,
    take_prefix,
    target_scaler_tensors,
    unit_scaler_tensors,
)
from braindecode_suite.learning.responses import UnitScaler, flatten_times, read_blocks
from braindecode_suite.learning.routes import Routes, route_units
from braindecode_suite.learning.training import train as run_training

BLOCK = 256
CHANGE_ROWS = 256
ROUTING_COLUMNS = ("role", "query", "group", "region", "units", "weight", "spread", "change")


class BrainRouting:
    """Regions to latents: learned queries of latent tokens attend to tokens of brain regions.

    All roles share tokens and attention; each has queries and readouts of its own, so that two roles of one target may differ
    (the contrast is of ``retrieval`` alone). Subjects share everything but the way from units to tokens.

    Parameters
    ----------
    config : BrainRoutingConfig
    context : FitContext

    Attributes
    ----------
    history_ : list of dict
        One row a validated epoch.
    best_epoch_, resumed_from_ : int
    network_ : BrainRoutingNetwork
    """

    config_class: ClassVar[type[BrainRoutingConfig]] = BrainRoutingConfig
    PRESETS: ClassVar[tuple[str, ...]] = tuple(PRESETS)

    def __init__(self, config: BrainRoutingConfig, context: FitContext) -> None:
        self.config, self.context = config, context
        self.history_: list[dict[str, float]] = []
        self.best_epoch_, self.resumed_from_ = 0, 0

    @classmethod
    def preset(cls, name: str) -> BrainRoutingConfig:
        """Return the config of a preset: tiny or paper."""
        return preset(name)

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        self._check_fitted()
        return sum(parameter.numel() for parameter in self.network_.parameters())

    def fit(self, train: Cohort, validation: Cohort, targets: Mapping[str, Target]) -> BrainRouting:
        """Train on training rows, keep the weights that are best on validation images.

        Raises
        ------
        InputError
            Of an unknown role, no targets, no validation rows, a space without the regions asked for.
        """
        for role in targets:
            check_option("role", role, ROLES)
        if not targets:
            raise InputError("`targets`", expected="at least one role", found="none")
        if not len(validation):
            raise InputError("`validation`", expected="validation rows to stop on", found="none")
        check_match("`validation`", {"subjects": train.subjects}, {"subjects": validation.subjects})
        facts = describe_fit(train, targets, self.context.split_hash)
        train_ids, validation_ids = list(train.stimulus_ids), list(validation.stimulus_ids)
        latents = {
            role: TargetLatents(target, train.stimuli, train_ids, validation_ids)
            for role, target in targets.items()
        }
        flat = Cohort(tuple(flatten_times(study)[0] for study in train.studies), train.rows)
        self._scalers = fit_scalers(flat, weight_by_signal=self.config.weight_by_signal)
        self._target_scalers = {role: latent.scaler for role, latent in latents.items()}
        self._routes = [self._route(*pair) for pair in zip(train.studies, self._scalers, strict=True)]
        network = self._build({role: (target.tokens, target.width) for role, target in targets.items()})
        task = BrainRoutingTask(
            network.to(self.context.device),
            self.config,
            flat,
            Cohort(flat.studies, validation.rows),
            latents,
            self._scalers,
            self.context.device,
        )
        rows = data_hash(
            *[np.asarray(r, np.int64) for r in (*train.rows, *validation.rows)], train_ids, validation_ids
        )
        result = run_training(
            task,
            self.config.training,
            work_dir=self.context.work_dir / "brain-routing",
            seed=self.context.seed,
            device=self.context.device,
            precision=self.context.precision,
            progress=self.context.progress,
            identity={"facts": facts, "rows": rows, "config": self.config.model_dump(mode="json")},
        )
        self.network_, self.history_ = network, result.history
        self.best_epoch_, self.resumed_from_ = result.best_epoch, result.resumed_from
        self.facts_ = facts | {
            "regions": {s: list(of.names) for s, of in zip(train.subjects, self._routes, strict=True)},
            "queries": {
                role: [list(pair) for pair in name_tokens(target)] for role, target in targets.items()
            },
            "history": result.history,
            "best_epoch": result.best_epoch,
        }
        self._recipes = recipe_tensors(train)
        return self

    def _route(self, study: Study, scaler: UnitScaler) -> Routes:
        config, shape = self.config, study.responses.shape
        return route_units(
            study.space,
            int(shape[2]) if len(shape) == 3 else 1,
            queries=config.tokens,
            rois=config.rois,
            overlap=config.overlap,
            rest=config.rest,
            hemispheres=config.hemispheres,
            alive=scaler.gain > 0,
            option="tokens",
        )

    def _build(self, roles: Mapping[str, tuple[int, int]]) -> BrainRoutingNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.context.seed)
            return BrainRoutingNetwork(self._routes, roles, self.config)

    @torch.no_grad()
    def predict(self, cohort: Cohort, seed: int = 0) -> dict[str, Latents]:
        """Return one row of latents for each row of the cohort, in order, for every role it was fitted to."""
        self._check_fitted()
        check_cohort(self.facts_, cohort, "cohort")
        network, device = self.network_.to(self.context.device).eval(), self.context.device
        parts: dict[str, list[np.ndarray]] = {role: [] for role in self.facts_["targets"]}
        for study, rows in cohort:
            subject = self.facts_["subjects"].index(study.subject)
            for scaled in self._read(study, rows):
                outputs = network(one_subject(network.n_units, subject, scaled, device))
                for role, values in outputs.items():
                    parts[role].append(values.float().cpu().numpy())
        latents = {}
        for role, blocks in parts.items():
            target = self.facts_["targets"][role]
            shape = (0, target["tokens"], target["width"])
            values = np.concatenate(blocks) if blocks else np.empty(shape, np.float32)
            values = self._target_scalers[role].undo(values)
            latents[role] = Latents(values, cohort.stimulus_ids, target["name"], "predicted")
        return latents

    def _read(self, study: Study, rows: np.ndarray) -> Any:
        """Yield scaled responses of one subject, block by block."""
        scaler = self._scalers[self.facts_["subjects"].index(study.subject)]
        for _, block in read_blocks(flatten_times(study)[0], rows, BLOCK):
            yield scaler.apply(block)

    def region_names(self, subject: str | None = None) -> tuple[str, ...]:
        """Return the names of one subject's regions, e.g. ``lh.FFA-1``, in the order of the routing."""
        self._check_fitted()
        return tuple(self.facts_["regions"][check_subject(subject, self.facts_["regions"])])

    def query_names(self) -> tuple[tuple[str, str], ...]:
        """Return role and name of each latent query, e.g. ``('retrieval', 'row 1 column 3')``, in the order of the routing."""
        self._check_fitted()
        return tuple((role, name) for role, pairs in self.facts_["queries"].items() for name, _ in pairs)

    @torch.no_grad()
    def routing(
        self, cohort: Cohort, subject: str | None = None, *, per_head: bool = False, layer: int = -1
    ) -> np.ndarray:
        """Return the routing matrix of every row of one subject, averaged over heads.

        A weight says where a query looks, not how much of what it finds there reaches the latent: compare it with the
        ``change`` of `routing_table`, and with the weights of a model fitted on shuffled pairs.

        Parameters
        ----------
        cohort : Cohort
        subject : str, optional
            Needed where the cohort has several.
        per_head : bool
        layer : int
            Which cross-attention layer; the last by default.

        Returns
        -------
        array of float32 of shape (rows, queries, regions), or (rows, heads, queries, regions)
            Sums to 1 over regions. Named by `query_names` and `region_names`.
        """
        blocks = list(self._routing(cohort, subject, per_head, layer))
        shape = (self.config.network.heads,) if per_head else ()
        names = self.region_names(check_subject(subject, cohort.subjects))
        empty = np.empty((0, *shape, len(self.query_names()), len(names)), np.float32)
        return np.concatenate([empty, *blocks])

    def _routing(self, cohort: Cohort, subject: str | None, per_head: bool, layer: int) -> Any:
        self._check_fitted()
        check_cohort(self.facts_, cohort, "cohort")
        if not -self.config.network.n_layers <= layer < self.config.network.n_layers:
            raise InputError("`layer`", expected=f"one of {self.config.network.n_layers}", found=str(layer))
        at = cohort.subjects.index(check_subject(subject, cohort.subjects))
        study, rows = cohort.studies[at], cohort.rows[at]
        number, device = self.facts_["subjects"].index(study.subject), self.context.device
        network = self.network_.to(device).eval()
        for scaled in self._read(study, rows):
            weights = network.attention(number, torch.from_numpy(scaled.astype(np.float32)).to(device), layer)
            yield (weights if per_head else weights.mean(dim=1)).float().cpu().numpy()

    @torch.no_grad()
    def routing_table(self, cohort: Cohort, subject: str | None = None) -> pd.DataFrame:
        """Return the routing matrix averaged over rows, one row of the table a query and region.

        Returns
        -------
        DataFrame
            ``role``, ``query``, ``group`` (of queries: the pooled token, the class token, a quadrant of the image), ``region``,
            ``units`` (modelled units of the region), ``weight`` (mean over rows and heads), ``spread`` (standard deviation over
            rows), ``change`` (see `changes`).
        """
        n, total, square = 0, np.zeros(()), np.zeros(())
        for block in self._routing(cohort, subject, per_head=False, layer=-1):
            wide = block.astype(np.float64)
            n, total, square = n + len(wide), total + wide.sum(axis=0), square + np.square(wide).sum(axis=0)
        if not n:
            raise InputError("`cohort`", expected="rows to average over", found="none")
        mean = total / n
        spread = np.sqrt(np.maximum(square / n - mean**2, 0))
        subject = check_subject(subject, cohort.subjects)
        routes = self._routes[self.facts_["subjects"].index(subject)]
        queries = [(role, *pair) for role, pairs in self.facts_["queries"].items() for pair in pairs]
        regions = list(zip(routes.names, count_units(routes), strict=True))
        change = self.changes(cohort, subject)
        rows = [
            (*query, region, int(units), mean[q, r], spread[q, r], change[q, r])
            for q, query in enumerate(queries)
            for r, (region, units) in enumerate(regions)
        ]
        return pd.DataFrame(rows, columns=list(ROUTING_COLUMNS))

    @torch.no_grad()
    def changes(self, cohort: Cohort, subject: str | None = None) -> np.ndarray:
        """Return how much each query's prediction changes when it may not look at a region.

        Mean squared change over at most `CHANGE_ROWS` rows, evenly spaced, relative to the variance of the prediction over
        them. The truth is not consulted: a change may be for the better.

        Returns
        -------
        array of shape (queries, regions)
            NaN where there is one region only, or where the prediction does not vary.
        """
        self._check_fitted()
        check_cohort(self.facts_, cohort, "cohort")
        at = cohort.subjects.index(check_subject(subject, cohort.subjects))
        study, rows = cohort.studies[at], cohort.rows[at]
        if not len(rows):
            raise InputError("`cohort`", expected="rows to average over", found="none")
        some = rows[np.unique(np.linspace(0, len(rows) - 1, CHANGE_ROWS).astype(int))]
        number, device = self.facts_["subjects"].index(study.subject), self.context.device
        network = self.network_.to(device).eval()
        scaled = np.concatenate(list(self._read(study, some)))
        whole = network(one_subject(network.n_units, number, scaled, device))
        x = torch.from_numpy(scaled.astype(np.float32)).to(device)
        found = np.full((len(self.query_names()), len(self._routes[number].names)), np.nan)
        if found.shape[1] == 1:
            return found
        variance = _by_query({role: values - values.mean(dim=0) for role, values in whole.items()})
        for region in range(found.shape[1]):
            other = network.without(number, x, region)
            change = _by_query({role: values - whole[role] for role, values in other.items()})
            found[:, region] = np.divide(change, variance, out=found[:, region], where=variance > 0)
        return found

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write what subjects share, one adapter a subject, config.json and README.md."""
        self._check_fitted()
        shared, own = split_state(self.network_.state_dict(), len(self._scalers))
        parts = zip(self.facts_["subjects"], own, self._scalers, self._routes, strict=True)
        adapters = {
            subject: add_prefix("network.", tensors) | unit_scaler_tensors(scaler) | route_tensors(routes)
            for subject, tensors, scaler, routes in parts
        }
        saved = SavedModel.of(
            "brain-routing",
            self.config,
            self.context,
            self.facts_,
            adapters=adapters,
            recipes=self._recipes,
            shared=add_prefix("network.", shared) | target_scaler_tensors(self._target_scalers),
        )
        save_model(folder, saved, card)

    @classmethod
    def load(
        cls,
        folder: Path,
        cohort: Cohort | None = None,
        device: str = "cpu",
        *,
        seed: int | None = None,
        targets: Mapping[str, Target] | None = None,
    ) -> BrainRouting:
        """Read a saved model; one of other data than `cohort` or of other `targets` is an error naming both sides."""
        saved = open_model(folder, "brain-routing", seed=seed, cohort=cohort, targets=targets)
        facts = saved.facts
        model = cls(saved.read_config(BrainRoutingConfig, folder), saved.context(folder, device))
        model.facts_, model._recipes = facts, saved.recipes
        model.history_, model.best_epoch_ = facts["history"], facts["best_epoch"]
        subjects = [saved.adapters[subject] for subject in facts["subjects"]]
        model._scalers = [restore_unit_scaler(tensors, UnitScaler) for tensors in subjects]
        model._routes = [
            restore_routes(tensors, facts["regions"][subject])
            for subject, tensors in zip(facts["subjects"], subjects, strict=True)
        ]
        model._target_scalers = restore_target_scalers(saved.shared, facts["targets"])
        network = model._build({role: (t["tokens"], t["width"]) for role, t in facts["targets"].items()})
        own = [take_prefix("network.", tensors) for tensors in subjects]
        state = join_state(take_prefix("network.", saved.shared), own)
        network.load_state_dict(state)
        model.network_ = network.eval()
        return model

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise InputError(
                "brain-routing", expected="a fitted encoder", found="an unfitted one", hint="call fit"
            )


def name_tokens(target: Target) -> list[tuple[str, str]]:
    """Return name and group of each token of a target: its place on the image and its quadrant, where it has one.

    A target that does not tell its grid is taken for a square of tokens, after a class token where one is left over, if its
    number of tokens allows; else tokens are numbered.
    """
    n = target.tokens
    if n == 1:
        return [("pooled", "pooled")]
    if isinstance(target, FeatureSource):
        height, width, has_cls = target.grid.height, target.grid.width, target.grid.has_cls
    else:
        height = width = int(n**0.5)
        has_cls = height * width == n - 1
    if height * width + has_cls != n:
        return [(f"token {k + 1}", "tokens") for k in range(n)]

    def third(place: int, length: int, names: Sequence[str]) -> str:
        return names[1 + int(np.sign(2 * place + 1 - length))]

    places = [
        (
            f"row {y + 1} column {x + 1}",
            f"{third(y, height, ('upper', 'middle', 'lower'))} {third(x, width, ('left', 'middle', 'right'))}",
        )
        for y in range(height)
        for x in range(width)
    ]
    return [("class", "class")] * has_cls + places


def count_units(routes: Routes) -> np.ndarray:
    """Return the number of units that each region's token is made of, those of several regions counted in each."""
    sizes = routes.sizes
    return sizes if routes.mixing is None else (routes.mixing > 0).T @ sizes


def _by_query(differences: Mapping[str, Tensor]) -> np.ndarray:
    """Return the mean squared length of each query's differences, roles one after another."""
    lengths = [values.double().square().sum(dim=2).mean(dim=0) for values in differences.values()]
    return torch.cat(lengths).cpu().numpy()
