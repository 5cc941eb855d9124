//! The teacher that a student learns from (`[distill]`): another model, which is never trained. Every member holds it.

use crate::host::Host;
use crate::initial::check_tokenizer;
use crate::{TrainError, verify};
use c10d::ProcessGroup;
use config::{CheckedConfig, DistillConfig, DistillOver, InitSource, ModelConfig, ModelShape};
use corpus::Tokenizer;
use model::{Head, Input, Missing, Model, distil, hugging_face, safetensors_io};
use std::path::Path;
use tch::{Device, Tensor};
use types::Digest;

/// A teacher and how to learn from it.
pub(crate) struct Teacher {
    model: Model,
    distill: DistillConfig,
    /// Rows of the vocabulary that are words; what comes after them was never trained.
    words: i64,
    digest: Digest,
}

impl Teacher {
    /// Reads what `distill.teacher` names; None where the config names none. Its words must be those of `tokenizer`.
    pub fn load(
        config: &CheckedConfig,
        tokenizer: &Tokenizer,
        host: &dyn Host,
        device: Device,
    ) -> Result<Option<Self>, TrainError> {
        let Some(distill) = config.distill.clone() else { return Ok(None) };
        let path = &config.tokenizer.path;
        let failed =
            |text: &dyn std::fmt::Display| TrainError::fatal(format!("distill.teacher: {}: {text}", distill.teacher));
        let (source, tensors) = match distill.source().map_err(|error| failed(&error))? {
            InitSource::HuggingFace { path } => {
                let folder = hugging_face::read_folder(Path::new(&path)).map_err(|error| failed(&error))?;
                let theirs = folder.tokenizer_identity.as_deref();
                tokenizer.check_identity(&config.tokenizer.path, theirs).map_err(|error| failed(&error))?;
                (folder.shape, folder.tensors)
            }
            InitSource::Run { .. } | InitSource::Seed => {
                let files = host.parent().map_err(|error| failed(&error))?;
                check_tokenizer(path, tokenizer, &files).map_err(|error| failed(&error))?;
                let file =
                    |name: &str| files.files.get(name).ok_or_else(|| failed(&format!("the checkpoint has no {name}")));
                let text = String::from_utf8_lossy(file("config.json")?);
                let (shape, _) = hugging_face::from_config_json(&text).map_err(|error| failed(&error))?;
                (shape, safetensors_io::read(file("model.safetensors")?).map_err(|error| failed(&error))?)
            }
        };
        // The rows that an export cut off are there again, as in the student.
        let shape = ModelConfig::default().inherit(source).map_err(|error| failed(&error))?;
        let mut model = Model::new(&shape, Head::MaskedLm, 0, device).map_err(|error| failed(&error))?;
        let report = model.load_parameters(&tensors, Missing::Keep).map_err(|error| failed(&error))?;
        if let Some(lacks) = report.missing.iter().chain(&report.shape_mismatches).next() {
            return Err(failed(&format!("it has no head over words ({lacks} is missing): only a masked LM can teach")));
        }
        let words = tokenizer.size() as i64;
        if words > shape.vocabulary {
            let why = format!("it has {} words and {path} has {words}: they do not belong together", shape.vocabulary);
            return Err(failed(&why));
        }
        let digest =
            safetensors_io::digest(tensors.iter().map(|(_, tensor)| tensor)).map_err(|error| failed(&error))?;
        tracing::info!(teacher = %distill.teacher, layers = shape.layers, hidden = shape.hidden, "the teacher is here");
        // A copy that nothing asks gradients of.
        Ok(Some(Self { model: model.duplicate(), distill, words, digest }))
    }

    /// Whether all members learn from the same: a folder may be another one on another host. Every member asks.
    pub fn compare(&self, group: &ProcessGroup) -> Result<(), TrainError> {
        let own = verify::first_bytes(&self.digest.0);
        let digests = group.all_gather_i64(own).map_err(|error| TrainError::collective(None, error))?;
        let said = format!("distill.teacher: {}: its weights are not the same on all hosts", self.distill.teacher);
        match verify::majority(&digests) {
            Some(right) if right == own => Ok(()),
            Some(_) => Err(TrainError::local(format!("{said}, and this one differs from most: copy the folder anew"))),
            None => Err(TrainError::fatal(format!("{said}: copy one folder to all of them"))),
        }
    }

    /// The student's shape.
    pub fn student(&self, config: &ModelConfig) -> Result<ModelShape, TrainError> {
        config.student(self.model.shape().clone()).map_err(TrainError::fatal)
    }

    /// Gives a student that was just made the weights of the teacher's layers.
    pub fn initialise(&self, student: &mut Model) -> Result<(), TrainError> {
        let failed = |text: &dyn std::fmt::Display| TrainError::fatal(format!("distill.teacher: {text}"));
        let shape = student.shape().clone();
        let layers = self.distill.layers_of(self.model.shape().layers, shape.layers).map_err(TrainError::fatal)?;
        let parameters = self.model.parameters().into_iter();
        let tensors: Vec<_> = parameters.map(|parameter| (parameter.name, parameter.tensor)).collect();
        let taken = distil::student_weights(self.model.shape().architecture, shape.architecture, &tensors, &layers);
        let taken = taken.map_err(|error| failed(&error))?;
        let report = student.load_parameters(&taken, Missing::Refuse).map_err(|error| failed(&error))?;
        tracing::info!(teacher = %self.distill.teacher, ?layers, loaded = report.loaded, "the student has its layers");
        Ok(())
    }

    /// The divergence from the teacher's predictions and 1 − cosine of the last hidden states, both summed: float32
    /// scalars, differentiable in the student. `hidden` is the student's, `positions` are the masked words.
    pub fn distances(&self, student: &Model, hidden: &Tensor, input: &Input, positions: &Tensor) -> [Tensor; 2] {
        let size = input.ids.size();
        let tokens = match &input.mask {
            Some(mask) => mask.reshape([-1]).nonzero().squeeze_dim(1),
            None => Tensor::arange(size[0] * size[1], (tch::Kind::Int64, hidden.device())),
        };
        let compared = match self.distill.over {
            DistillOver::Tokens => &tokens,
            DistillOver::Masked => positions,
        };
        let (theirs, wanted) = tch::no_grad(|| {
            let theirs = self.model.encode(input, false);
            let wanted = self.model.mlm_logits(&theirs, compared).narrow(1, 0, self.words);
            (theirs, wanted)
        });
        let ours = student.mlm_logits(hidden, compared).narrow(1, 0, self.words);
        [distil::divergence_sum(&ours, &wanted, self.distill.temperature), distil::cosine_sum(hidden, &theirs, &tokens)]
    }
}
