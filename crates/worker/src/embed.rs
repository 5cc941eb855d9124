//! `worker embed`: texts to vectors, and what one word's vectors look like in different sentences.

mod explain;
mod output;

use crate::cli::Problem;
use crate::loaded::{Cuts, Loaded, Wanted};
use crate::source::{self, Line, ModelArguments, TextArguments};
use clap::{Args, ValueEnum};
use output::Sink;
pub(crate) use output::write_whole;
use std::path::PathBuf;
use std::process::ExitCode;
use tch::{Kind, Tensor};

/// Texts that are put in order of their length, so that little is padded.
const WINDOW: usize = 512;

/// `worker embed`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker embed --checkpoint latest --text \"a fine film\"
  worker embed --model exported/ --normalize --file sentences.txt --out vectors.npy
  worker embed --model exported/ --explain bank --file sentences.txt --vectors word2vec.txt

One text a line. A vector is the mean of the last hidden states of all its tokens ([CLS] and [SEP] are two of them), or
that of [CLS]. --out writes by the name's ending: .npy ([texts, hidden], float32), .safetensors (`embeddings`, the same),
.jsonl; without it, JSON lines {text, embedding, cut} go to standard output. `cut` is true where the end of the text was
not read, and a warning at the end counts such texts.

--explain WORD takes the texts in which WORD stands and compares the word's own vectors (mean of its pieces): for each
text the nearest of the others. A text in which WORD stands only behind the tokens that are read is left out, and counted
apart from those without it. With --vectors it shows beside it what Word2Vec (`worker word2vec train`) has for the
word: one vector, in every text the same.")]
pub struct EmbedArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    texts: TextArguments,
    /// How a text's tokens become one vector.
    #[arg(long, value_enum, default_value = "mean")]
    pooling: Pool,
    /// Give each vector the length 1, so that a product of two is their cosine.
    #[arg(long)]
    normalize: bool,
    /// A file ending in .npy, .safetensors or .jsonl. It appears when it is whole.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Compare the vectors of this word in the texts that hold it.
    #[arg(long, value_name = "WORD", conflicts_with_all = ["out", "normalize"])]
    explain: Option<String>,
    /// With --explain: a table of Word2Vec vectors in the usual text format.
    #[arg(long, value_name = "FILE", requires = "explain")]
    vectors: Option<PathBuf>,
    /// With --explain: texts shown for each text.
    #[arg(long, default_value_t = 3, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// With --explain: print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How a text's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pool {
    /// The mean over all tokens.
    Mean,
    /// That of the first token, [CLS].
    Cls,
}

/// Runs it.
pub(crate) fn run(arguments: &EmbedArguments) -> Result<ExitCode, Problem> {
    // What does not depend on the model is found out before it is fetched.
    let mut sink = Sink::of(arguments.out.as_deref())?;
    let vectors = arguments.vectors.as_deref().map(crate::word2vec::read).transpose()?;
    let lines = arguments.texts.plain_lines()?;
    let source = arguments.model.find()?;
    let loaded = Loaded::open(source.folder(), Wanted::Encoder, source.length, source.device)?;
    let batch = arguments.texts.batch();
    if let Some(word) = &arguments.explain {
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        let found = explain::explain(&loaded, word, &lines, batch)?;
        explain::print(&found, vectors.as_ref(), arguments.top_k as usize, arguments.json)?;
        found.cuts().tell(loaded.length());
        return Ok(ExitCode::SUCCESS);
    }
    let mut cuts = Cuts::default();
    source::batches(lines, WINDOW.max(batch), |lines| {
        let (embedded, cut) = embed(&loaded, lines, arguments.pooling, arguments.normalize, batch)?;
        cuts.count(cut.iter().copied());
        let embedded = embedded.iter().zip(cut);
        lines.iter().zip(embedded).try_for_each(|(line, (vector, cut))| sink.add(&line.text, vector, cut))
    })?;
    sink.finish(loaded.model.shape().hidden as usize)?;
    cuts.tell(loaded.length());
    Ok(ExitCode::SUCCESS)
}

/// The vectors of the texts in their order, and which texts were cut.
fn embed(
    loaded: &Loaded,
    lines: &[Line],
    pooling: Pool,
    normalize: bool,
    batch: usize,
) -> Result<(Vec<Vec<f32>>, Vec<bool>), Problem> {
    let tokens = lines.iter().map(|line| loaded.tokens(&line.text)).collect::<Result<Vec<_>, _>>()?;
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|index| tokens[*index].ids.len());
    let mut vectors = vec![Vec::new(); tokens.len()];
    for chosen in order.chunks(batch) {
        let ids: Vec<&[u32]> = chosen.iter().map(|index| tokens[*index].ids.as_slice()).collect();
        let (hidden, mask) = loaded.encode(&ids);
        let mut pooled = pool(&hidden, mask.as_ref(), pooling);
        if normalize {
            // A vector of zeros stays one.
            let length = pooled.norm_scalaropt_dim(2.0, [1i64].as_slice(), true).clamp_min(1e-12);
            pooled /= length;
        }
        for (index, row) in chosen.iter().zip(0..) {
            vectors[*index] = vector(&pooled.get(row));
        }
    }
    Ok((vectors, tokens.iter().map(|tokens| tokens.cut).collect()))
}

/// `[texts, hidden]`.
fn pool(hidden: &Tensor, mask: Option<&Tensor>, pooling: Pool) -> Tensor {
    match (pooling, mask) {
        (Pool::Cls, _) => hidden.select(1, 0),
        (Pool::Mean, None) => hidden.mean_dim(1, false, Kind::Float),
        (Pool::Mean, Some(mask)) => {
            let mask = mask.to_kind(Kind::Float).unsqueeze(2);
            (hidden * &mask).sum_dim_intlist(1, false, Kind::Float) / mask.sum_dim_intlist(1, false, Kind::Float)
        }
    }
}

/// A tensor of one dimension.
fn vector(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.numel()];
    let count = values.len();
    tensor.to_kind(Kind::Float).to_device(tch::Device::Cpu).contiguous().copy_data(&mut values, count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loaded::tests::write_model;
    use model::{Head, Input};
    use tch::Device;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().zip(1..).map(|(text, number)| Line { text: (*text).to_owned(), number }).collect()
    }

    fn off(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn vectors_are_in_the_order_of_the_texts_whatever_the_batch() {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path(), Head::None);
        let loaded = Loaded::open(folder.path(), Wanted::Encoder, None, Device::Cpu).ok().unwrap();
        let texts = lines(&[
            "the wind the sea the ships",
            "sea",
            "the wind the sea the wind the sea the wind the sea the sea the sea",
        ]);
        let (vectors, cut) = embed(&loaded, &texts, Pool::Mean, false, 2).ok().unwrap();
        assert_eq!(cut, [false, false, true]);
        // By hand, without padding: [CLS] sea [SEP].
        let input = |ids: &[i64]| Input { ids: Tensor::from_slice(ids).unsqueeze(0), segments: None, mask: None };
        let hidden = model.encode(&input(&[2, 6, 3]), false).detach().get(0);
        let mean: Vec<f32> = vector(&hidden.mean_dim(0, false, Kind::Float));
        assert!(off(&vectors[1], &mean) < 1e-5);
        let (first, _) = embed(&loaded, &texts, Pool::Cls, false, 32).ok().unwrap();
        assert!(off(&first[1], &vector(&hidden.get(0))) < 1e-5);
        assert!(off(&first[1], &mean) > 1e-2, "the two are not the same here");
        let (alone, _) = embed(&loaded, &texts[..1], Pool::Mean, false, 1).ok().unwrap();
        assert!(off(&vectors[0], &alone[0]) < 1e-5);
        let (unit, _) = embed(&loaded, &texts, Pool::Mean, true, 2).ok().unwrap();
        for (unit, vector) in unit.iter().zip(&vectors) {
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            let expected: Vec<f32> = vector.iter().map(|value| value / length).collect();
            assert!(off(unit, &expected) < 1e-5);
        }
    }

    /// The published vectors of a real model; see tests/golden/tests/minilm.rs for the variable.
    #[test]
    fn minilm_embeds_as_published() {
        let Some(folder) = std::env::var_os("TRIREME_MINILM").map(PathBuf::from) else {
            assert!(std::env::var_os("CI").is_none(), "TRIREME_MINILM is not set");
            return;
        };
        let loaded = Loaded::open(&folder, Wanted::Encoder, None, Device::Cpu).ok().unwrap();
        let texts = lines(&["A man is eating food.", "A man is eating a piece of bread."]);
        let (vectors, _) = embed(&loaded, &texts, Pool::Mean, true, 32).ok().unwrap();
        let begins = [0.033_241_57, 0.004_406_06, -0.006_276_94, 0.048_378_71, -0.138_702_25];
        assert!(off(&vectors[0][..5], &begins) < 1e-5, "{:?}", &vectors[0][..5]);
        let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
        assert!((cosine - 0.7553).abs() < 1e-4, "{cosine}");
    }
}
