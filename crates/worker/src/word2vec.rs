//! `worker word2vec`: static word vectors, to see what a model that reads contexts adds.

use crate::cli::Problem;
use crate::embed::write_whole;
use crate::source::{lines_of, read_text};
use clap::{Args, Subcommand};
use corpus::{Columns, FileSource, WordSplitter};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use word2vec::{Corpus, Options, Vectors};

/// `worker word2vec`
#[derive(Debug, Args)]
pub struct Word2VecArguments {
    #[command(subcommand)]
    command: Word2VecCommand,
}

#[derive(Debug, Subcommand)]
enum Word2VecCommand {
    /// Train vectors on a corpus: skip-gram with negative sampling.
    Train(TrainArguments),
    /// The words whose vectors are nearest to a word's.
    Nearest(NearestArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker word2vec train --corpus corpus.parquet --out vectors.txt
  worker word2vec train --corpus zh.parquet --dictionary words.txt --out vectors.txt --dimensions 200

The output is the text format of word2vec.c, which gensim and others read, too. One thread; the same corpus, options and
seed give the same file. A .txt file is read line by line, other files by their --column.")]
struct TrainArguments {
    /// Files, globs or URLs; may be given again.
    #[arg(long, required = true, value_name = "PATH", num_args = 1..)]
    corpus: Vec<String>,
    /// The file to write. It appears when it is whole.
    #[arg(long, alias = "output", value_name = "FILE")]
    out: PathBuf,
    /// The text column.
    #[arg(long, default_value = "text", value_name = "COLUMN")]
    column: String,
    /// A file of words, one a line, that are kept whole: Chinese characters are words of their own otherwise.
    #[arg(long, value_name = "FILE")]
    dictionary: Option<PathBuf>,
    /// Keep capital letters and accents.
    #[arg(long)]
    cased: bool,
    /// Numbers in a vector.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    dimensions: u32,
    /// Words to each side at most.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    window: u32,
    /// Drawn words for each true one.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    negative: u32,
    /// Passes over the corpus.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    epochs: u32,
    /// Rarer words get no vector.
    #[arg(long, default_value_t = 5, value_name = "N")]
    min_count: u64,
    /// Words that make up a larger share of the corpus are left out now and then; 0: never.
    #[arg(long, default_value_t = 1e-3, value_name = "SHARE")]
    subsample: f64,
    /// Of the first step; it falls to nothing.
    #[arg(long, default_value_t = 0.025, value_name = "RATE")]
    learning_rate: f32,
    /// What everything is drawn from.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  worker word2vec nearest --vectors vectors.txt bank cell")]
struct NearestArguments {
    /// A table of vectors in the text format.
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
    /// Words.
    #[arg(required = true)]
    words: Vec<String>,
    /// Words shown for each.
    #[arg(long, default_value_t = 10, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Word2VecArguments) -> Result<ExitCode, Problem> {
    match &arguments.command {
        Word2VecCommand::Train(arguments) => train(arguments)?,
        Word2VecCommand::Nearest(arguments) => nearest(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a table of vectors.
pub(crate) fn read(path: &Path) -> Result<Vectors, Problem> {
    Vectors::from_text(&read_text(path)?).map_err(|error| {
        Problem::input(format!("{}, {error}", path.display()))
            .with_help("give a table in the text format of word2vec, as `worker word2vec train` writes it")
    })
}

fn train(arguments: &TrainArguments) -> Result<(), Problem> {
    // Before the work, not after it.
    let folder = arguments.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let text = format!("there is no folder {} for {}", folder.display(), arguments.out.display());
        return Err(Problem::failure(text).with_help("make it, or choose another --out"));
    }
    let corpus = gather(arguments)?;
    let (tokens, words) = (corpus.tokens(), corpus.frequent(arguments.min_count));
    if words < 2 {
        let text = format!("{words} words stand {} times or more among {tokens}", arguments.min_count);
        return Err(Problem::input(text).with_help("give more text, or lower --min-count"));
    }
    tracing::info!(tokens, words, "counted");
    let options = Options {
        dimensions: arguments.dimensions as usize,
        window: arguments.window as usize,
        negative: arguments.negative as usize,
        epochs: arguments.epochs as usize,
        min_count: arguments.min_count,
        subsample: arguments.subsample,
        learning_rate: arguments.learning_rate,
        seed: arguments.seed,
    };
    let mut told = 0.0;
    let vectors = word2vec::train(corpus, &options, &mut |share| {
        if share >= told + 0.1 {
            told = share;
            tracing::info!(percent = (share * 100.0) as u32, "trained");
        }
    });
    write_whole(&arguments.out, vectors.to_text().as_bytes())
}

/// The corpus as sentences of words: a row, or a line, is one.
fn gather(arguments: &TrainArguments) -> Result<Corpus, Problem> {
    let dictionary = match &arguments.dictionary {
        None => Vec::new(),
        Some(path) => {
            let text = read_text(path)?;
            text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
        }
    };
    let splitter = WordSplitter::new(!arguments.cased, dictionary);
    let mut corpus = Corpus::default();
    let mut words = Vec::new();
    let mut add = |text: &str| {
        for line in text.lines() {
            words.clear();
            splitter.split(line, &mut words);
            corpus.add(words.iter().map(String::as_str));
        }
    };
    for path in &arguments.corpus {
        if path.ends_with(".txt") && !path.contains(['*', '?', '[']) && !path.contains("://") {
            for line in lines_of(path.as_ref())? {
                add(&line?.text);
            }
        } else {
            let columns = Columns::text(&arguments.column);
            let files = FileSource::open(std::slice::from_ref(path), &[], None, &columns)?;
            corpus::for_each_text(&files, &mut add)?;
        }
    }
    Ok(corpus)
}

fn nearest(arguments: &NearestArguments) -> Result<(), Problem> {
    let vectors = read(&arguments.vectors)?;
    let mut out = std::io::stdout().lock();
    for word in &arguments.words {
        let nearest = vectors.nearest(word, arguments.top_k as usize).ok_or_else(|| {
            Problem::failure(format!("{} has no vector of `{word}`", arguments.vectors.display()))
                .with_help("it is too rare in the corpus (--min-count), or written with capital letters")
        })?;
        let written = if arguments.json {
            let nearest: Vec<_> =
                nearest.iter().map(|(word, cosine)| json!({"word": word, "cosine": cosine})).collect();
            writeln!(out, "{}", json!({ "word": word, "nearest": nearest }))
        } else {
            let nearest: Vec<_> = nearest.iter().map(|(word, cosine)| format!("{word} {cosine:.3}")).collect();
            writeln!(out, "{word}: {}", nearest.join(", "))
        };
        written.map_err(|error| Problem::failure(format!("the output cannot be written: {error}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Word2VecArguments,
    }

    fn call(arguments: &[&str]) -> Result<ExitCode, Problem> {
        run(&Program::parse_from([&["word2vec"], arguments].concat()).arguments)
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_trained() {
        // The corpus would be missed next.
        let refused = call(&["train", "--corpus", "none.txt", "--out", "no/such/folder/a.txt"]);
        let (message, _) = refused.err().unwrap().into_text_and_help();
        assert!(message.contains("there is no folder no/such/folder"), "{message}");
    }

    #[test]
    fn a_corpus_of_lines_becomes_a_table_and_again_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        // Fruit is eaten, phones ring; the dictionary keeps both words whole.
        let lines = ["我 吃 苹果 甜 红\n", "新 手机 响 电话 快\n"].concat().repeat(200);
        std::fs::write(at("corpus.txt"), lines).unwrap();
        std::fs::write(at("words.txt"), "苹果 100 n\n手机\n电话\n").unwrap();
        let train = |output: &str| {
            let common = ["train", "--corpus", &at("corpus.txt"), "--dictionary", &at("words.txt"), "--subsample", "0"];
            call(&[&common[..], &["--dimensions", "8", "--out", &at(output)]].concat()).ok().unwrap();
            std::fs::read_to_string(at(output)).unwrap()
        };
        let table = train("a.txt");
        assert_eq!(table, train("b.txt"));
        assert!(table.starts_with("10 8\n"), "{table}");
        let vectors = read(&folder.path().join("a.txt")).ok().unwrap();
        let nearest = vectors.nearest("苹果", 4).unwrap();
        assert!(nearest.iter().all(|(word, _)| ["我", "吃", "甜", "红"].contains(word)), "{nearest:?}");
        let problem = call(&["nearest", "--vectors", &at("a.txt"), "梨"]).err().unwrap();
        assert!(problem.into_text_and_help().0.contains("no vector of `梨`"));
        // By its earlier name.
        let few = ["train", "--corpus", &at("words.txt"), "--output", &at("c.txt")];
        assert!(call(&few).err().unwrap().into_text_and_help().1.unwrap().contains("--min-count"));
    }
}
