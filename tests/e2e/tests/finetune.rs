//! From pretraining to a tagger and a classifier, to predictions and to a Hugging Face folder.

use e2e::{Cluster, Output, WORDS};

#[test]
fn a_pretrained_model_becomes_a_tagger_that_predicts_and_is_exported() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let pretrained = cluster.submit(&[]);
    cluster.until_completed(&pretrained);

    let paths = format!("data.paths=[\"{}\"]", cluster.corpus.tagged.display());
    let tagger = cluster.submit(&[
        &paths,
        "init.from=run:tiny",
        "run.kind=finetune",
        "run.name=tagger",
        "run.steps=60",
        "objective.kind=tag",
        "optimizer.learning_rate=3e-3",
    ]);
    cluster.until_completed(&tagger);
    let shown = cluster.show("tagger");
    assert_eq!(shown["kind"], "finetune");
    assert_eq!(shown["parent"]["run"], pretrained.as_str(), "{shown:#}");
    assert_eq!(shown["parent"]["step"], 30);
    assert!(shown["metrics"]["eval/accuracy"].as_f64().unwrap() > 0.9, "{:#}", shown["metrics"]);
    assert!(shown["metrics"]["eval/macro_f1"].is_f64(), "{:#}", shown["metrics"]);
    cluster.verify_ledger(&tagger);

    let text = "the old sailor sees a ship .";
    let predict = |arguments: &[&str]| {
        let mut command = cluster.command("worker");
        Output::of(command.arg("predict").args(arguments).args(["--threads", "1"])).expect_code(0)
    };
    let line = predict(&["--checkpoint", "tagger", "--text", text, "--json"]).json();
    assert_eq!(line["text"], text);
    let tags = line["tags"].as_array().unwrap();
    for tag in tags.iter().filter(|tag| tag["word"] != ".") {
        let (_, right) = WORDS.iter().find(|(word, _)| tag["word"] == *word).unwrap();
        assert_eq!(tag["tag"], *right, "{line:#}");
    }
    assert_eq!(tags.len(), 7);
    let at_step = predict(&["--checkpoint", "tagger@60", "--text", text]);
    assert_eq!(at_step.stdout.trim(), "the/D old/J sailor/N sees/V a/D ship/N ./.");

    let folder = cluster.path("exported");
    let folder = folder.to_str().unwrap();
    cluster.coordinator(&["checkpoints", "export", "--format", "hf", "tagger", "--out", folder]).expect_code(0);
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(cluster.path("exported").join(file).exists(), "{file}");
    }
    assert_eq!(predict(&["--model", folder, "--text", text]).stdout, at_step.stdout);
    let file = cluster.path("texts.txt");
    std::fs::write(&file, format!("{text}\n").repeat(70)).unwrap();
    let many = predict(&["--model", folder, "--file", file.to_str().unwrap()]);
    assert_eq!(many.stdout, at_step.stdout.repeat(70));

    let missing = Output::of(cluster.command("worker").args(["predict", "--checkpoint", "tagger@61", "--text", "x"]));
    missing.expect_code(1).says(&["no checkpoint of step 61", "60"]);
    let unlabelled = Output::of(cluster.command("worker").args(["predict", "--checkpoint", "tiny", "--text", "x"]));
    unlabelled.expect_code(1).says(&["the model predicts no labels"]);
}

#[test]
fn a_classifier_starts_from_an_exported_folder() {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let pretrained = cluster.submit(&[]);
    cluster.until_completed(&pretrained);
    let folder = cluster.path("exported");
    let folder = folder.to_str().unwrap();
    cluster.coordinator(&["checkpoints", "export", "--format", "hf", "tiny", "--out", folder]).expect_code(0);

    let run = cluster.submit(&[
        &format!("data.paths=[\"{}\"]", cluster.corpus.classified.display()),
        "data.label_column=label",
        &format!("init.from=hf:{folder}"),
        "run.kind=finetune",
        "run.name=classifier",
        "run.steps=60",
        "objective.kind=classify",
        "objective.pooling=mean",
        "optimizer.learning_rate=3e-3",
    ]);
    cluster.until_completed(&run);
    let shown = cluster.show(&run);
    assert!(shown["metrics"]["eval/accuracy"].as_f64().unwrap() > 0.8, "{:#}", shown["metrics"]);
    assert!(shown["metrics"]["eval/mcc"].is_f64(), "{:#}", shown["metrics"]);
    let mut command = cluster.command("worker");
    command.args(["predict", "--checkpoint", "classifier", "--json", "--threads", "1"]);
    command.args(["--text", "every dog sees the dog .", "--text", "a ship leaves the city ."]);
    let lines = Output::of(&mut command).expect_code(0).json_lines();
    assert_eq!((&lines[0]["label"], &lines[1]["label"]), (&"alive".into(), &"other".into()), "{lines:#?}");
}
