//! From pretraining to a tagger and a classifier, to predictions and to a Hugging Face folder.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use e2e::{Cluster, Output, WORDS};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Exports a run where tests/golden/check_export.py looks, if `cargo xtask test` says where that is; and what was said.
fn export(cluster: &Cluster, run: &str, name: &str) -> (PathBuf, Output) {
    let root = std::env::var_os("TRIREME_EXPORT_DIR").map_or_else(|| cluster.path("exports"), PathBuf::from);
    let folder = root.join(format!("exported-{name}"));
    let out = folder.display().to_string();
    let arguments = ["checkpoints", "export", "--format", "hf", run, "--out", &out, "--overwrite", "--json"];
    let said = cluster.coordinator(&arguments).expect_code(0);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().is_some_and(|ending| ending != "partial"), "{} is left", path.display());
    }
    // 30 tokens; the model in training has 32 rows.
    let checkpoints = cluster.show(run)["checkpoints"].as_array().unwrap().clone();
    let stored = PathBuf::from(checkpoints.last().unwrap()["path"].as_str().unwrap());
    assert_eq!((rows(&stored), rows(&folder)), (32, 30));
    (folder, said)
}

/// Every metric of a run stands in docs/reference/contract.md.
fn assert_documented(shown: &Value) {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/contract.md")).unwrap();
    for key in shown["metrics"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
}

/// `vocab_size` of a folder's config.json.
fn rows(folder: &Path) -> u64 {
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    config["vocab_size"].as_u64().unwrap()
}

/// What we make of some texts, beside the model, for check_export.py to compare with what transformers does.
fn write_predictions(folder: &Path, predictions: &[Value]) {
    let lines: String = predictions.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.join("predictions.jsonl"), lines).unwrap();
}

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
    assert_documented(&shown);
    assert_documented(&cluster.show(&pretrained));

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
    let cut = predict(&["--checkpoint", "tagger", "--text", text, "--text", "a ship .", "--max-length", "8", "--json"]);
    let told = cut.json_lines();
    assert_eq!((&line["cut"], &told[0]["cut"], &told[1]["cut"]), (&json!(false), &json!(true), &json!(false)));
    cut.says(&["texts were cut", "cut=1 texts=2 tokens=8"]);

    let (folder, said) = export(&cluster, "tagger", "tagger");
    assert_eq!((said.json()["warnings"].clone(), said.stderr.as_str()), (json!([]), ""));
    write_predictions(&folder, &[line]);
    let folder = folder.to_str().unwrap();
    assert_eq!(predict(&["--model", folder, "--text", text]).stdout, at_step.stdout);
    let file = cluster.path("texts.txt");
    std::fs::write(&file, format!("{text}\n").repeat(70)).unwrap();
    let many = predict(&["--model", folder, "--file", file.to_str().unwrap()]);
    assert_eq!(many.stdout, at_step.stdout.repeat(70));

    // Where no address is named, the coordinator that was started on this machine is asked.
    let mut command = cluster.command("worker");
    command.env_remove("TRIREME_COORDINATOR").args(["predict", "--checkpoint", "tagger@60", "--text", text]);
    assert_eq!(Output::of(command.args(["--threads", "1"])).expect_code(0).stdout, at_step.stdout);

    let missing = Output::of(cluster.command("worker").args(["predict", "--checkpoint", "tagger@61", "--text", "x"]));
    missing.expect_code(1).says(&["no checkpoint of step 61", "60"]);
    let unlabelled = Output::of(cluster.command("worker").args(["predict", "--checkpoint", "tiny", "--text", "x"]));
    unlabelled.expect_code(5).says(&["the model predicts no labels"]);
}

#[test]
fn a_classifier_starts_from_an_exported_folder() {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let pretrained = cluster.submit(&[]);
    cluster.until_completed(&pretrained);
    let (folder, _) = export(&cluster, "tiny", "pretraining");
    let folder = folder.display().to_string();

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
    // A label that no row has may be meant, and whoever submits it hears of it.
    let mut command = cluster.command("coordinator");
    command.arg("submit").arg(cluster.config());
    for set in [
        &format!("data.paths=[\"{}\"]", cluster.corpus.classified.display()),
        "data.label_column=label",
        "run.kind=finetune",
        "run.name=spare",
        "run.steps=1",
        "objective.kind=classify",
        "objective.labels=[\"alive\",\"other\",\"spare\"]",
    ] {
        command.args(["--set", set]);
    }
    Output::of(&mut command).expect_code(0).says(&["warning: no row", "the label `spare`"]);
    let shown = cluster.show(&run);
    assert!(shown["metrics"]["eval/accuracy"].as_f64().unwrap() > 0.8, "{:#}", shown["metrics"]);
    assert!(shown["metrics"]["eval/mcc"].is_f64(), "{:#}", shown["metrics"]);
    assert_documented(&shown);
    let mut command = cluster.command("worker");
    command.args(["predict", "--checkpoint", "classifier", "--json", "--threads", "1"]);
    command.args(["--text", "every dog sees the dog .", "--text", "a ship leaves the city ."]);
    let lines = Output::of(&mut command).expect_code(0).json_lines();
    assert_eq!((&lines[0]["label"], &lines[1]["label"]), (&"alive".into(), &"other".into()), "{lines:#?}");
    // transformers has no such classifier: who exports it is told.
    let (exported, said) = export(&cluster, "classifier", "classifier-mean");
    said.says(&["WARNING", "predictions are WRONG", "worker predict --model"]);
    assert_eq!(said.json()["warnings"].as_array().map(Vec::len), Some(1));
    write_predictions(&exported, &lines);

    // Pairs: the class is that of the second text, and the run says by itself that there are two.
    let texts = std::fs::read_to_string(&cluster.corpus.classified).unwrap();
    let rows: Vec<Value> = texts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pairs = rows.iter().zip(rows.iter().cycle().skip(1));
    let pairs =
        pairs.map(|(a, b)| json!({"text": a["text"], "pair": b["text"], "label": b["label"]}).to_string() + "\n");
    let file = cluster.path("pairs.jsonl");
    std::fs::write(&file, pairs.collect::<String>()).unwrap();
    let run = cluster.submit(&[
        &format!("data.paths=[\"{}\"]", file.display()),
        "data.pair_column=pair",
        "data.label_column=label",
        &format!("init.from=hf:{folder}"),
        "run.kind=finetune",
        "run.name=pairs",
        "run.steps=30",
        "objective.kind=classify",
        "optimizer.learning_rate=3e-3",
    ]);
    cluster.until_completed(&run);
    let (exported, said) = export(&cluster, "pairs", "pairs");
    assert_eq!(said.json()["warnings"], json!([]));
    let predict = |arguments: &[&str], text: &str| {
        let mut command = cluster.command("worker");
        Output::of(command.arg("predict").args(arguments).args(["--text", text, "--threads", "1", "--json"]))
    };
    let pair = "every dog sees the dog .\ta ship leaves the city .";
    let line = predict(&["--checkpoint", "pairs"], pair).expect_code(0).json();
    assert_eq!(
        (&line["text"], &line["pair"]),
        (&json!("every dog sees the dog ."), &json!("a ship leaves the city ."))
    );
    let exported_path = exported.to_str().unwrap();
    assert_eq!(predict(&["--model", exported_path, "--pairs"], pair).expect_code(0).json(), line);
    predict(&["--checkpoint", "pairs"], "every dog").expect_code(5).says(&["the model reads pairs", "a tab"]);
    write_predictions(&exported, &[line]);
}

#[test]
fn questions_choices_and_numbers_are_predicted_as_transformers_does() {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let pretrained = cluster.submit(&["run.steps=10"]);
    cluster.until_completed(&pretrained);
    let texts = std::fs::read_to_string(&cluster.corpus.classified).unwrap();
    let texts = texts.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].clone());
    let texts: Vec<String> = texts.map(|text| text.as_str().unwrap().to_owned()).collect();
    let predict = |arguments: &[&str]| {
        let mut command = cluster.command("worker");
        Output::of(command.arg("predict").args(arguments).args(["--threads", "1"]))
    };

    // The answer is the first word but one; every fifth question has none.
    let lines = texts.iter().enumerate().map(|(row, text)| {
        let second = text.split(' ').nth(1).unwrap();
        let start = text.find(second).unwrap();
        let answers = if row % 5 == 0 { json!([]) } else { json!([{"text": second, "answer_start": start}]) };
        json!({"context": text, "question": "the old dog", "answers": answers}).to_string() + "\n"
    });
    let file = cluster.path("questions.jsonl");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let run = cluster.submit(&[
        &format!("data.paths=[\"{}\"]", file.display()),
        "data.column=context",
        "init.from=run:tiny",
        "run.kind=finetune",
        "run.name=answers",
        "run.steps=20",
        "objective.kind=answer",
        "objective.no_answer_threshold=1.5",
        "optimizer.learning_rate=3e-3",
    ]);
    cluster.until_completed(&run);
    let (folder, _) = export(&cluster, "answers", "answers");
    let passage = texts[1].as_str();
    let asked = ["--question", "the old dog", "--passage", passage, "--top", "4", "--json"];
    let mut line = predict(&[&["--checkpoint", "answers"], &asked[..]].concat()).expect_code(0).json();
    let at = folder.to_str().unwrap();
    // The folder says how the run read questions, and when there is no answer.
    assert_eq!(predict(&[&["--model", at], &asked[..]].concat()).expect_code(0).json(), line);
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["trireme_reading"]["no_answer_threshold"], 1.5);
    assert_eq!(line["answers"].as_array().map(Vec::len), Some(4), "{line:#}");
    line["context"] = json!(passage);
    write_predictions(&folder, &[line]);

    let none = predict(&["--model", at, "--file", file.to_str().unwrap(), "--no-answer-threshold=-1000", "--json"]);
    let lines = none.expect_code(0).json_lines();
    assert_eq!(lines.len(), texts.len());
    assert!(lines.iter().all(|line| line["answer"] == "" && line["start"] == Value::Null), "{:#}", lines[0]);
    let squad = cluster.path("squad.json");
    let paragraph = json!({"context": passage, "qas": [{"id": "q1", "question": "the dog"}]});
    std::fs::write(&squad, json!({"data": [{"title": "t", "paragraphs": [paragraph]}]}).to_string()).unwrap();
    let told = predict(&["--model", at, "--file", squad.to_str().unwrap(), "--no-answer-threshold", "inf", "--json"]);
    let told = told.expect_code(0).json();
    let (start, end) = (told["start"].as_u64().unwrap() as usize, told["end"].as_u64().unwrap() as usize);
    assert_eq!((&told["id"], told["answer"].as_str().unwrap()), (&json!("q1"), &passage[start..end]));
    predict(&["--model", at, "--text", "the dog"]).expect_code(5).says(&["text 1", "no tab", "context"]);

    // Which word comes first in the text; two or three choices, with or without labels of their own.
    let lines = texts.iter().enumerate().map(|(row, text)| {
        let mut words: Vec<&str> = text.split(' ').take(3).collect();
        words.sort_unstable();
        words.dedup();
        if words.len() < 2 {
            words = vec![text.as_str(), "old"];
        }
        let right = words.iter().position(|word| text.starts_with(word)).unwrap();
        let named: Vec<String> = (1..=words.len()).map(|number| number.to_string()).collect();
        let plain = json!({"text": text, "question": "the old dog", "choices": words, "right": right});
        let labelled = json!({
            "text": text, "question": "the old dog", "choices": {"text": words, "label": named}, "right": named[right],
        });
        (if row % 2 == 0 { plain } else { labelled }).to_string() + "\n"
    });
    let file = cluster.path("choices.jsonl");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let run = cluster.submit(&[
        &format!("data.paths=[\"{}\"]", file.display()),
        "data.pair_column=question",
        "data.choice_columns=[\"choices\"]",
        "data.label_column=right",
        "init.from=run:tiny",
        "run.kind=finetune",
        "run.name=chooser",
        "run.steps=20",
        "objective.kind=choose",
        "optimizer.learning_rate=3e-3",
    ]);
    cluster.until_completed(&run);
    let shown = cluster.show(&run);
    assert!(shown["metrics"]["eval/accuracy"].is_f64(), "{shown:#}");
    assert_documented(&shown);
    let (folder, _) = export(&cluster, "chooser", "chooser");
    let at = folder.to_str().unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], json!(["BertForMultipleChoice"]));
    assert_eq!(config["trireme_reading"]["pairs"], true);
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card.contains("pipeline_tag: multiple-choice"), "{card}");
    let lines = predict(&["--model", at, "--file", file.to_str().unwrap(), "--json"]).expect_code(0).json_lines();
    assert_eq!(lines.len(), texts.len());
    let sums = lines.iter().map(|line| {
        line["choices"].as_array().unwrap().iter().map(|choice| choice["probability"].as_f64().unwrap()).sum::<f64>()
    });
    assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-9));
    assert_eq!(lines[1]["label"], json!((lines[1]["number"].as_u64().unwrap() + 1).to_string()));
    write_predictions(&folder, &lines[..8]);
    let text = format!("{}\tthe old dog", texts[0]);
    let told = predict(&["--checkpoint", "chooser", "--text", &text, "--choice", "the dog", "--choice", "old"]);
    let told = told.expect_code(0).stdout;
    assert!(told.starts_with("the dog\t") || told.starts_with("old\t"), "{told}");
    predict(&["--model", at, "--text", "the dog"]).expect_code(5).says(&["text 1", "no question", "choices"]);

    let lines = texts.iter().map(|text| json!({"text": text, "score": text.matches("the").count()}).to_string() + "\n");
    let file = cluster.path("numbers.jsonl");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let run = cluster.submit(&[
        &format!("data.paths=[\"{}\"]", file.display()),
        "data.label_column=score",
        "init.from=run:tiny",
        "run.kind=finetune",
        "run.name=numbers",
        "run.steps=20",
        "objective.kind=classify",
        "objective.regression=true",
        "optimizer.learning_rate=3e-3",
    ]);
    cluster.until_completed(&run);
    let (folder, _) = export(&cluster, "numbers", "numbers");
    let line = predict(&["--checkpoint", "numbers", "--text", passage, "--json"]).expect_code(0).json();
    assert!(line["number"].is_f64(), "{line:#}");
    write_predictions(&folder, &[line]);
    let plain = predict(&["--checkpoint", "numbers", "--text", passage, "--top", "2"]);
    plain.expect_code(2).says(&["--top is for models that answer questions"]);

    // The same for onnxruntime: in the model's own folder, and in another without the rows that pad the vocabulary.
    let export_onnx = |arguments: &[&str], out: &Path| {
        let mut command = cluster.command("worker");
        Output::of(command.arg("export-onnx").args(arguments).args(["--json", "--out"]).arg(out))
    };
    let deployed = cluster.path("deployed");
    for (source, out) in [(["--model", folder.to_str().unwrap()], &folder), (["--checkpoint", "numbers"], &deployed)] {
        let told = export_onnx(&source, out).expect_code(0).json();
        assert_eq!(told["dense_bytes"], told["dense_bytes_float32"]);
        let told = export_onnx(&[&source[..], &["--int8", "--weight-bits", "7"]].concat(), out).expect_code(0).json();
        let share = told["dense_bytes"].as_f64().unwrap() / told["dense_bytes_float32"].as_f64().unwrap();
        assert!((0.25..0.32).contains(&share), "{told:#}");
        assert!(out.join("model.onnx").exists() && out.join("model_int8.onnx").exists());
        assert_eq!(rows(out), 30);
    }
    let mixed = export_onnx(&["--checkpoint", "answers"], &deployed);
    mixed.expect_code(5).says(&[deployed.to_str().unwrap(), "is not empty", "--overwrite"]);
}

#[test]
fn a_sweep_over_seeds_and_folds_shares_the_workers() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let pretrained = cluster.submit(&[]);
    cluster.until_completed(&pretrained);
    let paths = format!("data.paths=[\"{}\"]", cluster.corpus.classified.display());
    let config = cluster.config();
    let mut arguments = vec!["sweep", "submit", config.to_str().unwrap(), "--seeds", "2", "--folds", "2", "--wait"];
    for set in [
        &paths,
        "data.label_column=label",
        "init.from=run:tiny",
        "run.kind=finetune",
        "run.name=folds",
        "run.steps=60",
        "run.min_workers=2",
        "objective.kind=classify",
        "optimizer.learning_rate=3e-3",
        "eval.samples=1000",
    ] {
        arguments.extend(["--set", set]);
    }
    arguments.push("--json");
    let lines = cluster.coordinator(&arguments).expect_code(0).json_lines();
    assert_eq!((&lines[0]["sweep"], lines[0]["runs"].as_array().unwrap().len()), (&json!("folds"), 4));
    let sweep = &lines[1];
    let runs = sweep["runs"].as_array().unwrap();
    let places: Vec<(i64, i64)> =
        runs.iter().map(|run| (run["seed"].as_i64().unwrap(), run["fold"].as_i64().unwrap())).collect();
    assert_eq!(places, [(11, 0), (11, 1), (12, 0), (12, 1)]);
    let mut values = Vec::new();
    for run in runs {
        let shown = cluster.show(run["run"].as_str().unwrap());
        assert_eq!((&shown["sweep"], &shown["status"]), (&json!("folds"), &json!("completed")));
        assert_eq!((&shown["parent"]["run"], &shown["parent"]["step"]), (&json!(pretrained), &json!(30)));
        cluster.verify_ledger(run["run"].as_str().unwrap());
        values.push(shown["metrics"]["eval/accuracy"].as_f64().unwrap());
    }
    assert!(values.iter().all(|value| *value > 0.7), "{values:?}");
    let mean = values.iter().sum::<f64>() / 4.0;
    let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
    let told = &sweep["combinations"][0]["metrics"]["eval/accuracy"];
    assert_eq!(told["n"], 4);
    assert!((told["mean"].as_f64().unwrap() - mean).abs() < 1e-12, "{told}");
    assert!((told["deviation"].as_f64().unwrap() - deviation).abs() < 1e-12, "{told}");
}

#[test]
fn prompts_label_texts_with_and_without_examples() {
    let mut cluster = Cluster::start();
    cluster.add_workers(2);
    let pretrained = cluster.submit(&["run.steps=120"]);
    cluster.until_completed(&pretrained);
    let rows = std::fs::read_to_string(&cluster.corpus.classified).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: String = rows
        .iter()
        .map(|row| format!("{}\t{}\n", row["text"].as_str().unwrap(), row["label"].as_str().unwrap()))
        .collect();
    let file = cluster.path("labelled.tsv");
    std::fs::write(&file, lines).unwrap();
    let prompt = |arguments: &[&str]| {
        let mut command = cluster.command("worker");
        Output::of(command.arg("prompt").args(arguments).args(["--threads", "1", "--json"]))
    };
    let file = file.display().to_string();
    let template =
        ["--template", "{text} the [MASK] sees .", "--label", "alive=dog,child", "--label", "other=ship,city"];
    let asked = |checkpoint: &str, more: &[&str]| {
        let arguments = [&["--checkpoint", checkpoint, "--labelled", "--file", &file][..], more].concat();
        prompt(&arguments).expect_code(0).json_lines()
    };
    let zero = asked("tiny", &[&template[..], &["--calibrate"]].concat());
    assert_eq!(zero.len(), rows.len() + 1);
    assert_eq!(zero.last().unwrap()["metrics"]["texts"], rows.len());
    let sum: f64 = zero[0]["scores"].as_object().unwrap().values().map(|score| score.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{}", zero[0]);
    prompt(&["--checkpoint", "tiny", "--text", "a dog ."])
        .expect_code(2)
        .says(&["brings no prompt along", "--template"]);

    let paths = format!("data.paths=[\"{}\"]", cluster.corpus.classified.display());
    let settings = [
        paths.as_str(),
        "data.label_column=label",
        "run.kind=finetune",
        "objective.kind=cloze",
        "objective.prompt={text} the [MASK] sees .",
        "objective.verbalizers.alive=[\"dog\", \"child\"]",
        "objective.verbalizers.other=[\"ship\", \"city\"]",
        "optimizer.learning_rate=3e-3",
    ];
    let run = cluster.submit(&[&settings[..], &["init.from=run:tiny", "run.name=few", "run.steps=80"]].concat());
    cluster.until_completed(&run);
    let shown = cluster.show(&run);
    assert!(shown["metrics"]["eval/accuracy"].as_f64().unwrap() > 0.8, "{:#}", shown["metrics"]);
    assert!(shown["metrics"]["eval/mcc"].is_f64(), "{:#}", shown["metrics"]);
    // Prompt and words come with the run; it stays a model of masked words.
    let few = asked("few", &[]);
    let (before, after) = (&zero.last().unwrap()["metrics"], &few.last().unwrap()["metrics"]);
    assert!(after["accuracy"].as_f64().unwrap() > 0.85, "{before} {after}");
    let (folder, _) = export(&cluster, "few", "few-shot");
    let folder = folder.display().to_string();
    let again = [&["--model", &folder, "--labelled", "--file", &file][..], &template].concat();
    assert_eq!(prompt(&again).expect_code(0).json_lines().last(), few.last());

    // A word of several pieces is refused when the run is submitted, and so is a model without the head.
    let wrong = [&settings[..], &["init.from=run:tiny", "objective.verbalizers.other=[\"aship\"]"]].concat();
    let config = cluster.config().display().to_string();
    let submit = |set: &[&str]| {
        let sets = set.iter().flat_map(|set| ["--set", set]);
        cluster.coordinator(&["submit", config.as_str()].into_iter().chain(sets).collect::<Vec<_>>())
    };
    submit(&wrong).expect_code(5).says(&["label `other`", "`aship`"]);
    let tagged = format!("data.paths=[\"{}\"]", cluster.corpus.tagged.display());
    let tagger = cluster.submit(&[
        &tagged,
        "init.from=run:tiny",
        "run.kind=finetune",
        "run.name=tagger",
        "run.steps=2",
        "objective.kind=tag",
    ]);
    cluster.until_completed(&tagger);
    let headless = [&settings[..], &["init.from=run:tagger"]].concat();
    submit(&headless).expect_code(5).says(&["run:tagger", "no head over the vocabulary", "learned `tag`"]);
    let (folder, _) = export(&cluster, "tagger", "headless");
    let from = format!("init.from=hf:{}", folder.display());
    let headless = [&settings[..], &[from.as_str()]].concat();
    submit(&headless).expect_code(5).says(&["no head over the vocabulary", "none among its weights"]);
}
