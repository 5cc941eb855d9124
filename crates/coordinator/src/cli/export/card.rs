//! The model card that comes with an export: what it was made from, how, how good it is, and what it descends from.

use crate::cli::output;
use corpus::CARD_TAGS;
use proto::v1;
use serde_json::{Value, json};
use std::fmt::Write;

/// What the card is made of.
pub struct Facts<'a> {
    pub run: &'a v1::Run,
    pub checkpoint: &'a v1::CheckpointRef,
    /// config.json as it is exported.
    pub config: &'a Value,
    /// blake3 of model.safetensors as it is exported.
    pub weights: &'a str,
}

/// `README.md`: YAML that Hugging Face's hub reads, then Markdown.
pub fn card(facts: &Facts) -> String {
    let Facts { run, checkpoint, config, weights } = facts;
    let class = config["architectures"][0].as_str().unwrap_or("BertModel");
    let mut out = front_matter(run, config, class);
    let _ = writeln!(out, "# {}\n", run.name);
    let number = |key: &str| config[key].as_i64().map_or_else(|| "?".to_owned(), |number| number.to_string());
    let _ = writeln!(
        out,
        "{class}: {} layers of width {}, {} heads, {} tokens in the vocabulary, {} positions. Trained with Trireme \
         (`{}`), step {} of {}.\n",
        number("num_hidden_layers"),
        number("hidden_size"),
        number("num_attention_heads"),
        number("vocab_size"),
        number("max_position_embeddings"),
        run.kind,
        checkpoint.step,
        run.total_steps,
    );
    if let Some(labels) = config["id2label"].as_object() {
        let mut labels: Vec<(usize, &str)> =
            labels.iter().filter_map(|(id, label)| Some((id.parse().ok()?, label.as_str()?))).collect();
        labels.sort_unstable();
        let labels: Vec<String> = labels.into_iter().map(|(_, label)| format!("`{label}`")).collect();
        let _ = writeln!(out, "Labels: {}.\n", labels.join(", "));
    }
    metrics(&mut out, run, checkpoint);
    lineage(&mut out, run, checkpoint);
    let _ =
        writeln!(out, "## What this folder holds\n\n| | |\n|---|---|\n| blake3 of `model.safetensors` | `{weights}` |");
    if let Some(tokenizer) = config["trireme_tokenizer"].as_str() {
        let _ = writeln!(out, "| identity of the tokenizer | `{tokenizer}` |");
    }
    // A fence longer than any in the text, which is the user's.
    let fence = "`".repeat(3.max(longest_fence(&run.config) + 1));
    let _ = writeln!(out, "\n## Data and config\n\n{fence}toml\n{}\n{fence}", run.config.trim_end());
    out
}

fn front_matter(run: &v1::Run, config: &Value, class: &str) -> String {
    let task = match class {
        _ if class.ends_with("ForMaskedLM") || class.ends_with("ForPreTraining") => "fill-mask",
        _ if class.ends_with("ForSequenceClassification") => "text-classification",
        _ if class.ends_with("ForTokenClassification") => "token-classification",
        _ if class.ends_with("ForQuestionAnswering") => "question-answering",
        _ if class.ends_with("ForMultipleChoice") => "multiple-choice",
        _ => "feature-extraction",
    };
    // A string in JSON's quotes is one in YAML, too.
    let kind = json!(config["model_type"].as_str().unwrap_or("bert"));
    format!(
        "---\nlibrary_name: transformers\npipeline_tag: {task}\n{CARD_TAGS}- {kind}\nmodel_name: {}\n---\n\n",
        json!(run.name)
    )
}

fn metrics(out: &mut String, run: &v1::Run, checkpoint: &v1::CheckpointRef) {
    let same = |it: &&v1::Checkpoint| it.checkpoint.as_ref() == Some(checkpoint);
    let loss = run.checkpoints.iter().find(same).and_then(|it| it.eval_loss);
    let evaluated: Vec<&v1::Metric> = run.metrics.iter().filter(|metric| metric.key.starts_with("eval/")).collect();
    if loss.is_none() && evaluated.is_empty() {
        out.push_str("## Metrics\n\nIt was not evaluated.\n\n");
        return;
    }
    out.push_str("## Metrics\n\n| metric | value | at step |\n|---|---|---|\n");
    if let Some(loss) = loss {
        let loss = output::metric(loss, Some(4));
        let _ = writeln!(out, "| held-out loss of this checkpoint | {loss} | {} |", checkpoint.step);
    }
    for metric in evaluated {
        let value = output::metric(metric.value, Some(4));
        let _ = writeln!(out, "| `{}`, the run's latest | {value} | {} |", metric.key, metric.step);
    }
    out.push('\n');
}

fn lineage(out: &mut String, run: &v1::Run, checkpoint: &v1::CheckpointRef) {
    let v1::CheckpointRef { run: id, generation, step } = checkpoint;
    out.push_str("## Lineage\n\n| | |\n|---|---|\n");
    let _ = writeln!(out, "| run | `{}` (`{id}`), generation {generation}, step {step} |", run.name);
    let parent = run.parent.as_ref().map_or_else(
        || "see `init` in the config; where there is none, weights drawn from the seed".to_owned(),
        |parent| format!("run `{}`, generation {}, step {}", parent.run, parent.generation, parent.step),
    );
    let _ = writeln!(out, "| started from | {parent} |");
    if *step == run.step {
        let _ =
            writeln!(out, "| weights (SHA-256 of all parameters in training) | `{}` |", or_none(&run.weights_digest));
        let _ = writeln!(out, "| samples used (chain of the ledger) | `{}` |", or_none(&run.samples_digest));
    }
    out.push('\n');
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "not recorded" } else { text }
}

/// The most backquotes in a row.
fn longest_fence(text: &str) -> usize {
    text.split(|character| character != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_what_the_model_is_and_where_it_comes_from() {
        let checkpoint = v1::CheckpointRef { run: "019a".into(), generation: 2, step: 40 };
        let metric = |key: &str, value| v1::Metric { key: key.into(), value, step: 40, ..Default::default() };
        let run = v1::Run {
            id: "019a".into(),
            name: "spam: \"v2\"".into(),
            kind: "finetune".into(),
            step: 40,
            total_steps: 50,
            weights_digest: "w".repeat(64),
            metrics: vec![
                metric("eval/accuracy", 0.9125),
                metric("eval/perplexity", f64::MAX),
                metric("train/loss", 0.1),
            ],
            checkpoints: vec![v1::Checkpoint {
                checkpoint: Some(checkpoint.clone()),
                eval_loss: Some(0.25),
                ..Default::default()
            }],
            parent: Some(v1::CheckpointRef { run: "0199".into(), generation: 1, step: 2000 }),
            config: "[run]\nname = \"```\"\n".into(),
            ..Default::default()
        };
        let config = json!({
            "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": 256,
            "id2label": {"1": "spam", "0": "ham"}, "trireme_tokenizer": "t0",
        });
        let card = card(&Facts { run: &run, checkpoint: &checkpoint, config: &config, weights: "b3" });
        let matter = card.strip_prefix("---\n").and_then(|rest| rest.split("\n---\n").next()).unwrap();
        assert!(matter.contains("pipeline_tag: text-classification"), "{matter}");
        assert!(matter.contains(r#"model_name: "spam: \"v2\"""#), "{matter}");
        for part in [
            "width 256",
            "Labels: `ham`, `spam`.",
            "| held-out loss of this checkpoint | 0.2500 | 40 |",
            "| `eval/accuracy`, the run's latest | 0.9125 | 40 |",
            "| `eval/perplexity`, the run's latest | 1.80e308 | 40 |",
            "run `0199`, generation 1, step 2000",
            "| blake3 of `model.safetensors` | `b3` |",
            "`t0`",
            "\n````toml\n[run]\nname = \"```\"\n````\n",
            "wwww",
        ] {
            assert!(card.contains(part), "{part}\n{card}");
        }
        assert!(!card.contains("train/loss"));
        let earlier = v1::CheckpointRef { step: 20, ..checkpoint };
        let card = super::card(&Facts { run: &run, checkpoint: &earlier, config: &config, weights: "b3" });
        assert!(!card.contains("wwww"), "the digest is of the last weights: {card}");
    }
}
