//! `[distill]`

use crate::init::InitSource;
use crate::{Architecture, ModelConfig, ModelShape, RunConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which tokens the student is to predict as its teacher does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DistillOver {
    /// All real tokens, as DistilBERT was made.
    #[default]
    Tokens,
    /// The masked ones: less work by far, since the vocabulary's product is made for them only.
    Masked,
}

/// A student learns from a teacher (`objective.kind = "distill"`; Sanh et al. 2019). It starts from some of the teacher's
/// layers and has the teacher's sizes but for `model.layers`; `model.architecture` is `distilbert` or `bert`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// The teacher: a `bert` with a head over words, as `run:RUN`, `run:RUN@STEP` or `hf:PATH` (see `init.from`). Every
    /// worker loads it.
    pub teacher: String,
    /// The teacher's layers that the student's start from, one for each, counted from 0. Empty: every second, or as
    /// evenly as they go into `model.layers`; the original's are 0, 2, 4, 7, 9, 11.
    #[serde(default)]
    pub layers: Vec<i64>,
    /// What both predictions are divided by before they are compared.
    #[serde(default = "two")]
    pub temperature: f64,
    /// The factor of the divergence from the teacher, which is multiplied by the squared temperature besides.
    #[serde(default = "five")]
    pub divergence_weight: f64,
    /// The factor of the loss of masked words.
    #[serde(default = "two")]
    pub mlm_weight: f64,
    /// The factor of 1 − cosine of the last hidden states, over all real tokens.
    #[serde(default = "one")]
    pub cosine_weight: f64,
    /// `tokens` or `masked`: where the predictions are compared.
    #[serde(default)]
    pub over: DistillOver,
}

fn one() -> f64 {
    1.0
}

fn two() -> f64 {
    2.0
}

fn five() -> f64 {
    5.0
}

impl DistillConfig {
    /// Parses `teacher`; an error is the text to show.
    pub fn source(&self) -> Result<InitSource, String> {
        match InitSource::parse(&self.teacher)? {
            InitSource::Seed => Err("is empty".to_owned()),
            source => Ok(source),
        }
    }

    /// The teacher's layer for each of the student's.
    ///
    /// # Errors
    /// What of the config does not go with the teacher.
    pub fn layers_of(&self, teacher: i64, student: i64) -> Result<Vec<i64>, String> {
        if self.layers.is_empty() {
            return Ok((0..student).map(|layer| layer * teacher / student.max(1)).collect());
        }
        if self.layers.len() as i64 != student || self.layers.iter().any(|layer| !(0..teacher).contains(layer)) {
            return Err(format!(
                "distill.layers: {:?} are not {student} of the teacher's layers 0 to {}: name one for each of the \
                 student's layers",
                self.layers,
                teacher - 1
            ));
        }
        Ok(self.layers.clone())
    }
}

impl ModelConfig {
    /// The shape of a student: its teacher's but for architecture and layers. What the config says otherwise must agree.
    ///
    /// # Errors
    /// What of the config does not agree, or cannot be a student's.
    pub fn student(&self, teacher: ModelShape) -> Result<ModelShape, String> {
        if teacher.architecture != Architecture::Bert {
            return Err(format!("distill.teacher: it is a {:?}, and only a `bert` can teach", teacher.architecture));
        }
        let layers = self.layers.unwrap_or((teacher.layers / 2).max(1));
        if layers > teacher.layers {
            return Err(format!("model.layers: {layers}, but the teacher has {}: give it fewer", teacher.layers));
        }
        let same = Self { architecture: Architecture::Bert, layers: None, ..self.clone() };
        let shape = same.inherit(teacher).map_err(|text| text.replace("init.from", "distill.teacher"))?;
        let distilbert = self.architecture == Architecture::Distilbert;
        if distilbert && shape.layer_norm_epsilon != 1e-12 {
            return Err(
                "model.architecture: the LayerNorm of `distilbert` has an epsilon of 1e-12, the teacher's has \
                        another: use model.architecture = \"bert\""
                    .to_owned(),
            );
        }
        let segment_types = if distilbert { 0 } else { shape.segment_types };
        Ok(ModelShape { architecture: self.architecture, layers, segment_types, ..shape })
    }
}

impl RunConfig {
    /// The key that names the model that this run needs, and what it names: that of `init.from`, or the teacher.
    pub fn source(&self) -> (&'static str, Result<InitSource, String>) {
        match &self.distill {
            Some(distill) => ("distill.teacher", distill.source()),
            None => ("init.from", self.init.source()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distill(layers: &[i64]) -> DistillConfig {
        let text = format!("teacher = \"run:a@3\"\nlayers = {layers:?}");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn every_second_layer_is_taken() {
        assert_eq!(distill(&[]).layers_of(12, 6), Ok(vec![0, 2, 4, 6, 8, 10]));
        assert_eq!(distill(&[]).layers_of(4, 3), Ok(vec![0, 1, 2]));
        assert_eq!(distill(&[0, 2, 4, 7, 9, 11]).layers_of(12, 6), Ok(vec![0, 2, 4, 7, 9, 11]));
        assert!(distill(&[0, 12]).layers_of(12, 2).is_err_and(|text| text.contains("0 to 11")));
        assert!(distill(&[0]).layers_of(12, 2).is_err());
        assert_eq!(distill(&[]).source(), Ok(InitSource::Run { run: "a".into(), step: Some(3) }));
    }

    #[test]
    fn a_student_has_its_teachers_sizes() {
        let teacher = ModelConfig { layers: Some(4), ..ModelConfig::default() }.shape(1000, 128);
        let student = ModelConfig { architecture: Architecture::Distilbert, ..ModelConfig::default() };
        let shape = student.student(teacher.clone()).unwrap();
        assert_eq!((shape.layers, shape.hidden, shape.segment_types), (2, teacher.hidden, 0));
        let refused = |change: ModelConfig| change.student(teacher.clone()).unwrap_err();
        assert!(
            refused(ModelConfig { hidden: Some(64), ..student.clone() }).contains("the model of distill.teacher has")
        );
        assert!(refused(ModelConfig { layers: Some(5), ..student.clone() }).contains("the teacher has 4"));
        let modern = ModelConfig { architecture: Architecture::Modern, ..ModelConfig::default() }.shape(1000, 128);
        assert!(student.student(modern).unwrap_err().contains("only a `bert` can teach"));
    }
}
