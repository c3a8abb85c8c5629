"""What to do about each warning that a run can report, by its code."""

from __future__ import annotations

_REPLICATIONS = "More experiment.replications (20 or more) give the missing numbers."
_ADVICE = {
    "arms_hardly_differ": "Set alpha_T and alpha_C further apart, or add candidates to a slate.",
    "cache_damaged": "Nothing to do: the cache was made again from the files.",
    "constant_feature": "Leave the feature out of the config: it says nothing.",
    "constant_label": "Choose another target: one that never varies cannot be learned.",
    "damaged_checkpoint": "Nothing to do: an older checkpoint was used. Check the disk.",
    "data_exhausted": "Lower simulation.n_steps or batch_size, or add logs.",
    "data_running_out": "Trust the early steps more; lower n_steps, batch_size or n_candidate.",
    "duplicate_rows": "Usually nothing: repeats were dropped. Many of them hint at a wrong export.",
    "empty_values": "Usually nothing: rows without a value do not count for their label.",
    "extreme_feature": "Correct or cut the extreme values: beside them the others are all alike.",
    "feature_without_values": "Leave the feature out, or add the file that has its values.",
    "interval_method_failed": "Mend the method, then run again; the other methods are not touched.",
    "intervals_not_trustworthy": "Run more methods (experiment.intervals); else go by bias and SD.",
    "intervals_without_units": "Leave these methods out of experiment.intervals for this data.",
    "label_decay_unused": "Delete the labels' weight_decay, or that of pretrain and simulation.",
    "label_rate_unused": "Delete the labels' learning_rate, or that of pretrain and simulation.",
    "leakage": "Leave these features out: they know what a label is about to tell.",
    "no_number": _REPLICATIONS,
    "no_pretraining_rows": "Add logs, or set pretrain.rows; models start untrained otherwise.",
    "no_steps": "Resume the run, or run it again.",
    "not_finite": "Lower learning rates or set gradient_clip, and look at the losses.",
    "one_arm_only": "More visits a step, a p_treatment nearer to 0.5, or fewer, larger units.",
    "other_totals": "Run realdataexp download: it checks the archive and fetches what is missing.",
    "other_version": "Set dataset.name to the version whose files these are, or give its folder.",
    "out_of_range_values": "Usually nothing. Many of them hint at another unit or a wrong column.",
    "pretrain_overlaps_replay": "Choose pretrain.rows early or share to keep the two apart.",
    "pretrain_sees_later_rows": "Set dataset.tables.early_before, or replay an early log too.",
    "products_by_place": "Set MKL_CBWR=AUTO,STRICT, or import realdataexp before you multiply "
    "matrices.",
    "sample_ratio_mismatch": "Mend what assigns the arms (assign), or name what is randomised as "
    "one (unit).",
    "started_from_other_data": "Export networks of a run on the same data, or pretrain new ones.",
    "unended_file": "Compare the file with its source; download it again if it was cut.",
    "updates_skipped": "Lower the learning rate or set gradient_clip.",
    "users_without_features": "Add the file with their features, or live with missing values.",
    "values_below_zero": "Use the loss MSE for negative values, or make them missing.",
    "videos_without_features": "Add the file with their features, or live with missing values.",
    "visits_lost": "Raise simulation.n_candidate or min_candidates.",
    "weight_model_learned_nothing": "Use shadow, another weighting.model, or more steps.",
    "weights_off": "Do not trust this design's bias here; use shadow or another weighting.model.",
    "worlds_in_groups": "Look at the worlds one by one: their mean may be that of no state.",
}


def advice(code: str) -> str:
    """What to do about a warning."""
    return _ADVICE.get(code, "Read the message: it names the setting to change.")
