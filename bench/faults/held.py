"""The faults that the ordinary tests inject: what, and the tests that hold."""

from typing import NamedTuple


class Held(NamedTuple):
    """What is injected, what must happen, and tests as `file::test` under tests/."""

    what: str
    must: str
    tests: tuple[str, ...]


HELD = {
    "A1": Held(
        "JPEG, PNG, WebP, BMP, TIFF and GIF cut at 0, 1, 25, 50 and 99 % and two bytes before their end",
        "each refused; `check` lists them, training refuses them or, on request, plans without them and counts them",
        (
            "data/test_decode.py::test_cut_files_are_refused",
            "data/test_check.py::test_check_finds_bad_files_of_every_kind",
            "test_bad_input.py::test_bad_images_are_skipped_on_request_and_counted",
        ),
    ),
    "A2": Held(
        "empty files, text and markup named as images, folders, pipes, devices",
        "refused, a pipe or device without waiting for it",
        (
            "data/test_decode.py::test_what_is_no_image_is_refused",
            "data/test_decode.py::test_folders_pipes_and_devices_are_refused_at_once",
            "data/test_check.py::test_a_pipe_does_not_block",
        ),
    ),
    "A3": Held(
        "an image that is changed and still decodes",
        "the manifest names it on the next run",
        ("data/test_check.py::test_manifest_names_every_example_and_sees_every_change",),
    ),
    "A4": Held(
        "gray of 12, 16 and 32 bits and of floating point, also outside of 0 to 1",
        "scaled at full precision, the same everywhere; values out of range are refused",
        (
            "data/test_decode.py::test_16_bit_gray_keeps_its_precision",
            "data/test_decode.py::test_other_deep_gray",
            "data/test_decode.py::test_deep_values_out_of_range_are_refused",
            "test_bad_input.py::test_sixteen_bits_get_the_same_answer_everywhere",
        ),
    ),
    "A5": Held(
        "the eight EXIF orientations of a picture, and EXIF data that is damaged or comes after the pixels",
        "the same tensor; damage is as none",
        (
            "data/test_decode.py::test_all_orientations_are_upright",
            "data/test_decode.py::test_orientation_after_the_pixels_of_a_png",
            "data/test_decode.py::test_damaged_exif_is_as_none",
        ),
    ),
    "A6": Held(
        "CMYK, palettes, transparency, one bit; films and many pages; photos with a preview behind them",
        "documented pixels; the first frame, with one counted notice",
        (
            "data/test_decode.py::test_cmyk",
            "data/test_decode.py::test_palette_gray_and_one_bit",
            "data/test_decode.py::test_transparency_lies_over_the_background",
            "data/test_decode.py::test_first_frame",
            "data/test_check.py::test_scan_counts_films_and_no_photos_with_a_preview",
            "data/test_decode.py::test_a_photo_with_a_preview_behind_it_is_read_like_any",
        ),
    ),
    "A7": Held(
        "headers of 169 and more megapixels, packed comments and profiles, TIFF tiles, endless scans, a sparse file",
        "refused from the header, within 50 MB",
        (
            "data/test_decode.py::test_bombs_are_refused_in_little_memory",
            "data/test_decode.py::test_size_limit_is_read_from_the_header",
            "data/test_decode.py::test_endless_scans_of_a_progressive_jpeg_are_refused",
        ),
    ),
    "A8": Held(
        "images of 1 x 1, 3 x 3, 1 x 20,000 and 20,000 x 1 px",
        "read and made square within the memory of their pixels",
        ("data/test_decode.py::test_extreme_shapes", "data/test_transforms.py::test_extreme_shapes"),
    ),
    "A9": Held(
        "20,000 mutations of 36 files of the six formats",
        "an image or an `ImageError` within 2 s",
        ("data/test_decode.py::test_only_image_errors_leave_mutated_files",),
    ),
    "B1": Held(
        "an image that is cut, no image, a folder or not readable, found before an epoch or in its midst",
        "the file is named after a checkpoint; or it is skipped and counted, on request",
        (
            "data/test_check.py::test_bad_files_are_refused_or_skipped_before_training",
            "data/test_loader.py::test_a_bad_file_is_named",
            "engine/test_trainer.py::test_a_failing_loader_stops_after_saving_every_step_made",
            "test_bad_input.py::test_bad_images_are_skipped_on_request_and_counted",
        ),
    ),
    "B2": Held(
        "files added, removed, edited, rows of a table reordered or doubled, between two parts of a run",
        "the changes are listed and refused; `--accept-data-change` goes on from the next epoch and records it",
        (
            "data/test_check.py::test_manifest_names_every_example_and_sees_every_change",
            "resume/test_resume.py::test_changed_data_begin_at_the_next_epoch",
            "test_run.py::test_data_that_changed_is_told",
            "test_run.py::test_examples_in_another_order_or_number_are_other_data",
            "test_run.py::test_changed_data_can_be_accepted",
        ),
    ),
    "B3": Held(
        "data with fewer, other or reordered classes than the model's",
        "labels go by name; a class that the model does not know is an error, or left out and counted on request",
        (
            "test_evaluation.py::test_classes_are_matched_by_name",
            "test_evaluation.py::test_a_class_that_the_model_does_not_know_is_an_error",
            "test_evaluation.py::test_images_of_other_classes_are_left_out_on_request_and_counted",
            "data/test_folder.py::test_creation_order_does_not_matter",
        ),
    ),
    "B4": Held(
        "names with control characters, markup or bytes that are no text; links that loop or lead out; hidden files",
        "the scan ends, what is left out is counted, names are shown harmless",
        (
            "data/test_folder.py::test_hostile_names_do_not_crash_and_are_shown_harmless",
            "data/test_folder.py::test_links_end_and_stay_inside",
            "data/test_folder.py::test_nested_files_any_case_and_hidden_ones",
            "test_cli.py::test_names_cannot_steer_the_terminal",
        ),
    ),
    "B5": Held(
        "training images copied into the validation split, also encoded again",
        "`plusx check` names both files of each pair",
        ("data/test_check.py::test_check_finds_leaks_also_of_encoded_again_images",),
    ),
    "B6": Held(
        "archives with paths that lead out, links, devices, bombs, too many or doubled entries, cut ends",
        "nothing outside, nothing half unpacked",
        (
            "data/test_download.py::test_hostile_archives_leave_nothing",
            "data/test_download.py::test_damaged_archives_leave_nothing",
        ),
    ),
    "B7": Held(
        "data files that hold pickles, are damaged, or have another length",
        "no pickle is opened, every load checks the SHA-256",
        (
            "data/test_arrays.py::test_pickles_are_never_opened",
            "data/test_named.py::test_a_damaged_file_is_an_error_at_each_load",
        ),
    ),
    "B8": Held(
        "one image, fewer images than a batch, one class, a last batch of one",
        "a right result or a clear error; never no step, never NaN",
        (
            "test_bad_input.py::test_data_that_nobody_can_train_on",
            "test_bad_input.py::test_very_little_data_trains",
            "test_bad_input.py::test_one_image_of_one_value_is_refused_by_batch_norm",
            "engine/test_step.py::test_batch_norm_never_sees_one_image",
        ),
    ),
    "C6": Held(
        "EIO and ESTALE, as NFS gives them, from fsync and rename; a folder that may not be written",
        "a failed save is not tried again, the last checkpoint loads, the place is named",
        (
            "engine/test_checkpoint.py::test_a_failing_disk_leaves_the_last_checkpoint",
            "engine/test_checkpoint.py::test_a_folder_that_cannot_be_changed_is_named",
            "engine/test_trainer.py::test_a_failed_save_is_not_tried_again_and_keeps_its_message",
        ),
    ),
    "C8": Held(
        "out of memory in a step, in an evaluation, in a save",
        "the state before the step is saved, and a batch size advised",
        (
            "engine/test_trainer.py::test_out_of_memory_saves_the_state_before_the_step_and_advises",
            "engine/test_trainer.py::test_too_little_memory_to_evaluate_and_to_save_is_told",
        ),
    ),
    "C9": Held(
        "NaN in a pixel, in a gradient, in running statistics, and by a rate of 1e20",
        "the step and the example are named; nothing that is not finite is saved or selected",
        (
            "engine/test_step.py::test_non_finite_pixels_stop_before_the_optimizer_and_name_the_example",
            "engine/test_step.py::test_a_non_finite_gradient_stops_too",
            "engine/test_trainer.py::test_a_diverging_run_never_saves_what_is_not_finite",
            "engine/test_trainer.py::test_an_evaluation_that_is_not_finite_stops_and_selects_nothing",
            "engine/test_checkpoint.py::test_a_value_that_is_not_finite_is_never_written",
        ),
    ),
    "C11": Held(
        "two runs in one folder, the owner of a lock killed, a finished run started again",
        "the lock names the live process; that of a dead one is taken over; a finished run does nothing",
        (
            "test_run.py::test_one_process_at_a_time",
            "test_run.py::test_a_lock_whose_owner_died_is_taken_over",
            "test_run.py::test_a_finished_run_is_left_alone",
        ),
    ),
    "D1": Held(
        "the newest checkpoint cut anywhere, empty, garbage",
        "it is named with what is wrong, and the one before is taken; with none whole the run does not start anew",
        (
            "engine/test_checkpoint.py::test_every_truncation_is_detected",
            "engine/test_checkpoint.py::test_a_damaged_newest_gives_way_to_the_one_before_and_says_so",
            "engine/test_checkpoint.py::test_nothing_whole_is_an_error_not_a_new_start",
            "engine/test_checkpoint.py::test_a_disk_that_fails_costs_no_checkpoint_its_name",
            "resume/test_resume.py::test_the_newest_checkpoint_damaged",
        ),
    ),
    "D2": Held(
        "flipped bits anywhere in checkpoints and model files",
        "each is detected",
        (
            "engine/test_checkpoint.py::test_every_flipped_bit_is_detected",
            "test_modelfile.py::test_every_flipped_bit_is_noticed",
        ),
    ),
    "D3": Held(
        "hostile pickles under every name, also as weights to import",
        "no code runs; a clear error within 100 ms and 50 MB",
        (
            "test_pth.py::test_the_files_are_many_and_the_payloads_work",
            "test_pth.py::test_hostile_files_are_refused_fast_and_here",
            "test_modelfile.py::test_nothing_is_run",
        ),
    ),
    "D4": Held(
        "an unsafe reader in the sources, and forbidden calls during an import",
        "the tests fail; the import is ended",
        (
            "test_architecture.py::test_module_keeps_the_rules",
            "test_architecture.py::test_unsafe_rule_fails_on",
            "test_pth.py::test_what_the_import_may_not_do",
        ),
    ),
    "D5": Held(
        "weights of another network, other classes, reordered classes",
        "the difference in words; rows of the classifier go by name",
        (
            "test_weights.py::test_rows_of_the_head_go_by_name",
            "test_weights.py::test_what_does_not_fit_is_told",
            "test_weights.py::test_weights_that_fit_by_shape_alone_are_refused",
        ),
    ),
    "D6": Held(
        "NaN, infinite weights, negative variances, empty tensors",
        "the tensor is named, when written and when read",
        ("test_modelfile.py::test_poisoned_values_are_neither_written_nor_read",),
    ),
    "D7": Held(
        "files of a later format, of before an option existed, with unknown keys",
        "said, loaded, kept",
        (
            "test_modelfile.py::test_a_file_from_the_future_says_so",
            "test_modelfile.py::test_a_file_from_before_an_option_existed_still_loads",
            "test_modelfile.py::test_unknown_keys_are_kept",
        ),
    ),
    "D8": Held(
        "headers of 2^63 bytes, nested 100,000 deep, doubled keys, overlapping tensors, a sparse terabyte",
        "refused within 100 ms and 50 MB",
        (
            "engine/test_tensorfile.py::test_hostile_files_are_refused_fast",
            "engine/test_tensorfile.py::test_a_sparse_terabyte_is_refused",
            "test_modelfile.py::test_hostile_documents_are_refused_fast",
        ),
    ),
    "D9": Held(
        "downloads that are cut, endless, of another hash or from elsewhere, two at once, none at all",
        "nothing is left of a bad one, two share one, the hash is checked at each load, being offline is said",
        (
            "data/test_download.py::test_nothing_is_left_of_a_bad_download",
            "data/test_download.py::test_only_https",
            "data/test_download.py::test_two_at_once_download_once",
            "data/test_download.py::test_offline_says_what_to_do",
        ),
    ),
    "E1": Held(
        "SIGKILL to a rank of two, with `--max-restarts 3`, and to one of four, of which not all notice by themselves",
        "the rank is named, and no other; the bits of the undisturbed run",
        (
            "distributed/test_runs.py::test_a_killed_rank_is_named_and_restarting_ends_in_the_same_bits",
            "distributed/test_runs.py::test_of_four_ranks_only_the_dead_one_is_called_lost",
            "distributed/test_world.py::test_a_rank_that_waits_for_others_still_answers_and_hears_of_their_stop",
        ),
    ),
    "E2": Held(
        "a bad image, too little memory, NaN or a bug on one rank alone",
        "all stop, and that rank's cause is the one that is told",
        ("distributed/test_runs.py::test_the_rank_that_failed_says_why_and_nobody_else",),
    ),
    "E3": Held(
        "examples that do not divide by ranks and batch",
        "every example once, metrics as of one process",
        (
            "distributed/test_world.py::test_shares_of_a_step_are_disjoint_complete_and_pairs",
            "distributed/test_world.py::test_parts_of_a_split_are_whole_batches_each_once",
            "distributed/test_runs.py::test_examples_are_counted_once_however_they_are_shared",
        ),
    ),
    "E4": Held(
        "a run of two processes that one goes on with; a batch too small for the ranks",
        "the same order of examples; a clear error",
        (
            "distributed/test_runs.py::test_a_signal_to_one_rank_stops_all_and_one_process_goes_on_in_the_same_order",
            "distributed/test_world.py::test_too_many_processes_for_a_batch_are_refused",
        ),
    ),
    "H1": Held(
        "markup, scripts, templates, control and direction characters as names of classes and files; 10,000 classes",
        "names stay text, nothing is loaded or run, the page's size is bounded, pictures are encoded anew",
        (
            "report/test_report.py::test_names_stay_text",
            "report/test_report.py::test_the_policy_allows_this_style_and_nothing_else",
            "report/test_report.py::test_nothing_outside_the_file_is_named",
            "report/test_report.py::test_size_is_bounded",
            "report/test_report.py::test_pictures_are_encoded_anew",
        ),
    ),
    "H2": Held(
        "names that a spreadsheet would run, with quotes, line breaks and escapes, in tables and on the terminal",
        "tables read back and harm nothing, numbers stay numbers; one harmless line each on the terminal",
        (
            "test_prediction.py::test_csv_harms_no_spreadsheet_and_reads_back",
            "test_prediction.py::test_numbers_stay_numbers",
            "test_prediction.py::test_json_lines_and_parquet_hold_the_answers",
            "test_cli.py::test_names_cannot_steer_the_terminal",
            "test_cli.py::test_names_cannot_forge_lines",
        ),
    ),
}
