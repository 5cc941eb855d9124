//! A graph under construction.

use crate::messages::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message;
use std::collections::HashSet;
use std::fmt;

/// The first with LayerNormalization; everything that runs ONNX today has it.
const OPSET: i64 = 17;
/// The format's own version that came with it.
const IR_VERSION: i64 = 8;
/// What a protobuf message can hold.
const BYTES_MAX: usize = i32::MAX as usize;

/// What flows between nodes: inputs, stored tensors, results.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Value(String);

/// Of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// float32.
    Float = 1,
    /// Signed bytes.
    Int8 = 3,
    /// Four bytes, signed.
    Int32 = 6,
    /// Eight bytes, signed.
    Int64 = 7,
}

/// Of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// So many.
    Fixed(i64),
    /// Any number, the same wherever the name is.
    Named(&'static str),
}

/// Of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number.
    Float(f32),
    /// A whole number.
    Integer(i64),
    /// A list of whole numbers.
    Integers(Vec<i64>),
}

/// More than a file of ONNX can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// What it would have.
    pub bytes: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "the graph has {} bytes with its weights, and one file of ONNX holds {BYTES_MAX} at most",
            self.bytes
        )
    }
}

impl std::error::Error for TooLarge {}

/// A graph under construction. Every node is named after what it computes and its number.
#[derive(Debug, Default)]
pub struct Graph {
    proto: GraphProto,
    stored: HashSet<String>,
}

impl Graph {
    /// With nothing in it.
    pub fn new(name: &str) -> Self {
        let proto = GraphProto { name: Some(name.to_owned()), ..GraphProto::default() };
        Self { proto, stored: HashSet::new() }
    }

    /// What the user gives.
    pub fn input(&mut self, name: &str, element: Element, shape: &[Dimension]) -> Value {
        self.proto.input.push(described(name, element, shape));
        Value(name.to_owned())
    }

    /// What the user gets, under this name.
    pub fn output(&mut self, name: &str, value: &Value, element: Element, shape: &[Dimension]) {
        self.push("Identity", &[value], vec![name.to_owned()], &[]);
        self.proto.output.push(described(name, element, shape));
    }

    /// A stored tensor, once under each name: `bytes` (little-endian) are asked for the first time only.
    pub fn stored(&mut self, name: &str, element: Element, dims: &[i64], bytes: impl FnOnce() -> Vec<u8>) -> Value {
        if self.stored.insert(name.to_owned()) {
            self.proto.initializer.push(TensorProto {
                dims: dims.to_vec(),
                data_type: Some(element as i32),
                name: Some(name.to_owned()),
                raw_data: Some(bytes()),
            });
        }
        Value(name.to_owned())
    }

    /// A list of numbers, for shapes and axes.
    pub fn integers(&mut self, values: &[i64]) -> Value {
        let name = values.iter().fold("integers".to_owned(), |name, value| format!("{name}_{value}"));
        self.stored(&name, Element::Int64, &[values.len() as i64], || {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        })
    }

    /// One whole number, of no dimension.
    pub fn integer(&mut self, value: i64) -> Value {
        self.stored(&format!("integer_{value}"), Element::Int64, &[], || value.to_le_bytes().to_vec())
    }

    /// One number, of no dimension.
    pub fn number(&mut self, value: f32) -> Value {
        self.stored(&format!("number_{value:e}"), Element::Float, &[], || value.to_le_bytes().to_vec())
    }

    /// A node with one result.
    pub fn node(&mut self, operator: &str, inputs: &[&Value], attributes: &[(&str, Attribute)]) -> Value {
        self.nodes(operator, inputs, attributes, 1).remove(0)
    }

    /// A node with several results.
    pub fn nodes(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
        results: usize,
    ) -> Vec<Value> {
        let number = self.proto.node.len();
        let names: Vec<String> = (0..results).map(|result| format!("{operator}_{number}_{result}")).collect();
        self.push(operator, inputs, names.clone(), attributes);
        names.into_iter().map(Value).collect()
    }

    fn push(&mut self, operator: &str, inputs: &[&Value], output: Vec<String>, attributes: &[(&str, Attribute)]) {
        let name = format!("{operator}_{}", self.proto.node.len());
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output,
            name: Some(name),
            op_type: Some(operator.to_owned()),
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        });
    }

    /// The file's bytes. `metadata` are pairs of key and value.
    pub fn finish(self, producer: (&str, &str), metadata: &[(&str, String)]) -> Result<Vec<u8>, TooLarge> {
        let model = ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some(producer.0.to_owned()),
            producer_version: Some(producer.1.to_owned()),
            graph: Some(self.proto),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(OPSET) }],
            metadata_props: metadata
                .iter()
                .map(|(key, value)| StringStringEntryProto { key: Some((*key).to_owned()), value: Some(value.clone()) })
                .collect(),
        };
        let bytes = model.encoded_len();
        if bytes > BYTES_MAX { Err(TooLarge { bytes }) } else { Ok(model.encode_to_vec()) }
    }
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    match value {
        Attribute::Float(value) => (proto.f, proto.r#type) = (Some(*value), Some(1)),
        Attribute::Integer(value) => (proto.i, proto.r#type) = (Some(*value), Some(2)),
        Attribute::Integers(values) => (proto.ints, proto.r#type) = (values.clone(), Some(7)),
    }
    proto
}

fn described(name: &str, element: Element, shape: &[Dimension]) -> ValueInfoProto {
    let dim = shape.iter().map(|dimension| match dimension {
        Dimension::Fixed(size) => DimensionProto { dim_value: Some(*size), dim_param: None },
        Dimension::Named(name) => DimensionProto { dim_value: None, dim_param: Some((*name).to_owned()) },
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor_type = Some(TensorTypeProto { elem_type: Some(element as i32), shape });
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_stored_once_and_every_node_has_its_own_name() {
        let mut graph = Graph::new("g");
        let x = graph.input("x", Element::Float, &[Dimension::Named("batch"), Dimension::Fixed(2)]);
        let (one, again) = (graph.number(0.5), graph.number(0.5));
        assert_eq!(one, again);
        let y = graph.node("Mul", &[&x, &one], &[]);
        let z = graph.node("Mul", &[&y, &again], &[]);
        assert_ne!(y, z);
        graph.output("z", &z, Element::Float, &[Dimension::Named("batch"), Dimension::Fixed(2)]);
        let bytes = graph.finish(("test", "1"), &[("key", "value".into())]).unwrap();
        let read = ModelProto::decode(bytes.as_slice()).unwrap();
        let graph = read.graph.unwrap();
        assert_eq!((graph.initializer.len(), graph.node.len()), (1, 3));
        assert_eq!(graph.initializer[0].raw_data.as_deref(), Some(&0.5f32.to_le_bytes()[..]));
        assert_eq!((read.opset_import[0].version, read.metadata_props[0].value.as_deref()), (Some(17), Some("value")));
    }
}
