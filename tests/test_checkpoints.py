"""Model folders: what they hold, what they refuse, and that a save never leaves half a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError
from braindecode_suite.core.features import Grid
from braindecode_suite.core.protocols import FitContext
from braindecode_suite.core.recipe import Recipe, ZScore
from braindecode_suite.core.spaces import UnitSpace
from braindecode_suite.core.study import Cohort, Study
from braindecode_suite.learning.checkpoints import (
    SavedModel,
    check_cohort,
    check_targets,
    describe_fit,
    load_model,
    open_model,
    recipe_tensors,
    save_model,
)
from braindecode_suite.learning.synthetic import TableFeatures, TableTarget, make_latents, make_study


@pytest.fixture
def target() -> TableTarget:
    return TableTarget("clip/test", make_latents(12, 2, 3))


@pytest.fixture
def study(target: TableTarget) -> Study:
    return make_study(target.latents, n_units=6)


def model_of(study: Study, target: TableTarget, seed: int = 0, name: str = "ridge") -> SavedModel:
    facts = describe_fit(Cohort.of(study), {"retrieval": target}, "abc123")
    adapters = {study.subject: {"coef": torch.arange(6.0), **recipe_tensors(Cohort.of(study))[study.subject]}}
    shared = {"w": torch.full((2, 3), float(seed))}
    return SavedModel(name=name, seed=seed, config={"a": 1}, facts=facts, shared=shared, adapters=adapters)


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path, study: Study, target: TableTarget) -> None:
    saved = model_of(study, target)
    save_model(tmp_path, saved, {"text": "# A card\n"})
    found = load_model(tmp_path, "ridge")
    assert (found.name, found.seed, found.config) == ("ridge", 0, {"a": 1})
    assert found.facts == json.loads(json.dumps(saved.facts))
    assert torch.equal(found.shared["w"], saved.shared["w"])
    assert torch.equal(found.adapters["01"]["coef"], torch.arange(6.0))
    assert (tmp_path / "README.md").read_text() == "# A card\n"


def test_the_config_says_what_the_model_must_match(tmp_path: Path, study: Study, target: TableTarget) -> None:
    study = study.prepared(Recipe((ZScore(),)), np.arange(36))
    assert study.recipe is not None
    save_model(tmp_path, model_of(study, target))
    facts = json.loads((tmp_path / "config.json").read_text())["models"]["ridge_seed-0"]["facts"]
    assert facts["dataset"] == "synthetic"
    assert facts["subjects"] == ["01"]
    assert facts["spaces"] == [study.space.describe()]
    assert facts["recipes"] == [study.recipe.hash]
    assert facts["targets"] == {"retrieval": {"name": "clip/test", "tokens": 2, "width": 3}}
    assert facts["split_hash"] == "abc123"


def test_the_statistics_of_the_preprocessing_are_kept(
    tmp_path: Path, study: Study, target: TableTarget
) -> None:
    study = study.prepared(Recipe((ZScore(),)), np.arange(36))
    save_model(tmp_path, model_of(study, target))
    kept = load_model(tmp_path, "ridge").adapters["01"]
    assert study.recipe is not None
    for name, values in study.recipe.state().items():
        np.testing.assert_array_equal(kept[f"recipe.{name}"].numpy(), values)


def test_subjects_lie_in_files_of_their_own(tmp_path: Path, study: Study, target: TableTarget) -> None:
    save_model(tmp_path, model_of(study, target))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "ridge_seed-0.safetensors", "ridge_seed-0_sub-01.safetensors"}


def test_a_folder_holds_several_models_and_seeds(tmp_path: Path, study: Study, target: TableTarget) -> None:
    for seed, name in [(0, "ridge"), (0, "mindeye"), (1, "mindeye")]:
        save_model(tmp_path, model_of(study, target, seed, name))
    assert load_model(tmp_path, "ridge").seed == 0
    assert float(load_model(tmp_path, "mindeye", seed=1).shared["w"][0, 0]) == 1
    with pytest.raises(
        InputError, match=r"expected one 'mindeye' model; found mindeye_seed-0, mindeye_seed-1 \(say which"
    ):
        load_model(tmp_path, "mindeye")
    with pytest.raises(
        InputError, match="expected one 'mindeye' model of seed 5; found ridge_seed-0, mindeye_seed-0"
    ):
        load_model(tmp_path, "mindeye", seed=5)


def test_a_failed_save_leaves_the_earlier_model_usable(
    tmp_path: Path, study: Study, target: TableTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path, model_of(study, target))
    broken = replace(model_of(study, target), shared={"w": torch.zeros(1)}, config={"a": object()})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        save_model(tmp_path, broken)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tensors_of_another_save_are_noticed(tmp_path: Path, study: Study, target: TableTarget) -> None:
    save_model(tmp_path / "a", model_of(study, target))
    save_model(tmp_path / "b", model_of(study, target))
    name = "ridge_seed-0.safetensors"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(InputError, match=r"ridge_seed-0\.safetensors: expected the tensors of config\.json"):
        load_model(tmp_path / "a", "ridge")


def test_damaged_files_are_named(tmp_path: Path, study: Study, target: TableTarget) -> None:
    save_model(tmp_path, model_of(study, target))
    path = tmp_path / "ridge_seed-0_sub-01.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=r"sub-01.safetensors: expected a whole safetensors file"):
        load_model(tmp_path, "ridge")
    path.unlink()
    with pytest.raises(
        InputError, match=r"sub-01.safetensors: expected a safetensors file that config.json names"
    ):
        load_model(tmp_path, "ridge")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "expected JSON"), ("[]", "found 'list'"), ("{}", "found None")]
)
def test_another_config_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path, "ridge")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a saved model's config.json; found nothing there"):
        load_model(tmp_path, "ridge")


def test_data_of_another_kind_is_refused_naming_both_sides(study: Study, target: TableTarget) -> None:
    facts = describe_fit(Cohort.of(study), {"retrieval": target}, "")
    check_cohort(facts, Cohort.of(study), "model")
    with pytest.raises(InputError, match="model: expected dataset = 'synthetic'; found dataset = 'nsd'"):
        check_cohort(facts, Cohort.of(replace(study, dataset="nsd")), "model")
    with pytest.raises(InputError, match=r"expected subjects = \['01'\]; found subjects = \['02'\]"):
        check_cohort(facts, Cohort.of(replace(study, subject="02")), "model")
    with pytest.raises(InputError, match=r"expected sub-01 with space .*'voxel'.*; found space .*'channel'"):
        check_cohort(facts, Cohort.of(replace(study, space=UnitSpace(6, unit="channel"))), "model")
    with pytest.raises(InputError, match=r"expected sub-01 with recipe None; found recipe '\w+'"):
        check_cohort(facts, Cohort.of(study.prepared(Recipe((ZScore(),)), np.arange(36))), "model")


def test_a_cohort_of_some_of_the_subjects_is_accepted(study: Study, target: TableTarget) -> None:
    second = make_study(target.latents, n_units=9, subject="02")
    rows = np.arange(36)
    facts = describe_fit(Cohort((study, second), (rows, rows)), {"retrieval": target}, "")
    check_cohort(facts, Cohort.of(second), "model")
    swapped = replace(second, subject="01")
    with pytest.raises(InputError, match=r"expected sub-01 with space .*'n_units': 6.*'n_units': 9"):
        check_cohort(facts, Cohort.of(swapped), "model")


def test_another_target_is_refused_naming_both_sides(study: Study, target: TableTarget) -> None:
    facts = describe_fit(Cohort.of(study), {"retrieval": target}, "")
    other = TableTarget("clip/other", target.latents)
    check_targets(facts, {"retrieval": target}, "model")
    with pytest.raises(
        InputError, match="expected target of role 'retrieval': 'clip/test'; found 'clip/other'"
    ):
        check_targets(facts, {"retrieval": other}, "model")
    with pytest.raises(InputError, match="expected target of role 'init': None; found 'clip/test'"):
        check_targets(facts, {"init": target}, "model")


class Settings(Config):
    """Of an encoder."""

    width: int = 3


def fitted(study: Study, target: TableTarget, folder: Path) -> SavedModel:
    cohort = Cohort.of(study)
    return SavedModel.of(
        "ridge",
        Settings(width=5),
        FitContext(work_dir=folder, seed=7),
        describe_fit(cohort, {"retrieval": target}, "abc123"),
        adapters={"01": {"coef": torch.arange(6.0)}},
        recipes=recipe_tensors(cohort),
    )


def test_what_an_encoder_hands_over_comes_back_with_its_config_seed_split_and_preprocessing(
    tmp_path: Path, study: Study, target: TableTarget
) -> None:
    study = study.prepared(Recipe((ZScore(),)), np.arange(36))
    save_model(tmp_path, fitted(study, target, tmp_path / "work"))
    saved = open_model(tmp_path, "ridge", cohort=Cohort.of(study), targets={"retrieval": target})
    assert saved.read_config(Settings, tmp_path) == Settings(width=5)
    context = saved.context(tmp_path, "cuda")
    assert (context.work_dir, context.seed, context.device, context.split_hash) == (
        tmp_path,
        7,
        "cuda",
        "abc123",
    )
    assert list(saved.recipes) == ["01"]
    kept = saved.recipes["01"]
    assert study.recipe is not None
    assert set(kept) == {f"recipe.{name}" for name in study.recipe.state()}
    assert torch.equal(saved.adapters["01"]["coef"], torch.arange(6.0))
    again = SavedModel.of(
        "ridge",
        Settings(width=5),
        context,
        saved.facts,
        adapters={"01": {"coef": torch.arange(6.0)}},
        recipes=saved.recipes,
    )
    assert again.adapters["01"].keys() == saved.adapters["01"].keys()
    assert (again.config, again.facts, again.shared) == (saved.config, saved.facts, saved.shared)


def test_a_config_of_another_version_is_refused_naming_the_file(
    tmp_path: Path, study: Study, target: TableTarget
) -> None:
    class Newer(Config):
        depth: int = 1

    saved = fitted(study, target, tmp_path)
    with pytest.raises(InputError, match=r"config\.json: expected a known config key; found 'width'"):
        saved.read_config(Newer, tmp_path)


def test_a_model_is_opened_for_its_own_data_targets_and_features_alone(
    tmp_path: Path, study: Study, target: TableTarget
) -> None:
    save_model(tmp_path, fitted(study, target, tmp_path))
    assert open_model(tmp_path, "ridge", seed=7).seed == 7
    with pytest.raises(InputError, match=r"expected subjects = \['01'\]; found subjects = \['02'\]"):
        open_model(tmp_path, "ridge", cohort=Cohort.of(replace(study, subject="02")))
    other = TableTarget("clip/other", target.latents)
    with pytest.raises(InputError, match="role 'retrieval': 'clip/test'; found 'clip/other'"):
        open_model(tmp_path, "ridge", targets={"retrieval": other})
    source = TableFeatures("layer-9", np.zeros((12, 1, 2), np.float16), Grid(0, 0, has_cls=True))
    with pytest.raises(InputError, match="expected features retrieval; found 'layer-9'"):
        open_model(tmp_path, "ridge", sources=[source])
