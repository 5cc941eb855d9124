//! A run's corpus and tokenizer. The rows are read here where the files that the run was planned with can be reached,
//! else through the coordinator.
//!
//! All workers must have one plan and one vocabulary, and a path may mean other files on another host: so the tokenizer
//! is always the coordinator's, and files are only read here if they are those that the coordinator describes.

use crate::training::current::{Current, Key};
use crate::training::remote::{Remote, reading};
use crate::training::reporter::Reporter;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use config::CheckedConfig;
use corpus::{Corpus, CorpusError, CorpusFile, ErrorKind, Tokenizer, Unit, UnitSource};
use proto::v1::{DescribeRequest, ReadUnitRequest};
use proto::{Failure, FailureKind};
use std::sync::Arc;

/// Opens both; an error says why the run cannot go on.
pub fn open(
    remote: &Remote,
    current: &Arc<Current>,
    reporter: &Arc<Reporter>,
    key: &Key,
    config: &CheckedConfig,
) -> Result<(Arc<Corpus>, Arc<Tokenizer>), Failure> {
    let (run, over) = (&key.run, &current.over(key));
    let request = DescribeRequest { run: run.clone() };
    let tokenizer = || async { remote.coordinator.data().tokenizer(request.clone()).await };
    let file = remote.persist_through(over, "tokenizer", reading, tokenizer)?.into_inner();
    let tokenizer =
        Tokenizer::from_bytes(&config.tokenizer.path, &file.contents, config.tokenizer.lowercase).map_err(failure)?;
    let describe = || async { remote.coordinator.data().describe(request.clone()).await };
    let described = remote.persist_through(over, "corpus", reading, describe)?.into_inner();
    let files: Vec<CorpusFile> = described
        .files
        .into_iter()
        .map(|file| CorpusFile {
            path: file.path,
            bytes: file.bytes,
            row_group_rows: file.row_group_rows,
            held_out: file.held_out,
        })
        .collect();
    let corpus = match read_here(config, &files) {
        Ok(corpus) => corpus,
        Err(reason) => {
            tracing::info!(run, reason, "the corpus is read through the coordinator");
            let paths = files.iter().map(|file| file.path.clone()).collect();
            let (remote, current, reporter) = (remote.clone(), current.clone(), reporter.clone());
            let source = RemoteSource { remote, current, reporter, run: run.clone(), paths };
            Corpus::with_source(config, files, Arc::new(source)).map_err(failure)?
        }
    };
    Ok((Arc::new(with_signs_of_life(corpus, reporter)), Arc::new(tokenizer)))
}

/// A unit may take minutes to tokenise, and the trainer waits for it meanwhile: every row is a sign of life.
pub fn with_signs_of_life(corpus: Corpus, reporter: &Arc<Reporter>) -> Corpus {
    let reporter = reporter.clone();
    corpus.on_progress(move || reporter.transferred())
}

/// The corpus, if the config's paths lead to these very files; else why not.
fn read_here(config: &CheckedConfig, files: &[CorpusFile]) -> Result<Corpus, String> {
    let corpus = Corpus::open(config).map_err(|error| error.to_string())?;
    if corpus.files() == files {
        return Ok(corpus);
    }
    let here = corpus.files();
    let first = files.iter().zip(here).find(|(planned, here)| planned != here).map(|(_, here)| here.path.as_str());
    Err(match first {
        Some(path) => format!("{path} is not the file that the run was planned with"),
        None => format!("the paths name {} files here, and the run was planned with {}", here.len(), files.len()),
    })
}

fn failure(error: CorpusError) -> Failure {
    let kind = match error.kind {
        ErrorKind::Corrupt => FailureKind::Corrupt,
        ErrorKind::NotFound | ErrorKind::Unreadable | ErrorKind::Io => FailureKind::Unavailable,
        _ => FailureKind::Invalid,
    };
    Failure::new(kind, error.to_string())
}

/// Units read by the coordinator.
struct RemoteSource {
    remote: Remote,
    current: Arc<Current>,
    reporter: Arc<Reporter>,
    run: String,
    paths: Vec<String>,
}

impl RemoteSource {
    fn error(&self, unit: &Unit, kind: ErrorKind, message: String) -> CorpusError {
        let path = self.paths.get(unit.file as usize).map_or("corpus", String::as_str);
        let rows = format!("row group {}, rows from {}", unit.row_group, unit.first_row);
        let help = "the coordinator's log says more; or make the path reachable from this worker";
        CorpusError::new(kind, path, format!("{rows}, through the coordinator: {message}"), help)
    }
}

impl UnitSource for RemoteSource {
    fn read(&self, unit: &Unit) -> Result<RecordBatch, CorpusError> {
        let request = ReadUnitRequest {
            run: self.run.clone(),
            file: unit.file,
            row_group: unit.row_group,
            first_row: unit.first_row,
            rows: unit.rows,
        };
        // Whoever trains may be waiting for this unit, and has to hear of the end of its assignment.
        let over = self.current.over_in(&self.run);
        let call = || async {
            self.reporter.transferred();
            let mut chunks = self.remote.coordinator.data().read_unit(request.clone()).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(chunk) = chunks.message().await? {
                bytes.extend_from_slice(&chunk.data);
                self.reporter.transferred();
            }
            Ok(bytes)
        };
        let bytes = self.remote.persist_through(&over, "unit", reading, call).map_err(|failure| {
            let kind = if failure.kind == FailureKind::Corrupt { ErrorKind::Corrupt } else { ErrorKind::Io };
            self.error(unit, kind, failure.message)
        })?;
        decode(&bytes).map_err(|message| self.error(unit, ErrorKind::Corrupt, message))
    }
}

fn decode(bytes: &[u8]) -> Result<RecordBatch, String> {
    let text = |error: arrow::error::ArrowError| error.to_string();
    let reader = StreamReader::try_new(bytes, None).map_err(text)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(text)?;
    concat_batches(&schema, &batches).map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, StringArray};
    use arrow::ipc::writer::StreamWriter;

    #[test]
    fn a_unit_comes_back_as_it_was_sent_and_half_of_it_is_an_error() {
        let column: ArrayRef = Arc::new(StringArray::from(vec![Some("one"), None, Some("three")]));
        let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch.slice(0, 1)).unwrap();
        writer.write(&batch.slice(1, 2)).unwrap();
        let bytes = writer.into_inner().unwrap();
        assert_eq!(decode(&bytes).unwrap(), batch);
        assert!(decode(&bytes[..bytes.len() / 2]).is_err());
        assert!(decode(&[]).is_err());
    }

    #[test]
    fn the_end_of_the_assignment_ends_the_wait_for_a_unit() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let coordinator = {
            let _within = runtime.enter();
            // Nobody listens on port 1.
            crate::connect::Coordinator::new("127.0.0.1:1", None).unwrap()
        };
        let remote = Remote { coordinator, runtime: runtime.handle().clone() };
        let (current, key) = (Arc::new(Current::default()), Key { run: "a".to_owned(), generation: 1 });
        current.assigned(key.clone());
        let (agent, _trainer) = std::os::unix::net::UnixStream::pair().unwrap();
        let reporter = Reporter::start(agent).unwrap();
        let source =
            RemoteSource { remote, current: current.clone(), reporter, run: "a".to_owned(), paths: Vec::new() };
        let waiter = std::thread::spawn(move || source.read(&Unit { file: 0, row_group: 0, first_row: 0, rows: 1 }));
        current.aborted(&key);
        let error = waiter.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("the assignment ended"), "{error}");
    }

    #[test]
    fn files_are_read_here_only_if_the_run_was_planned_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.csv");
        std::fs::write(&path, "text,label\nfine,good\npoor,bad\n").unwrap();
        let text = format!(
            "[run]\nname = \"t\"\nkind = \"finetune\"\nsteps = 1\n[data]\npaths = [\"{}\"]\n\
             label_column = \"label\"\n[tokenizer]\npath = \"vocab.txt\"\n[objective]\nkind = \"classify\"\n\
             [batch]\nslots = 1\nmicro_batch = 1\nsequence_length = 32\n",
            path.display()
        );
        let config = config::parse("test", &text).unwrap().check("test").unwrap();
        let files = Corpus::open(&config).unwrap().files().to_vec();
        assert_eq!(read_here(&config, &files).unwrap().files(), files);

        std::fs::write(&path, "text,label\nfine,good\npoor,bad\ndull,bad\n").unwrap();
        let other = read_here(&config, &files).err().unwrap();
        assert!(other.contains("texts.csv is not the file"), "{other}");
        assert!(read_here(&config, &[]).err().unwrap().contains("1 files here"), "more than was planned with");
        std::fs::remove_file(&path).unwrap();
        assert!(read_here(&config, &files).is_err());
    }
}
