"""
Central lines of the library, each with a way to break it and the test that must notice.

The first three are tried by `make test`, all of them by `make soak`. A line is named by module and text, and stands in its module once.
"""

MUTATIONS = {
    "a lesion on two sides is let through": (
        "data.py",
        'crossing = _several(table, "part")',
        'crossing = _several(table, "dx")',
        "test_properties.py::test_no_split_with_a_crossing_lesion_is_taken",
    ),
    "the camera's orientation is ignored": (
        "data.py",
        "ImageOps.exif_transpose(photo, in_place=True)",
        "photo.load()",
        "test_fuzz.py::test_exif_orientation_is_applied",
    ),
    "balanced accuracy is the mean precision": (
        "evaluate.py",
        '"balanced_accuracy": np.nanmean(recall, axis=0)',
        '"balanced_accuracy": np.nanmean(precision, axis=0)',
        "test_properties.py::test_the_official_score_of_the_challenge",
    ),
    "the class order is alphabetical": (
        "data.py",
        'CLASSES = ("akiec", "bcc", "bkl", "df", "nv", "vasc", "mel")',
        'CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")',
        "test_properties.py::test_the_class_order_is_the_published_one",
    ),
    "photos are split instead of lesions": (
        "data.py",
        'split = table.assign(part=names.map(lambda lesion: part.get(lesion, "train")))',
        'split = table.assign(part=names.sample(frac=1, random_state=0).map(lambda lesion: part.get(lesion, "train")).to_numpy())',
        "test_properties.py::test_a_split_keeps_lesions_whole_and_shares_exact",
    ),
    "a photo's corner is cut out, not its centre": (
        "data.py",
        "top, left = (height - side) // 2, (width - side) // 2",
        "top, left = 0, 0",
        "test_fuzz.py::test_the_centre_square_is_cut_from_either_side",
    ),
    "a file is written in place": (
        "data.py",
        'draft = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")',
        "draft = path",
        "test_faults.py::test_another_error_is_passed_on_and_the_earlier_file_stays",
    ),
    "a decision forgets the prevalence": (
        "evaluate.py",
        "return probabilities * np.divide(prior, prevalence, out=np.zeros(n), where=prevalence > 0)",
        "return probabilities * prior",
        "test_properties.py::test_a_decision_follows_bayes_under_the_stated_prior",
    ),
    "intervals are over photos": (
        "evaluate.py",
        "lesion, names = pd.factorize(np.asarray(lesion_id))",
        "lesion, names = pd.factorize(np.arange(len(lesion_id)))",
        "test_properties.py::test_resamples_take_lesions_whole_and_lesions_are_averaged",
    ),
    "every epoch shows the same order": (
        "imbalance.py",
        "rng = np.random.default_rng([seed, epoch])\n    y = np.asarray(y, int)",
        "rng = np.random.default_rng([seed])\n    y = np.asarray(y, int)",
        "test_properties.py::test_a_sampler_shows_its_mix_and_every_photo_as_often_as_the_next",
    ),
    "a checkpoint forgets the random generators": (
        "train.py",
        "return [*model.variables, *trainer.optimizer.variables]",
        "return [*model.weights, *trainer.optimizer.variables]",
        "test_kills.py::test_a_training_that_meets_a_full_disk_and_ctrl_c_says_so_and_ends_like_an_unbroken_one",
    ),
    "one bad photo ends a prediction": (
        "predict.py",
        "        return fit_photo(path, size), None\n    except (ValueError, OSError) as error:",
        "        return fit_photo(path, size), None\n    except FileNotFoundError as error:",
        "test_faults.py::test_predict_on_a_folder_stops_for_no_file",
    ),
}
