"""The simulated study: its files, its voxels, its noise, and an oracle that scores what a closed form says."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage, stats

from braindecode_suite.core.errors import InputError
from braindecode_suite.core.files import data_hash
from braindecode_suite.datasets import simulate_nsd
from braindecode_suite.datasets.protocols import nsd_shared1000
from braindecode_suite.datasets.simulate_anatomy import LABELS, make_anatomy
from braindecode_suite.datasets.simulate_nsd import describe_study, draw_design, run_lengths
from braindecode_suite.datasets.simulate_oracle import Oracle
from braindecode_suite.datasets.simulate_parameters import (
    KINDS,
    REGIONS,
    SIZES,
    STRUCTURES,
    SimulationOptions,
    SimulationParameters,
    VoxelParameters,
    parameter_sources,
)
from braindecode_suite.datasets.simulate_pictures import Album, picture
from braindecode_suite.datasets.simulate_scenes import (
    CATEGORIES,
    Scene,
    SceneObject,
    draw_scene,
    main_object,
    render,
)
from braindecode_suite.datasets.simulate_voxels import (
    Population,
    SignalModel,
    category_response,
    draw_population,
    object_table,
    picture_maps,
    prf_weights,
    retinotopic_response,
)
from braindecode_suite.datasets.simulated_nsd import SIMULATED_NSD

PARAMETERS = VoxelParameters()
DATASETS = Path(simulate_nsd.__file__).parent


def a_population(kind: str, n: int = 40, category: int = -1, seed: int = 0) -> Population:
    rng = np.random.default_rng(seed)
    return draw_population(
        np.full(n, kind),
        np.full(n, "V1"),
        np.full(n, category),
        PARAMETERS.model_copy(update={"selective_own": 1.0}),
        rng,
    )


def an_object(category: str, **changes) -> SceneObject:
    plain = SceneObject(category, "red", x=0.3, y=0.6, size=0.5, pose=5.0)
    return replace(plain, **changes)


# --- what voxels respond to


CHANGES = [{"size": 0.42}, {"colour": "blue"}, {"pose": -15.0}]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_category_voxel_carries_the_attributes_of_its_object_only(change, first):
    def respond(own: SceneObject, other: SceneObject) -> np.ndarray:
        objects = (own, other) if first else (other, own)  # drawn first or second, large or small
        return category_response(object_table([Scene("beach", objects, 1)]), voxels, PARAMETERS)

    voxels = a_population("category", category=CATEGORIES.index("face"))
    own, other = ({"size": 0.5}, {"size": 0.2}) if first else ({"size": 0.2}, {"size": 0.5})
    reference = respond(an_object("face", **own), an_object("car", **other))
    assert (
        np.abs(respond(an_object("face", **own | change), an_object("car", **other)) - reference).max() > 0.1
    )
    assert_allclose(respond(an_object("face", **own), an_object("car", **other | change)), reference)


def test_a_category_voxel_does_not_know_where_its_object_lies():
    voxels = a_population("category", category=CATEGORIES.index("face"))
    tables = [
        object_table([Scene("beach", (an_object("face", x=x, y=y),), 1)])
        for x, y in ((0.3, 0.3), (0.7, 0.65))
    ]
    assert_allclose(*(category_response(table, voxels, PARAMETERS) for table in tables))


def test_a_category_voxel_is_silent_without_its_object():
    voxels = a_population("category", category=CATEGORIES.index("face"))
    assert not category_response(
        object_table([Scene("snow", (an_object("car"),), 1)]), voxels, PARAMETERS
    ).any()


def test_the_category_response_is_the_formula_of_its_docstring():
    voxels = a_population("category", n=1, category=CATEGORIES.index("cup"), seed=3)
    seen = an_object("cup", size=0.44, colour="red", pose=-3.0)
    (size, hue, pose), weights = voxels.preferred[0], voxels.attribute_weights[0]
    red = 2 * np.pi * 0.993127  # hue of (222, 28, 36): 357.5 degrees
    tuned = [
        stats.norm.pdf((np.log2(0.44) - size) / 0.5) / stats.norm.pdf(0),
        np.exp(2.0 * (np.cos(red - hue) - 1)),
        stats.norm.pdf((-3.0 - pose) / 12.0) / stats.norm.pdf(0),
    ]
    found = category_response(object_table([Scene("reef", (seen,), 4)]), voxels, PARAMETERS)
    assert found[0, 0] == pytest.approx(1.0 + 1.5 * np.dot(weights, tuned), rel=1e-3)


def grating(orientation: float, cycles: float, side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    wave = np.cos(2 * np.pi * cycles * (x * np.cos(orientation) + y * np.sin(orientation)))
    return np.repeat((127.5 + 100 * wave).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("j", range(3))
def test_the_gabor_map_of_a_gratings_orientation_and_frequency_answers_most(k, j):
    maps = picture_maps(grating(k * np.pi / 4, PARAMETERS.frequencies[j])[None], PARAMETERS)[0]
    assert maps[:12].mean(1).argmax() == j * 4 + k


def test_gabor_energy_does_not_depend_on_the_phase():
    shifted = np.roll(grating(0.0, 8.0), 3, axis=1)
    first, second = picture_maps(np.stack([grating(0.0, 8.0), shifted]), PARAMETERS)
    assert_allclose(first[4], second[4], rtol=0.02)


def test_colour_maps_answer_to_their_own_colour_where_it_is():
    picture = np.full((64, 64, 3), 128, np.uint8)
    picture[:16, 48:] = 255, 0, 0  # upper right
    maps = picture_maps(picture[None], PARAMETERS)[0].reshape(17, 16, 16)
    red = maps[13]
    assert red[:4, 12:].min() > 0.99
    assert red.sum() == pytest.approx(16.0, rel=1e-3)
    assert not maps[14].any()  # green


def test_a_receptive_field_pools_around_its_centre():
    fields = prf_weights(np.array([[0.75, 0.25, 0.05]], np.float32), 16)
    assert fields.sum() == pytest.approx(1.0, abs=1e-5)
    y, x = np.unravel_index(fields[0].argmax(), (16, 16))
    assert (x, y) in {(11, 3), (12, 4), (11, 4), (12, 3)}


def test_a_retinotopic_response_is_the_sum_of_its_formula():
    rng = np.random.default_rng(1)
    maps = rng.gamma(1.0, size=(3, 17, 256)).astype(np.float32)
    scale = rng.uniform(1, 2, 17).astype(np.float32)
    voxels = a_population("retinotopic", n=4)
    fields = prf_weights(voxels.prf, 16)
    expected = [
        [sum(voxels.channels[v, c] * fields[v] @ m[c] / scale[c] for c in range(17)) ** 0.5 for v in range(4)]
        for m in maps
    ]
    assert_allclose(retinotopic_response(maps, voxels, PARAMETERS, scale), expected, rtol=1e-4)


def test_a_retinotopic_voxel_sees_only_its_part_of_the_picture():
    voxels = a_population("retinotopic", n=1)
    voxels.prf[0] = 0.2, 0.2, 0.04
    picture = np.asarray(render(draw_scene(2_000_001)))
    changed = picture.copy()
    changed[40:, 40:] = 255 - changed[40:, 40:]
    near = picture.copy()
    near[:24, :24] = grating(0.0, 8.0)[:24, :24]
    maps = picture_maps(np.stack([picture, changed, near]), PARAMETERS)
    responses = retinotopic_response(maps, voxels, PARAMETERS, np.ones(17, np.float32))[:, 0]
    assert abs(responses[1] / responses[0] - 1) < 0.02
    assert abs(responses[2] / responses[0] - 1) > 0.05


def test_signals_have_mean_zero_and_deviation_one_over_the_reference():
    scenes = [draw_scene(2_900_000 + k) for k in range(120)]
    maps = picture_maps(np.stack([render(s) for s in scenes]), PARAMETERS)
    kind = np.array([KINDS[k % 4] for k in range(24)])
    rng = np.random.default_rng(0)
    model = SignalModel(
        draw_population(kind, np.full(24, "other"), np.full(24, -1), PARAMETERS, rng),
        PARAMETERS,
        scenes,
        maps,
    )
    signal = model.responses(scenes, maps)
    assert_allclose(signal.mean(0), 0, atol=1e-4)
    varies = signal.std(0) > 0.5  # a category that never occurred has no signal
    assert_allclose(signal.std(0)[varies], 1, atol=1e-3)
    assert varies.sum() > 20


@pytest.mark.parametrize("structure", ["linear", "mixed", "routed"])
def test_a_structure_has_the_kinds_of_voxel_it_names(structure):
    parameters = SimulationParameters(options=SimulationOptions(size="seconds", structure=structure))
    reference = picture([draw_scene(2_900_000 + k) for k in range(20)], Album(64), parameters.voxels)
    anatomy = make_anatomy((12, 14, 10), 300, PARAMETERS.stream_shares)
    model = simulate_nsd._signal_model(anatomy, parameters, np.random.default_rng(0), reference)
    share = {kind: np.mean(model.population.kind == kind) for kind in KINDS}
    if structure == "linear":
        assert share["retinotopic"] == 1
    elif structure == "routed":
        assert share["category"] > 0.8
    else:
        assert all(share[kind] > 0.02 for kind in KINDS)
        faces = model.population.category[anatomy.region == "floc-faces"]
        assert np.mean(faces == CATEGORIES.index("face")) > 0.6


# --- where voxels lie


def test_every_region_is_one_patch_a_side():
    anatomy = make_anatomy((20, 24, 16), 2000, PARAMETERS.stream_shares)
    for file, labels in LABELS.items():
        for value, name in enumerate(labels, start=1):
            region = anatomy.volumes[file] == value
            assert region.any(), name
            for side in (np.s_[:10], np.s_[10:]):
                pieces, n = ndimage.label(region[side], np.ones((3, 3, 3)))
                largest = np.bincount(pieces.ravel())[1:].max()
                assert largest >= 0.7 * region[side].sum(), (name, n)


def test_streams_have_the_shares_they_were_given():
    anatomy = make_anatomy((20, 24, 16), 2000, PARAMETERS.stream_shares)
    assert anatomy.general.sum() == 2000
    for stream, share in PARAMETERS.stream_shares.items():
        assert np.mean(anatomy.stream == stream) == pytest.approx(share, abs=0.01)


def test_more_voxels_than_the_brain_has_are_refused():
    with pytest.raises(InputError, match=r"`voxels`: expected at most the brain's \d+; found 5000"):
        make_anatomy((12, 12, 12), 5000, PARAMETERS.stream_shares)


# --- the design and the files


def test_nsds_own_sizes_give_nsds_own_design():
    size = SIZES["nsd"]
    assert size.n_stimuli == 73_000
    design = draw_design(size, seed=0)
    assert len(design.order) == 30_000
    assert set(np.bincount(design.order)) == {3}
    assert len(np.unique(design.images)) == 73_000
    assert run_lengths(750, 12) == [63, 62] * 6


def test_the_study_folder_has_the_releases_files(simulated_folder):
    with h5py.File(simulated_folder / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5", "r") as file:
        assert file["imgBrick"].shape == (280, 64, 64, 3)
        assert file["imgBrick"].dtype == np.uint8
    betas = simulated_folder / "nsddata_betas/ppdata/subj02/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    with h5py.File(betas / "betas_session01.hdf5", "r") as file:
        dataset = file["betas"]
        assert (dataset.shape, dataset.dtype) == ((60, 10, 14, 12), np.int16)
        assert (dataset.chunks, dataset.compression) == ((60, 1, 1, 1), None)
        volume = nib.load(betas / "betas_session01.nii.gz")
        assert volume.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asarray(volume.dataobj), dataset[:].transpose(3, 2, 1, 0))
    info = pd.read_csv(simulated_folder / "nsddata/experiments/nsd/nsd_stim_info_merged.csv", index_col=0)
    behaviour = pd.read_csv(simulated_folder / "nsddata/ppdata/subj02/behav/responses.tsv", sep="\t")
    assert info["shared1000"].sum() == 40
    for repeat in range(3):
        shown = info[f"subject2_rep{repeat}"]
        times = shown[shown > 0]
        np.testing.assert_array_equal(behaviour["73KID"].to_numpy()[times - 1] - 1, times.index)


def test_what_was_written_is_kept_and_nothing_else_overwritten(simulated_folder, tmp_path):
    card = simulated_folder / "simulation" / "parameters.json"
    before = card.stat().st_mtime_ns
    SIMULATED_NSD.write(simulated_folder, size="seconds", formats=["hdf5", "nii.gz"])
    assert card.stat().st_mtime_ns == before
    with pytest.raises(
        InputError, match=r"parameters\.json: expected the simulated study asked for.*other parameters"
    ):
        SIMULATED_NSD.write(simulated_folder, size="seconds", formats=["hdf5", "nii.gz"], ncsnr=0.26)
    (tmp_path / "nsddata" / "experiments").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"expected an empty folder; found recordings that were not simulated here"
    ):
        SIMULATED_NSD.write(tmp_path, size="seconds")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": "huge"}, r"options of simulated-nsd: expected size: .*; found 'huge'"),
        ({"noise": 0.4}, r"options of simulated-nsd: expected a known config key; found 'noise'"),
        ({"ncsnr": -1}, r"options of simulated-nsd: expected ncsnr: .*greater than 0; found -1"),
        ({"subjects": 9}, r"`subjects`: expected at most 3; found 9"),
    ],
)
def test_unknown_options_are_refused(tmp_path, options, match):
    with pytest.raises(InputError, match=match):
        SIMULATED_NSD.write(tmp_path, **options)


def test_the_same_seed_writes_the_same_betas_and_another_others(simulated_folder, tmp_path):
    name = Path("nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR/betas_session01.hdf5")
    with h5py.File(simulated_folder / name, "r") as file:
        before = file["betas"][:]
    for seed in (0, 1):
        SIMULATED_NSD.write(tmp_path / str(seed), size="seconds", seed=seed)
        with h5py.File(tmp_path / str(seed) / name, "r") as file:
            assert np.array_equal(file["betas"][:], before) == (seed == 0)


def test_attributes_captions_and_distractors_belong_to_the_images(simulated_folder, tmp_path):
    stimuli = SIMULATED_NSD.open(simulated_folder, "01", tmp_path).stimuli
    split = nsd_shared1000([SIMULATED_NSD.open(simulated_folder, "01", tmp_path)])[0]
    tests = sorted(split.keys("test", "stimulus"))
    for stimulus_id in tests[:6]:
        row = stimuli.attributes.loc[stimulus_id]
        scene = draw_scene(int(row["seed"]))
        np.testing.assert_array_equal(stimuli.images([stimulus_id])[0], render(scene, 64))
        main = scene.objects[main_object(scene)]
        assert (row["category"], row["colour"], row["place"]) == (main.category, main.colour, scene.place)
        assert all(main.category in text for text in stimuli.captions(stimulus_id))
        others = stimuli.distractors(stimulus_id)
        assert others.shape == (5, 64, 64, 3)
        assert not (others == stimuli.images([stimulus_id])).all((1, 2, 3)).any()
    matched = pd.read_csv(
        simulated_folder / "simulation" / "distractors.tsv", sep="\t", dtype={"stimulus_id": str}
    )
    truth = stimuli.attributes.loc[matched["stimulus_id"]]
    assert (matched["category"].to_numpy() == truth["category"].to_numpy()).all()
    assert (matched["place"].to_numpy() == truth["place"].to_numpy()).all()
    assert stimuli.distractors(next(iter(split.keys("train", "stimulus")))) is None


def test_the_released_ncsnr_is_what_the_release_would_estimate(simulated_folder, tmp_path):
    study = SIMULATED_NSD.open(simulated_folder, "01", tmp_path)
    betas = study.read(slice(None)).astype(np.float64)
    for session in range(1, 7):
        rows = study.trials["session"].to_numpy() == session
        betas[rows] = stats.zscore(betas[rows])
    frame = pd.DataFrame(betas).groupby(study.stimulus_ids)
    noise = frame.var(ddof=1).mean().to_numpy()  # every image was seen three times
    expected = np.sqrt(np.maximum(1 - noise, 0) / noise)
    assert_allclose(study.noise.ncsnr, expected, atol=2e-3)


def test_the_estimated_ncsnr_follows_the_true_one(simulated_folder, tmp_path):
    study = SIMULATED_NSD.open(simulated_folder, "01", tmp_path)
    with h5py.File(simulated_folder / "simulation" / "subj01_truth.hdf5", "r") as file:
        truth = file["ncsnr"][:]
    assert np.median(truth) == pytest.approx(0.40, abs=0.05)
    assert stats.spearmanr(study.noise.ncsnr, truth).statistic > 0.6


def test_every_parameter_names_its_source():
    for name, text in parameter_sources().items():
        assert any(word in text for word in ("NSD", "et al.", "ur choice", "Grill-Spector", "Heeger")), name


def test_parameters_are_frozen_and_shares_add_up():
    parameters = SimulationParameters()
    with pytest.raises(ValueError, match="frozen"):
        parameters.noise.shared_share = 0.5
    assert sum(PARAMETERS.stream_shares.values()) == pytest.approx(1)
    for structure in STRUCTURES:
        chosen = SimulationParameters(options=SimulationOptions(structure=structure))
        for region in REGIONS:
            assert sum(chosen.kind_shares(region).values()) == pytest.approx(1)
    assert json.loads(json.dumps(describe_study(parameters)))["options"]["ncsnr"] == 0.4


def test_the_simulator_imports_nothing_of_the_loader():
    for path in DATASETS.glob("simulate_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("braindecode_suite.datasets.nsd"), path.name


# --- the oracle


def an_oracle(n_images: int, n_voxels: int, rng: np.random.Generator, repeats: int):
    """An oracle and a study-like object of one session whose noise is exactly what the oracle believes."""
    signals = rng.normal(size=(n_images, n_voxels)) * 0.5
    loadings = rng.normal(size=(2, n_voxels)) * 0.4
    noise_sd = np.sqrt(1.0 + np.square(loadings).sum(0))
    ids = [str(k) for k in range(n_images)]
    oracle = Oracle(
        signal={i: k for k, i in enumerate(ids)},
        signals=signals,
        distractors={i: k for k, i in enumerate(ids)},
        distractor_signals=(rng.normal(size=(n_images, 4, n_voxels)) * 0.5).astype(np.float16),
        noise_sd=noise_sd,
        loadings=loadings,
        gain=np.full((1, n_voxels), 1.2),
        offset=rng.normal(size=(1, n_voxels)),
        mean=rng.normal(size=n_voxels),
        trial_sd=np.full(n_voxels, 2.0),
        used=np.ones(n_voxels, bool),
    )
    shown = np.repeat(np.arange(n_images), repeats)
    noise = rng.normal(size=(len(shown), n_voxels)) + rng.normal(size=(len(shown), 2)) @ loadings
    betas = oracle.mean + 2.0 * (oracle.offset[0] + 1.2 * (signals[shown] + noise))

    class Study:
        responses = betas
        trials = pd.DataFrame({"session": np.ones(len(shown), int)})
        stimulus_ids = np.array([ids[k] for k in shown], dtype=object)

    return oracle, Study


def test_the_oracles_likelihood_is_the_gaussian_density():
    oracle, study = an_oracle(5, 7, np.random.default_rng(3), repeats=2)
    ids, likelihood = oracle.log_likelihood(study, np.arange(10), ["0", "1", "2", "3", "4"])
    covariance = (
        np.diag(np.square(oracle.noise_sd) - np.square(oracle.loadings).sum(0))
        + oracle.loadings.T @ oracle.loadings
    )
    y = ((study.responses - oracle.mean) / 2.0 - oracle.offset[0]) / 1.2
    expected = np.array(
        [
            [
                sum(
                    stats.multivariate_normal.logpdf(y[2 * i + r], oracle.signals[j], covariance)
                    for r in (0, 1)
                )
                for j in range(5)
            ]
            for i in range(5)
        ]
    )
    assert ids == ["0", "1", "2", "3", "4"]
    difference = likelihood - expected
    assert_allclose(difference - difference[:, :1], 0, atol=1e-6)


def test_the_oracle_identifies_pairs_as_often_as_theory_says():
    oracle, study = an_oracle(800, 6, np.random.default_rng(8), repeats=1)
    covariance = (
        np.diag(np.square(oracle.noise_sd) - np.square(oracle.loadings).sum(0))
        + oracle.loadings.T @ oracle.loadings
    )
    delta = oracle.signals[:, None] - oracle.distractor_signals.astype(float)
    distance = np.sqrt(np.einsum("ijv,vw,ijw->ij", delta, np.linalg.inv(covariance), delta))
    expected = stats.norm.cdf(distance / 2).mean()  # probability that a likelihood ratio errs
    _, shares = oracle.identification(study, np.arange(800))
    assert shares.mean() == pytest.approx(expected, abs=0.02)


def test_no_linear_decoder_beats_the_oracle(simulated_folder, tmp_path):
    study = SIMULATED_NSD.open(simulated_folder, "02", tmp_path)
    split = nsd_shared1000([study])[0]
    oracle = SIMULATED_NSD.oracle(simulated_folder, "02")
    summary = oracle.summary(study, split.test[0])
    assert summary["gallery"] == summary["n"] == 40
    assert summary["retrieval_brain_to_image_top1"] > 0.9
    assert summary["identification_matched"] > 0.9
    first = split.test[0][study.trials["repeat"].to_numpy()[split.test[0]] == 1]
    _, single = oracle.retrieval(study, first)
    _, three = oracle.retrieval(study, split.test[0])
    assert single.mean() <= three.mean()


def test_the_oracle_ignores_constant_voxels(simulated_folder, tmp_path):
    study = SIMULATED_NSD.open(simulated_folder, "03", tmp_path)
    oracle = SIMULATED_NSD.oracle(simulated_folder, "03")
    np.testing.assert_array_equal(oracle.used, study.valid)
    _, likelihood = oracle.log_likelihood(study, np.arange(20), [str(i) for i in study.stimulus_ids[:3]])
    assert np.isfinite(likelihood).all()


def test_the_oracle_of_part_of_the_voxels_is_refused(simulated_folder, tmp_path):
    study = SIMULATED_NSD.open(simulated_folder, "01", tmp_path, roi="early")
    with pytest.raises(InputError, match=r"`responses`: expected shape \(trials, voxels=300\)"):
        SIMULATED_NSD.oracle(simulated_folder, "01").summary(study, np.arange(4))


def test_an_unfinished_study_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"parameters\.json: expected a whole simulated study; found nothing there"
    ):
        SIMULATED_NSD.open(tmp_path, "01", tmp_path)


def test_the_parameters_are_the_frozen_ones() -> None:
    """They were set from the literature; a change of one is a change of the study, with figures measured anew."""
    frozen = {name: size.model_dump(mode="json") for name, size in SIZES.items()} | {
        "parameters": SimulationParameters().model_dump(mode="json"),
        "structures": STRUCTURES,
    }
    assert data_hash(frozen) == "8b974f1f9b41694d"
