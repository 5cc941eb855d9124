//! Which model a command uses, and the text that it is given.

mod fetched;

use crate::cli::Problem;
use crate::connect::COORDINATOR_VARIABLE;
use crate::device::Choice;
use clap::{ArgGroup, Args};
use config::{DataFormat, Reading};
use corpus::ErrorKind;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use tch::Device;

/// Which model.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true)))]
pub struct SourceArguments {
    /// A run: id, name or `latest`; with @STEP one of its checkpoints, else the newest.
    #[arg(long, value_name = "RUN[@STEP]", group = "source")]
    checkpoint: Option<String>,
    /// A folder with config.json, the weights and tokenizer.json (or vocab.txt).
    #[arg(long, value_name = "FOLDER", group = "source")]
    model: Option<PathBuf>,
    /// The coordinator that has the run. Default: the one that was started on this machine.
    #[arg(long, value_name = "HOST:PORT", env = COORDINATOR_VARIABLE)]
    coordinator: Option<String>,
    /// A file that holds the coordinator's token. Default: TRIREME_TOKEN, else `token` in the default data folder.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Which model, and where it computes.
#[derive(Debug, Args)]
pub struct ModelArguments {
    #[command(flatten)]
    source: SourceArguments,
    /// Tokens of a text that are read at most. Default: what the model was trained with.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..))]
    max_length: Option<u32>,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: Choice,
    /// Compute threads. Default: one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
}

/// Where texts come from, and how many are computed together.
#[derive(Debug, Args)]
pub struct TextArguments {
    /// A text; may be given again. Default: the lines of --file, else of standard input.
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    text: Vec<String>,
    /// A file with one text a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Texts in one forward pass.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
}

impl TextArguments {
    /// Texts in one forward pass.
    pub(crate) fn batch(&self) -> usize {
        self.batch as usize
    }

    /// Whether a text is among the arguments.
    pub(crate) fn has_text(&self) -> bool {
        !self.text.is_empty()
    }

    /// [`TextArguments::lines`] that are texts as they stand. A file of rows is refused: its quotes and names would be read as
    /// words.
    pub(crate) fn plain_lines(&self) -> Result<Lines, Problem> {
        match self.file.as_ref().map(|file| file.display().to_string()) {
            Some(name) if DataFormat::of(&name).is_some() => {
                let text = format!("{name} is a file of rows by its name, and lines of text are read here");
                let help = "write the texts alone, one a line (two of a pair, or a text and its label, with a tab between \
                            them), for example: jq -r .text FILE.jsonl, or jq -r '[.text, .label] | @tsv' FILE.jsonl";
                Err(Problem::input(text).with_help(help))
            }
            _ => self.lines(),
        }
    }

    /// The texts of the arguments, else of the file's lines, else of standard input's; empty lines are left out, and so is the
    /// mark of Unicode that some editors put before the first. They are read as they are needed.
    pub(crate) fn lines(&self) -> Result<Lines, Problem> {
        if self.has_text() {
            let lines = (1..).zip(self.text.clone()).map(|(number, text)| Ok(Line { text, number }));
            return Ok(Box::new(lines));
        }
        match &self.file {
            Some(path) => lines_of(path),
            None => {
                // Whoever waits for the first line should have all else by then.
                let read = || lines_from("standard input".to_owned(), BufReader::new(std::io::stdin()));
                let lines = std::iter::once_with(read);
                Ok(Box::new(
                    lines.flat_map(|read| read.unwrap_or_else(|problem| Box::new(std::iter::once(Err(problem))))),
                ))
            }
        }
    }
}

/// The lines of a file of text, read as they are needed.
pub(crate) fn lines_of(path: &Path) -> Result<Lines, Problem> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|error| Problem::input(format!("{name} cannot be read: {error}")))?;
    lines_from(name, BufReader::new(file))
}

fn lines_from(name: String, mut reader: impl BufRead + 'static) -> Result<Lines, Problem> {
    // What cannot be read is told of the first line.
    if let Ok(beginning) = reader.fill_buf() {
        corpus::refuse_pointer(ErrorKind::Corrupt, &name, beginning)?;
    }
    Ok(Box::new((1..).zip(reader.lines()).filter_map(move |(number, line)| match line {
        Ok(text) => {
            let plain = text.strip_prefix('\u{feff}').filter(|_| number == 1).unwrap_or(&text);
            (!plain.trim().is_empty()).then(|| Ok(Line { text: plain.to_owned(), number }))
        }
        Err(error) => Some(Err(unread(&format!("{name}, line {number}"), &error))),
    })))
}

fn unread(place: &str, error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::InvalidData => Problem::input(format!("{place}: not UTF-8"))
            .with_help("convert the file, for example with `iconv -f LATIN1 -t UTF-8`"),
        _ => Problem::input(format!("{place}: cannot be read: {error}")),
    }
}

/// A file of text as a whole.
pub(crate) fn read_text(path: &Path) -> Result<String, Problem> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| unread(&name, &error))?;
    corpus::refuse_pointer(ErrorKind::Corrupt, &name, text.as_bytes())?;
    Ok(text)
}

/// A model's folder on this machine; a downloaded one is gone when this is.
pub(crate) struct Fetched {
    folder: PathBuf,
    /// How the model was trained to read, where its run says so.
    pub(crate) reading: Option<Reading>,
    _downloaded: Option<fetched::Downloaded>,
}

impl Fetched {
    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl SourceArguments {
    /// Finds the model.
    pub(crate) fn fetch(&self) -> Result<Fetched, Problem> {
        match (&self.model, &self.checkpoint) {
            (Some(folder), _) => Ok(Fetched { folder: folder.clone(), reading: None, _downloaded: None }),
            (None, Some(name)) => {
                let found = fetched::download(name, self.coordinator.as_deref(), self.token_file.as_ref())?;
                let (folder, reading) = (found.folder.path().to_owned(), found.reading.clone());
                Ok(Fetched { folder, reading, _downloaded: Some(found) })
            }
            (None, None) => Err(Problem::usage("name a model with --checkpoint RUN or --model FOLDER")),
        }
    }
}

/// A model, and where it computes.
pub(crate) struct Source {
    fetched: Fetched,
    /// Tokens of a text that are read at most, where something says so.
    pub(crate) length: Option<usize>,
    pub(crate) device: Device,
}

impl Source {
    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.fetched.folder()
    }

    /// How the model was trained to read, where its run says so.
    pub(crate) fn reading(&self) -> Option<&Reading> {
        self.fetched.reading.as_ref()
    }
}

impl ModelArguments {
    /// Sets the threads and finds the model.
    pub(crate) fn find(&self) -> Result<Source, Problem> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        trainer::set_threads(self.threads.unwrap_or(cores));
        let device = self.device.decide().open()?;
        let fetched = self.source.fetch()?;
        let trained = fetched.reading.as_ref().and_then(|reading| reading.sequence_length);
        Ok(Source { fetched, length: self.max_length.map(|length| length as usize).or(trained), device })
    }
}

/// A text and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Of the file, or which --text; from 1.
    pub(crate) number: usize,
}

/// Texts, or why there is no further one.
pub(crate) type Lines = Box<dyn Iterator<Item = Result<Line, Problem>>>;

/// Groups of `size` at most, the error of the first line that cannot be read after the lines before it.
pub(crate) fn batches<T>(
    mut items: impl Iterator<Item = Result<T, Problem>>,
    size: usize,
    mut each: impl FnMut(&[T]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut batch = Vec::with_capacity(size);
    loop {
        let next = items.next();
        let ended = !matches!(next, Some(Ok(_)));
        let failed = match next {
            Some(Ok(item)) => {
                batch.push(item);
                None
            }
            Some(Err(problem)) => Some(problem),
            None => None,
        };
        if !batch.is_empty() && (ended || batch.len() == size) {
            each(&batch)?;
            batch.clear();
        }
        match failed {
            Some(problem) => return Err(problem),
            None if ended => return Ok(()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::LFS_POINTER_BEGINNING;

    fn of_file(file: PathBuf) -> TextArguments {
        TextArguments { text: Vec::new(), file: Some(file), batch: 1 }
    }

    #[test]
    fn the_mark_before_the_first_line_is_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("texts.txt");
        let read = |text: &str| -> Vec<(usize, String)> {
            std::fs::write(&file, text).unwrap();
            let lines = of_file(file.clone()).plain_lines().ok().unwrap();
            lines.map(|line| line.ok().unwrap()).map(|it| (it.number, it.text)).collect()
        };
        let another = (3, "another".to_owned());
        assert_eq!(read("\u{feff}a ship\n\nanother\n"), [(1, "a ship".to_owned()), another.clone()]);
        assert_eq!(read("\u{feff}\n\nanother\n"), [another], "a line of nothing else is empty");
    }

    #[test]
    fn what_git_lfs_has_not_fetched_is_not_read_as_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("texts.txt");
        let oid = ".github.com/spec/v1\noid sha256:00\nsize 5\n";
        std::fs::write(&file, [LFS_POINTER_BEGINNING, oid.as_bytes()].concat()).unwrap();
        for refused in [of_file(file.clone()).plain_lines().err(), read_text(&file).err()] {
            let (message, help) = refused.unwrap().into_text_and_help();
            assert!(message.starts_with(&file.display().to_string()) && message.contains("pointer"), "{message}");
            assert!(help.unwrap().contains("git lfs pull"));
        }
        std::fs::write(&file, "a ship\nversion https://git-lfs\n").unwrap();
        let lines = of_file(file.clone()).plain_lines().ok().unwrap();
        assert!(lines.count() == 2 && read_text(&file).is_ok(), "a text may speak of one");
        std::fs::write(&file, [LFS_POINTER_BEGINNING, "\na ship".repeat(200).as_bytes()].concat()).unwrap();
        let lines = of_file(file.clone()).plain_lines().ok().unwrap();
        assert!(lines.count() == 201 && read_text(&file).is_ok(), "a pointer is small");
    }

    #[test]
    fn what_is_no_utf_8_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("latin.txt");
        std::fs::write(&file, b"the sea\nun caf\xe9\n").unwrap();
        let read: Vec<_> = of_file(file.clone()).plain_lines().ok().unwrap().collect();
        assert!(read.len() == 2 && read[0].is_ok());
        let (message, help) = read.into_iter().find_map(Result::err).unwrap().into_text_and_help();
        assert_eq!(message, format!("{}, line 2: not UTF-8", file.display()));
        assert!(help.unwrap().contains("iconv -f LATIN1"));
        let (message, _) = read_text(&file).err().unwrap().into_text_and_help();
        assert_eq!(message, format!("{}: not UTF-8", file.display()));
    }

    #[test]
    fn rows_with_columns_are_not_read_as_texts() {
        for name in ["rows.jsonl", "rows.CSV", "rows.parquet", "tagged.conll"] {
            let (message, help) = of_file(name.into()).plain_lines().err().unwrap().into_text_and_help();
            assert!(message.starts_with(name) && help.is_some(), "{message}");
        }
    }

    #[test]
    fn what_could_be_read_is_used_before_the_error() {
        let items = vec![Ok(1), Ok(2), Ok(3), Err(Problem::failure("broken")), Ok(4)];
        let mut seen = Vec::new();
        let outcome = batches(items.into_iter(), 2, |batch| {
            seen.push(batch.to_vec());
            Ok(())
        });
        assert_eq!(outcome.err().unwrap().into_text_and_help().0, "broken");
        assert_eq!(seen, [vec![1, 2], vec![3]]);
    }
}
