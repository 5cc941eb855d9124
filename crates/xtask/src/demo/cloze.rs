//! The same task as a question to the head over the vocabulary: as the pretrained model answers it (zero-shot), and tuned on
//! the examples (PET).

use super::task::{Examples, Task};
use crate::cluster::{Cluster, set};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A sentence around the text, and the words that stand for each label.
pub struct Prompt {
    pub template: &'static str,
    pub words: [(&'static str, &'static [&'static str]); 2],
}

impl Prompt {
    /// What tunes on it.
    pub fn settings(&self) -> Vec<[String; 2]> {
        let mut settings = vec![set("objective.kind", "cloze"), set("objective.prompt", self.template)];
        settings.extend(
            self.words.iter().map(|(label, words)| set(&format!("objective.verbalizers.{label}"), json!(words))),
        );
        settings
    }

    /// Accuracy on the held-out texts without any training, as it is and calibrated by what an empty text gets.
    pub fn zero_shot(
        &self,
        cluster: &Cluster<'_>,
        run: &str,
        task: &Task,
        held_out: usize,
        out: &Path,
    ) -> Result<BTreeMap<String, f64>> {
        let Examples::Texts(split) = &task.examples else { return Ok(BTreeMap::new()) };
        let line = |text: &str, label: &str| format!("{}\t{label}\n", text.replace(['\t', '\n', '\r'], " "));
        let file = out.join(format!("{}-labelled.tsv", task.name));
        let texts = split.test.iter().take(held_out);
        fs::write(&file, texts.map(|text| line(&text.text, &text.label)).collect::<String>())?;
        let (file, labels) =
            (file.display().to_string(), self.words.map(|(label, words)| format!("{label}={}", words.join(","))));
        let mut arguments = vec!["prompt", "--checkpoint", run, "--template", self.template, "--labelled", "--json"];
        arguments.extend(labels.iter().flat_map(|label| ["--label", label]));
        arguments.extend(["--file", &file]);
        let mut results = BTreeMap::new();
        for (name, more) in [("zero-shot", None), ("zero-shot, calibrated", Some("--calibrate"))] {
            let arguments: Vec<&str> = arguments.iter().copied().chain(more).collect();
            let printed = cluster.worker(&arguments)?;
            let last: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())
                .with_context(|| format!("no JSON: {printed}"))?;
            let accuracy = last["metrics"]["accuracy"].as_f64().context("the last line has the accuracy")?;
            println!("  no examples, {name}: {accuracy:.3}");
            results.insert(name.to_owned(), accuracy);
        }
        Ok(results)
    }
}
