//! Graphs in ONNX's format, built node by node.
//!
//! This room knows the format and no models: what is computed, and from which numbers, the caller says.

mod graph;
mod messages;

pub use graph::{Attribute, Dimension, Element, Graph, TooLarge, Value};
