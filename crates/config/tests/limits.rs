//! Numbers that no machine could honour are refused before anybody allocates for them.

#![allow(clippy::unwrap_used)]

use config::{Override, load};
use std::path::Path;

/// What a person reads about quickstart.toml with these overrides; empty if it is good.
fn message(overrides: &[&str]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/quickstart.toml");
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    let checked = load(&file, &overrides).unwrap().check("run.toml");
    checked.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn exact_mode_bounds_the_gradients_of_a_step() {
    let base = ["batch.slots=8", "batch.micro_batch=1", "reduce.mode=\"exact\""];
    let with = |more: &[&str]| message(&[&base[..], more].concat());
    assert_eq!(with(&["batch.accumulate=512"]), "");
    let refused = with(&["batch.accumulate=513"]);
    assert!(refused.contains("`batch.accumulate`: 8 slots × 513 forward passes are 4104 gradients"), "{refused}");
    assert!(refused.contains("adds up to 4096") && refused.contains("raise `batch.micro_batch`"), "{refused}");
    assert_eq!(with(&["batch.accumulate=513", "reduce.mode=\"fast\""]), "", "fast mode has no such bound");
}

#[test]
fn what_no_memory_holds_is_refused() {
    for (key, value, part) in [
        ("batch.micro_batch", "1000000000000", "more than 65536 samples of one slot"),
        ("batch.micro_batch", "9223372036854775807", "more than 65536 samples of one slot"),
        ("batch.sequence_length", "1000000000000", "outside 8 to 65536"),
        ("data.prefetch_units", "1000000", "more than 64"),
    ] {
        let text = message(&["batch.accumulate=2", &format!("{key}={value}")]);
        assert!(text.contains(&format!("`{key}`")) && text.contains(part), "{key} = {value}: {text}");
    }
}

#[test]
fn a_width_beyond_all_numbers_is_refused_and_not_a_panic() {
    for architecture in ["bert", "modern"] {
        let architecture = format!("model.architecture=\"{architecture}\"");
        let text = message(&[&architecture, "model.hidden=9223372036854775807"]);
        assert!(text.contains("`model.heads`: 2 heads do not divide hidden = 9223372036854775807"), "{text}");
    }
}

#[test]
fn recovery_has_sensible_limits() {
    assert_eq!(message(&["recovery.on_divergence=\"stop\"", "recovery.verify_every=0"]), "");
    for (key, value, part) in [
        ("recovery.max_skipped_steps", "0", "is 0"),
        ("recovery.hang_factor", "2", "outside 3 to 10000"),
        ("recovery.hang_factor", "10001", "outside 3 to 10000"),
    ] {
        let text = message(&[&format!("{key}={value}")]);
        assert!(text.contains(&format!("`{key}`")) && text.contains(part), "{key} = {value}: {text}");
    }
}

#[test]
fn numbers_of_the_model_are_positive_and_finite() {
    for key in ["model.initializer_range", "model.layer_norm_epsilon", "model.rope_theta"] {
        for value in ["0", "0.0", "-0.02", "nan", "inf", "-inf"] {
            let text = message(&[&format!("{key}={value}")]);
            assert!(text.contains(&format!("`{key}`")) && text.contains("not a positive number"), "{key}: {text}");
        }
        // Large is strange, and for who sets it to find out.
        assert_eq!(message(&[&format!("{key}=3e4")]), "");
    }
}

#[test]
fn local_attention_is_whole_and_for_the_modern_encoder() {
    let modern = ["model.architecture=\"modern\"", "model.global_attn_every_n_layers=3"];
    let with = |more: &[&str]| message(&[&modern[..], more].concat());
    assert_eq!(with(&["model.local_attention=64", "model.local_rope_theta=1e4"]), "");
    for (value, part) in [
        ("local_attention=0", "even number"),
        ("local_attention=63", "even number"),
        ("local_rope_theta=-1.0", "not a positive number"),
        ("global_attn_every_n_layers=0", "is not positive"),
    ] {
        let text = with(&[&format!("model.{value}")]);
        assert!(text.contains(part), "{value}: {text}");
    }
    let text = message(&["model.architecture=\"bert\"", "model.global_attn_every_n_layers=3"]);
    assert!(text.contains("`model.global_attn_every_n_layers`: is for model.architecture"), "{text}");
    let text = message(&["model.architecture=\"modern\"", "model.local_attention=64"]);
    assert!(text.contains("`model.local_attention`: needs `model.global_attn_every_n_layers`"), "{text}");
}

#[test]
fn the_power_of_a_way_down_is_positive_and_finite() {
    let with = |power: &str| message(&["schedule.decay=polynomial", &format!("schedule.power={power}")]);
    assert_eq!(with("2.0"), "");
    for power in ["0.0", "-1.0", "nan", "inf", "-inf"] {
        let text = with(power);
        assert!(text.contains("`schedule.power`") && text.contains("is not a positive number"), "{power}: {text}");
    }
}

#[test]
fn the_mask_rate_ends_somewhere_and_where_words_are_masked() {
    for rate in ["0.15", "1", "1.0"] {
        assert_eq!(message(&[&format!("objective.final_mask_rate={rate}")]), "");
    }
    for rate in ["0.0", "-0.1", "1.5", "nan"] {
        let text = message(&[&format!("objective.final_mask_rate={rate}")]);
        assert!(text.contains("`objective.final_mask_rate`") && text.contains("is not more than 0"), "{rate}: {text}");
    }
    let classify = ["run.kind=finetune", "objective.kind=classify", "data.label_column=label"];
    assert_eq!(message(&classify), "");
    let text = message(&[&classify[..], &["objective.final_mask_rate=0.15"]].concat());
    assert!(text.contains("`objective.final_mask_rate`: is for objectives that mask words"), "{text}");
}

#[test]
fn an_average_forgets_some_of_the_past() {
    assert_eq!(message(&["optimizer.ema_decay=0.999"]), "");
    for decay in ["0", "0.0", "1.0", "-0.5", "nan"] {
        let text = message(&[&format!("optimizer.ema_decay={decay}")]);
        assert!(text.contains("`optimizer.ema_decay`") && text.contains("is not between 0 and 1"), "{decay}: {text}");
    }
}

#[test]
fn a_batch_that_grows_says_from_what_and_how_long() {
    let with = |more: &[&str]| message(&[&["batch.accumulate=4"], more].concat());
    assert_eq!(with(&["batch.ramp_from=1", "batch.ramp_share=0.3"]), "");
    assert_eq!(with(&["batch.ramp_from=3", "batch.ramp_share=1.0"]), "");
    let text = with(&["batch.ramp_from=1"]);
    assert!(text.contains("`batch.ramp_from`: needs `batch.ramp_share`"), "{text}");
    let text = with(&["batch.ramp_share=0.3"]);
    assert!(text.contains("`batch.ramp_share`: needs `batch.ramp_from`"), "{text}");
    for from in ["0", "4", "5"] {
        let text = with(&["batch.ramp_share=0.3", &format!("batch.ramp_from={from}")]);
        assert!(text.contains(&format!("`batch.ramp_from`: {from} is not at least 1 and less than")), "{text}");
    }
    for share in ["0.0", "1.5", "-1.0", "nan"] {
        let text = with(&["batch.ramp_from=1", &format!("batch.ramp_share={share}")]);
        assert!(text.contains("`batch.ramp_share`") && text.contains("is not more than 0"), "{share}: {text}");
    }
}

#[test]
fn short_rows_are_equal_parts_of_a_block() {
    let with = |more: &[&str]| message(&[&["batch.sequence_length=64"], more].concat());
    for short in ["8", "16", "32"] {
        assert_eq!(with(&[&format!("batch.short_length={short}"), "batch.short_share=0.9"]), "");
    }
    for short in ["0", "4", "24", "63", "64", "128"] {
        let text = with(&[&format!("batch.short_length={short}"), "batch.short_share=0.9"]);
        let told = format!("`batch.short_length`: {short} does not cut batch.sequence_length = 64 into equal rows");
        assert!(text.contains(&told), "{text}");
    }
    for share in ["0.0", "1.0", "-1.0", "nan"] {
        let text = with(&["batch.short_length=32", &format!("batch.short_share={share}")]);
        assert!(text.contains("`batch.short_share`") && text.contains("is not between 0 and 1"), "{share}: {text}");
    }
    assert!(with(&["batch.short_length=32"]).contains("`batch.short_length`: needs `batch.short_share`"));
    assert!(with(&["batch.short_share=0.9"]).contains("`batch.short_share`: needs `batch.short_length`"));
    let pairs = ["model.architecture=bert", "objective.kind=mlm_nsp", "batch.short_length=32", "batch.short_share=0.9"];
    let text = with(&pairs);
    assert!(text.contains("`batch.short_length`: is for objective.kind = \"mlm\""), "{text}");
}

#[test]
fn a_label_stands_once() {
    let classify = |labels: &str| {
        message(&[
            "run.kind=finetune",
            "objective.kind=classify",
            "data.label_column=label",
            &format!("objective.labels={labels}"),
        ])
    };
    assert_eq!(classify(r#"["a", "b"]"#), "");
    let text = classify(r#"["a", "b", "a"]"#);
    assert!(text.contains("`objective.labels`: `a` stands there twice"), "{text}");
}

#[test]
fn next_sentences_need_other_rows_in_the_unit() {
    let with = |kind: &str, rows: u64| {
        message(&["model.architecture=bert", &format!("objective.kind={kind}"), &format!("data.unit_rows={rows}")])
    };
    for rows in [1, 7] {
        let text = with("mlm_nsp", rows);
        assert!(text.contains(&format!("`data.unit_rows`: {rows} rows are too few for `mlm_nsp`")), "{text}");
        assert_eq!(with("mlm", rows), "", "blocks are made of each document alone");
    }
    assert_eq!(with("mlm_nsp", 8), "");
}

#[test]
fn what_does_not_go_with_an_architecture_is_refused() {
    let electra = ["model.architecture=\"electra\"", "objective.kind=\"replaced_tokens\""];
    assert_eq!(message(&electra), "");
    let albert = ["model.architecture=\"albert\"", "objective.kind=\"mlm_sop\"", "data.unit_rows=32"];
    assert_eq!(message(&albert), "");
    let student = ["model.architecture=\"distilbert\"", "objective.kind=\"distill\"", "distill.teacher=\"run:a@3\""];
    assert_eq!(message(&student), "");
    let with = |base: &[&'static str], more: &'static str| message(&[base, &[more]].concat());
    for (text, part) in [
        (message(&["objective.kind=\"replaced_tokens\""]), "`objective.kind`: `replaced_tokens` is ELECTRA's"),
        (message(&["objective.kind=\"mlm_sop\"", "model.architecture=\"modern\""]), "sentence pairs need segments"),
        (message(&["objective.ngram_max=0"]), "`objective.ngram_max`: 0 is outside 1 to 10"),
        (message(&["model.embedding=64"]), "`model.embedding`: is for `albert` and `electra`"),
        (message(&["model.generator_hidden=64"]), "`model.generator_hidden`: is for `replaced_tokens`"),
        (with(&electra, "model.generator_heads=7"), "7 heads do not divide the generator's width"),
        (with(&electra, "objective.discriminator_weight=-1.0"), "`objective.discriminator_weight`"),
        (message(&student[..2]), "`distill.teacher`: is missing"),
        (with(&student, "distill.teacher=\"\""), "`distill.teacher`: is empty"),
        (with(&student, "distill.teacher=\"a\""), "neither `run:RUN[@STEP]` nor `hf:FOLDER`"),
        (with(&student, "distill.temperature=0.0"), "`distill.temperature`"),
        (with(&student, "distill.mlm_weight=-1.0"), "`distill.mlm_weight`"),
        (with(&student, "init.from=\"run:b\""), "`init.from`: cannot be given beside `distill.teacher`"),
        (with(&student, "model.architecture=\"modern\""), "`model.architecture`: of a student is"),
        (with(&student, "objective.kind=\"mlm\""), "`distill`: is for objective.kind"),
        (with(&student, "model.layer_norm_epsilon=1e-5"), "`model.layer_norm_epsilon`: of `distilbert` is 1e-12"),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn spans_and_sentences_go_with_masked_words_alone() {
    assert_eq!(message(&["objective.kind=mlm", "objective.masking=span", "objective.packing=doc-sentences"]), "");
    let pairs = ["objective.kind=mlm_nsp", "model.architecture=bert", "data.unit_rows=32", "objective.masking=span"];
    assert_eq!(message(&pairs), "");
    let classify = ["run.kind=finetune", "objective.kind=classify", "data.label_column=label"];
    let text = message(&[&classify[..], &["objective.masking=span"]].concat());
    assert!(text.contains("`objective.masking`: is for objectives that mask words"), "{text}");
    let text = message(&["objective.kind=mlm", "objective.masking=span", "objective.ngram_max=3"]);
    assert!(text.contains("`objective.masking`: does not go with objective.ngram_max"), "{text}");
    let spans = ["objective.kind=mlm", "objective.masking=span", "objective.span_boundary=true"];
    assert_eq!(message(&spans), "");
    let boundary = "`objective.span_boundary`: is for objective.kind = \"mlm\" with objective.masking = \"span\"";
    for other in ["objective.masking=word", "objective.kind=replaced_tokens"] {
        let text = message(&[&spans[..], &[other]].concat());
        assert!(text.contains(boundary), "{other}: {text}");
    }
    let segmenter = "objective.word_segmenter=jieba";
    assert_eq!(message(&[segmenter, "objective.kind=mlm", "objective.whole_word=true"]), "");
    assert_eq!(message(&[segmenter, "objective.kind=mlm", "objective.masking=span"]), "");
    let text = message(&[segmenter, "objective.kind=mlm"]);
    assert!(
        text.contains("`objective.word_segmenter`: says what a word is, but tokens are masked one by one"),
        "{text}"
    );
    let text = message(&[&classify[..], &[segmenter]].concat());
    assert!(text.contains("`objective.word_segmenter`: is for objectives that mask words"), "{text}");
    assert_eq!(message(&["model.architecture=roberta", "objective.kind=mlm"]), "");
    let text = message(&["model.architecture=roberta", "objective.kind=mlm_nsp", "data.unit_rows=32"]);
    assert!(text.contains("`objective.kind`: sentence pairs need segments and a pooler"), "{text}");
    let text = message(&["objective.kind=mlm_nsp", "objective.packing=full-sentences"]);
    assert!(text.contains("`objective.packing`: is for objective.kind"), "{text}");
    let short = ["objective.kind=mlm", "batch.sequence_length=64", "batch.short_length=32", "batch.short_share=0.5"];
    let text = message(&[&short[..], &["objective.packing=full-sentences"]].concat());
    assert!(text.contains("`objective.packing`: does not go with batch.short_length"), "{text}");
}

#[test]
fn folds_and_sweeps_have_their_rules() {
    let labelled =
        ["run.kind=finetune", "objective.kind=classify", "data.label_column=label", "batch.sequence_length=64"];
    let with = |more: &[&str]| message(&[&labelled[..], more].concat());
    assert_eq!(with(&["data.fold=0", "data.folds=5"]), "");
    assert_eq!(with(&["sweep.folds=5", "sweep.seeds=3", "sweep.vary.optimizer.learning_rate=[1e-4, 1e-5]"]), "");
    for (overrides, key, part) in [
        (&["data.fold=1"][..], "data.fold", "needs `data.folds`"),
        (&["data.folds=5"], "data.folds", "needs `data.fold`"),
        (&["data.fold=5", "data.folds=5"], "data.fold", "5 is none of the 5 folds"),
        (&["data.fold=0", "data.folds=1"], "data.folds", "leaves nothing to train on"),
        (&["data.fold=0", "data.folds=5", "data.eval_paths=[\"/x\"]"], "data.folds", "data.eval_paths"),
        (&["sweep.folds=5", "data.eval_paths=[\"/x\"]"], "sweep.folds", "data.eval_paths"),
        (&["sweep.folds=5", "data.fold=0", "data.folds=5"], "sweep.folds", "which it sets"),
        (&["sweep.folds=1"], "sweep.folds", "leaves nothing to train on"),
        (&["sweep.seeds=0"], "sweep.seeds", "is 0"),
        (&["sweep.metric=loss"], "sweep.metric", "begin with `eval/`"),
        (&["sweep.vary.run.seed=[1, 2]"], "sweep.vary", "`run.seed` cannot be varied"),
        (&["sweep.vary.optimizer.learning_rate=1e-4"], "sweep.vary", "`optimizer.learning_rate` has no list"),
        (&["sweep.seeds=1001"], "sweep", "1001 runs, and 1000 is the most"),
    ] {
        let text = with(overrides);
        assert!(text.contains(&format!("`{key}`: ")) && text.contains(part), "{overrides:?}: {text}");
    }
    let raw = message(&["data.fold=0", "data.folds=5"]);
    assert!(raw.contains("`data.folds`: is for labelled data only"), "{raw}");
    assert!(message(&["sweep.folds=5"]).contains("`sweep.folds`: is for labelled data only"));
}

#[test]
fn cloze_prompts_have_their_rules() {
    let base = [
        "run.kind=finetune",
        "objective.kind=cloze",
        "data.label_column=label",
        "batch.sequence_length=64",
        "objective.prompt=\"{text} It was [MASK].\"",
        "objective.verbalizers.yes=[\"great\"]",
        "objective.verbalizers.no=[\"bad\"]",
    ];
    let with = |more: &[&str]| message(&[&base[..], more].concat());
    assert_eq!(with(&[]), "");
    assert_eq!(with(&["objective.prompt=\"{text}? [MASK], {pair}\"", "data.pair_column=other"]), "");
    for (overrides, key, part) in [
        (&["objective.prompt=\"{text} It was.\""][..], "objective.prompt", "has [MASK] 0 time(s)"),
        (&["objective.prompt=\"{text}? [MASK], {pair}\""], "data.pair_column", "objective.prompt has {pair}"),
        (&["data.pair_column=other"], "objective.prompt", "has no {pair}"),
        (&["objective.verbalizers={yes = [\"great\"]}"], "objective.verbalizers", "1 label(s) have words"),
        (&["objective.verbalizers.no=[]"], "objective.verbalizers.no", "has no word"),
        (&["objective.verbalizers.no=[\" \"]"], "objective.verbalizers.no", "has an empty word"),
        (&["objective.labels=[\"yes\", \"no\"]"], "objective.labels", "are those of objective.verbalizers"),
        (&["objective.kind=classify"], "objective.prompt", "is for objective.kind = \"cloze\""),
    ] {
        let text = with(overrides);
        assert!(text.contains(&format!("`{key}`: ")) && text.contains(part), "{overrides:?}: {text}");
    }
}

#[test]
fn labels_are_for_what_learns_them() {
    let of = |kind: &str, more: &[&str]| {
        let kind = format!("objective.kind={kind}");
        let common = ["run.kind=finetune", "batch.sequence_length=64", "batch.micro_batch=8", kind.as_str()];
        message(&[&common[..], more].concat())
    };
    let text = of("match", &["data.pair_column=other", "data.label_column=is_duplicate"]);
    assert!(text.contains("`data.label_column`: is not for `match`"), "{text}");
    for kind in ["match", "answer"] {
        let text = of(kind, &["objective.labels=[\"a\", \"b\"]"]);
        assert!(text.contains("`objective.labels`: are for objective.kind"), "{text}");
    }
}

#[test]
fn graphs_are_for_micro_batches_of_one_shape() {
    let with = |more: &[&str]| message(&[&["run.cuda_graphs=true"], more].concat());
    assert_eq!(with(&[]), "");
    for (other, told) in [
        ("run.activation_checkpointing=true", "run.activation_checkpointing"),
        ("batch.padding=unpadded", "batch.padding = \"unpadded\""),
        ("reduce.mode=fast", "reduce.mode = \"fast\""),
        ("objective.packing=full-sentences", "an objective.packing other than `blocks`"),
        ("objective.kind=mlm_nsp", "objective.kind = \"mlm_nsp\""),
    ] {
        let text = with(&[other]);
        assert!(text.contains(&format!("`run.cuda_graphs`: does not go with {told}")), "{other}: {text}");
    }
    let text = with(&["run.kind=finetune", "objective.kind=classify", "data.label_column=label"]);
    assert!(text.contains("does not go with objective.kind = \"classify\""), "{text}");
}
