//! Encoders of the BERT family on one device: BERT as published and its relatives, the ModernBERT layout, their heads and
//! losses, and Hugging Face's names, `config.json` and safetensors both ways.
//!
//! Parameters are leaves under exactly the names that Hugging Face uses, so a checkpoint, a gradient and an optimizer
//! state mean the same thing here and there. Parallelism comes from outside: nothing here may know of ranks, process
//! groups, gRPC or the coordinator. No state beside the parameters: the random numbers of dropout come from libtorch's
//! generator, which the caller seeds.

mod attention;
mod bert;
pub mod distil;
mod electra;
mod error;
mod graphs;
mod heads;
pub mod hugging_face;
mod initial;
mod layout;
mod load;
mod lora;
mod modern;
mod names;
mod network;
pub mod onnx_graph;
mod rows;
pub mod safetensors_io;
mod torch_file;

pub use electra::Filled;
pub use error::ModelError;
pub use heads::Head;
pub use heads::span_boundary::{Boundaries, SPAN_TARGETS};
pub use load::{LoadReport, Missing};
pub use network::{Execution, Input, Model, Parameter};
