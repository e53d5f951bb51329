"""Datasets: a folder on disk in, one `Study` a subject out; and the protocols that split them."""

from braindecode_suite.core.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "simulated-nsd": "braindecode_suite.datasets.simulated_nsd:SIMULATED_NSD",
        "simulated-meg": "braindecode_suite.datasets.simulated_meg:SIMULATED_MEG",
        "nsd": "braindecode_suite.datasets.nsd:NSD",
        "digits69": "braindecode_suite.datasets.digits69:DIGITS69",
        "bold5000": "braindecode_suite.datasets.bold5000:BOLD5000_DATASET",
        "god": "braindecode_suite.datasets.god:GOD_DATASET",
        "algonauts2023": "braindecode_suite.datasets.algonauts2023:ALGONAUTS2023",
        "things-fmri": "braindecode_suite.datasets.things_fmri:THINGS_FMRI",
        "things-meg": "braindecode_suite.datasets.things_meg:THINGS_MEG",
        "things-eeg2": "braindecode_suite.datasets.things_eeg2:THINGS_EEG2",
        "haxby": "braindecode_suite.datasets.haxby:HAXBY",
        "bonner81": "braindecode_suite.datasets.bonner81:BONNER81",
        "kriegeskorte92": "braindecode_suite.datasets.kriegeskorte92:KRIEGESKORTE92",
        "parcels": "braindecode_suite.datasets.parcels:PARCELS",
        "table": "braindecode_suite.datasets.table:TABLE",
        "bids-fmri": "braindecode_suite.datasets.bids_fmri:BIDS_FMRI",
        "bids-meg": "braindecode_suite.datasets.bids_meg:BIDS_MEG",
    },
)

PROTOCOLS = Registry(
    "protocol",
    {
        "nsd-shared1000": "braindecode_suite.datasets.protocols:nsd_shared1000",
        "nsd-982": "braindecode_suite.datasets.protocols:nsd_982",
        "nsd-shared515": "braindecode_suite.datasets.protocols:nsd_shared515",
        "nsd-cluster-disjoint": "braindecode_suite.datasets.protocols:nsd_cluster_disjoint",
        "bold5000-repeats": "braindecode_suite.datasets.protocols_releases:bold5000_repeats",
        "god-test50": "braindecode_suite.datasets.protocols_releases:god_test50",
        "god-imagery": "braindecode_suite.datasets.protocols_releases:god_imagery",
        "algonauts2023": "braindecode_suite.datasets.protocols_releases:algonauts2023",
        "things-fmri-zero-shot": "braindecode_suite.datasets.protocols_releases:things_fmri_zero_shot",
        "things-meg-zero-shot": "braindecode_suite.datasets.protocols_meg:things_meg_zero_shot",
        "things-meg-original": "braindecode_suite.datasets.protocols_meg:things_meg_original",
        "things-fmri-original": "braindecode_suite.datasets.protocols_releases:things_fmri_original",
        "things-eeg2-200way": "braindecode_suite.datasets.protocols_eeg:things_eeg2_200way",
        "digits69-10x10fold": "braindecode_suite.datasets.digits69:ten_by_ten_fold",
        "digits69-published": "braindecode_suite.datasets.digits69:published_split",
        "random-by-image": "braindecode_suite.datasets.protocols:random_by_image",
        "leave-one-run-out": "braindecode_suite.datasets.protocols:leave_one_run_out",
        "leave-one-session-out": "braindecode_suite.datasets.protocols:leave_one_session_out",
        "leave-one-run-out-new-images": "braindecode_suite.datasets.protocols:leave_one_run_out_new_images",
        "leave-one-session-out-new-images": "braindecode_suite.datasets.protocols:leave_one_session_out_new_images",
        "leave-one-subject-out": "braindecode_suite.datasets.protocols:leave_one_subject_out",
        "concept-disjoint": "braindecode_suite.datasets.protocols:concept_disjoint",
        "cluster-disjoint": "braindecode_suite.datasets.protocols:cluster_disjoint",
        "9-fold-by-category": "braindecode_suite.datasets.protocols_categories:nine_fold_by_category",
        "loo-centred": "braindecode_suite.datasets.protocols_categories:loo_centred",
        "table-default": "braindecode_suite.datasets.protocols:table_default",
        "as-given": "braindecode_suite.datasets.protocols:as_given",
    },
)
