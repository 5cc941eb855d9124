//! From ids to the last hidden states.

use super::{Network, store};
use crate::modern::rotary_tables;
use crate::names::EncoderNames;
use crate::network::Model;
use onnx::{Attribute, Value};
use tch::Tensor;

/// What is added to the scores of what must not be seen: as in attention.rs.
const UNSEEN: f32 = -1e30;

impl Network<'_> {
    /// `[batch, length, hidden]`
    pub(super) fn encode(&mut self, model: &Model) -> Value {
        match EncoderNames::of(model.shape().architecture) {
            Some(names) => self.encode_post_norm(names),
            None => self.encode_modern(),
        }
    }

    fn encode_post_norm(&mut self, names: &EncoderNames) -> Value {
        let mut hidden = self.embed_words();
        if self.shape.segment_types > 0 {
            let table = self.stored(&format!("{}.token_type_embeddings.weight", names.embeddings));
            // With one segment there is nothing to tell: its row belongs to every token.
            let rows = match self.segments.clone() {
                Some(segments) => self.graph.node("Gather", &[&table, &segments], &[]),
                None => table,
            };
            hidden = self.graph.node("Add", &[&hidden, &rows], &[]);
        }
        let positions = self.stored(&format!("{}.position_embeddings.weight", names.embeddings));
        let positions = self.rows_from(&positions, self.shape.first_position());
        hidden = self.graph.node("Add", &[&hidden, &positions], &[]);
        hidden = self.norm(&hidden, &format!("{}.LayerNorm", names.embeddings));
        if names.projects(self.shape) {
            hidden = self.linear(&hidden, names.projection);
        }
        let unseen = self.padding();
        for layer in 0..self.shape.layers {
            let prefix = names.prefix(layer);
            let part = |name: &str| format!("{prefix}.{name}");
            let projections = [names.layer.query, names.layer.key, names.layer.value];
            let projected = projections.map(|name| self.linear(&hidden, &part(name)));
            let parts = projected.map(|value| self.heads_apart(&value));
            let attended = self.attend(&parts, &unseen);
            let attended = self.linear(&attended, &part(names.layer.attention_output));
            hidden = self.graph.node("Add", &[&attended, &hidden], &[]);
            hidden = self.norm(&hidden, &part(names.layer.attention_norm));
            let wide = self.linear(&hidden, &part(names.layer.intermediate));
            let wide = self.activate(&wide, self.shape.activation);
            let narrow = self.linear(&wide, &part(names.layer.output));
            hidden = self.graph.node("Add", &[&narrow, &hidden], &[]);
            hidden = self.norm(&hidden, &part(names.layer.output_norm));
        }
        hidden
    }

    fn encode_modern(&mut self) -> Value {
        let words = self.embed_words();
        let mut hidden = self.norm(&words, "model.embeddings.norm");
        let padding = self.padding();
        let global = self.rotary("global", self.shape.rope_theta);
        let local = self.shape.local_attention.map(|local| {
            let window = self.window(local.reach());
            let unseen = self.graph.node("Add", &[&padding, &window], &[]);
            (self.rotary("local", local.rope_theta), unseen)
        });
        for layer in 0..self.shape.layers {
            let part = |name: &str| format!("model.layers.{layer}.{name}");
            let is_local = self.shape.local_attention.is_some_and(|it| it.is_local(layer));
            let (rotary, unseen) = match &local {
                Some((rotary, unseen)) if is_local => (rotary, unseen),
                _ => (&global, &padding),
            };
            let normed = if layer > 0 { self.norm(&hidden, &part("attn_norm")) } else { hidden.clone() };
            let projected = self.linear(&normed, &part("attn.Wqkv"));
            let thirds = self.graph.nodes("Split", &[&projected], &[("axis", Attribute::Integer(-1))], 3);
            let mut parts = [0, 1, 2].map(|third: usize| self.heads_apart(&thirds[third]));
            for part in parts.iter_mut().take(2) {
                *part = self.rotate(part, rotary);
            }
            let attended = self.attend(&parts, unseen);
            let attended = self.linear(&attended, &part("attn.Wo"));
            hidden = self.graph.node("Add", &[&hidden, &attended], &[]);
            let normed = self.norm(&hidden, &part("mlp_norm"));
            let wide = self.linear(&normed, &part("mlp.Wi"));
            let halves = self.graph.nodes("Split", &[&wide], &[("axis", Attribute::Integer(-1))], 2);
            let active = self.activate(&halves[0], self.shape.activation);
            let gated = self.graph.node("Mul", &[&active, &halves[1]], &[]);
            let narrow = self.linear(&gated, &part("mlp.Wo"));
            hidden = self.graph.node("Add", &[&hidden, &narrow], &[]);
        }
        self.norm(&hidden, "model.final_norm")
    }

    /// As many rows as there are positions, from `first` on.
    fn rows_from(&mut self, table: &Value, first: i64) -> Value {
        let (begin, axis) = (self.graph.integers(&[first]), self.graph.integers(&[0]));
        let end = if first == 0 { self.length.clone() } else { self.graph.node("Add", &[&self.length, &begin], &[]) };
        self.graph.node("Slice", &[table, &begin, &end, &axis], &[])
    }

    /// `[batch, length, hidden]` to `[batch, heads, length, head]`.
    fn heads_apart(&mut self, value: &Value) -> Value {
        let apart = self.reshape(value, &[0, 0, self.shape.heads, self.shape.hidden / self.shape.heads]);
        self.transpose(&apart, &[0, 2, 1, 3])
    }

    /// Scaled dot-product attention. `[batch, length, hidden]`
    fn attend(&mut self, [query, key, value]: &[Value; 3], unseen: &Value) -> Value {
        let width = self.shape.hidden / self.shape.heads;
        let key = self.transpose(key, &[0, 1, 3, 2]);
        let scores = self.graph.node("MatMul", &[query, &key], &[]);
        let root = self.graph.number((width as f32).sqrt());
        let scores = self.graph.node("Div", &[&scores, &root], &[]);
        let scores = self.graph.node("Add", &[&scores, unseen], &[]);
        let shares = self.graph.node("Softmax", &[&scores], &[("axis", Attribute::Integer(-1))]);
        let context = self.graph.node("MatMul", &[&shares, value], &[]);
        let context = self.transpose(&context, &[0, 2, 1, 3]);
        self.reshape(&context, &[0, 0, self.shape.hidden])
    }

    /// `[batch, 1, 1, length]`: 0 at real tokens.
    fn padding(&mut self) -> Value {
        let (one, unseen) = (self.graph.number(1.0), self.graph.number(UNSEEN));
        let padded = self.graph.node("Sub", &[&one, &self.mask], &[]);
        let bias = self.graph.node("Mul", &[&padded, &unseen], &[]);
        let axes = self.graph.integers(&[1, 2]);
        self.graph.node("Unsqueeze", &[&bias, &axes], &[])
    }

    /// `[length, length]`: 0 within `reach` positions.
    fn window(&mut self, reach: i64) -> Value {
        let (zero, one) = (self.graph.integer(0), self.graph.integer(1));
        let none = self.graph.integers(&[]);
        let length = self.graph.node("Reshape", &[&self.length, &none], &[]);
        let at = self.graph.node("Range", &[&zero, &length, &one], &[]);
        let down = self.reshape(&at, &[-1, 1]);
        let apart = self.graph.node("Sub", &[&down, &at], &[]);
        let apart = self.graph.node("Abs", &[&apart], &[]);
        let reach = self.graph.integer(reach);
        let beyond = self.graph.node("Greater", &[&apart, &reach], &[]);
        let beyond = self.cast(&beyond);
        let unseen = self.graph.number(UNSEEN);
        self.graph.node("Mul", &[&beyond, &unseen], &[])
    }

    /// Cosines, and sines that are negated in the first half, of the first positions. `[length, head]`
    fn rotary(&mut self, which: &str, theta: f64) -> [Value; 2] {
        let tables: [Tensor; 2] = rotary_tables(self.shape, theta);
        let names = [format!("rotary.{which}.cosine"), format!("rotary.{which}.sine")];
        [0, 1].map(|table: usize| {
            let flat = tables[table].squeeze_dim(1).squeeze_dim(1);
            let stored = store(&mut self.graph, &names[table], &flat);
            self.rows_from(&stored, 0)
        })
    }

    /// `[batch, heads, length, head]`; the halves change places for the sine.
    fn rotate(&mut self, part: &Value, [cosine, sine]: &[Value; 2]) -> Value {
        let halves = self.graph.nodes("Split", &[part], &[("axis", Attribute::Integer(-1))], 2);
        let swapped = self.graph.node("Concat", &[&halves[1], &halves[0]], &[("axis", Attribute::Integer(-1))]);
        let cosine = self.graph.node("Mul", &[part, cosine], &[]);
        let sine = self.graph.node("Mul", &[&swapped, sine], &[]);
        self.graph.node("Add", &[&cosine, &sine], &[])
    }
}
