//! A run's corpus and tokenizer: read here where the paths can be reached, else through the coordinator.

use crate::training::remote::Remote;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use config::CheckedConfig;
use corpus::{Corpus, CorpusError, CorpusFile, ErrorKind, Tokenizer, Unit, UnitSource};
use proto::v1::{DescribeRequest, ReadUnitRequest};
use proto::{Failure, FailureKind};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Opens both; an error says why the run cannot go on.
pub fn open(
    remote: &Remote,
    run: &str,
    config: &CheckedConfig,
    over: &CancellationToken,
) -> Result<(Arc<Corpus>, Arc<Tokenizer>), Failure> {
    let tokenizer = match Tokenizer::open(&config.tokenizer) {
        Err(error) if is_elsewhere(&error) => remote_tokenizer(remote, run, config, over)?,
        opened => opened.map_err(failure)?,
    };
    let corpus = match Corpus::open(config) {
        Err(error) if is_elsewhere(&error) => remote_corpus(remote, run, config, over)?,
        opened => opened.map_err(failure)?,
    };
    Ok((Arc::new(corpus), Arc::new(tokenizer)))
}

/// The path means something on the coordinator's host only.
fn is_elsewhere(error: &CorpusError) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Io)
}

fn failure(error: CorpusError) -> Failure {
    let kind = if error.kind == ErrorKind::Corrupt { FailureKind::Corrupt } else { FailureKind::Invalid };
    Failure::new(kind, error.to_string())
}

fn remote_tokenizer(
    remote: &Remote,
    run: &str,
    config: &CheckedConfig,
    over: &CancellationToken,
) -> Result<Tokenizer, Failure> {
    tracing::info!(run, path = config.tokenizer.path, "the tokenizer is not here; asking the coordinator for it");
    let request = DescribeRequest { run: run.to_owned() };
    let call = || async { remote.coordinator.data().tokenizer(request.clone()).await };
    let file = remote.persist(over, "tokenizer", call)?.into_inner();
    Tokenizer::from_bytes(&file.name, &file.contents, config.tokenizer.lowercase).map_err(failure)
}

fn remote_corpus(
    remote: &Remote,
    run: &str,
    config: &CheckedConfig,
    over: &CancellationToken,
) -> Result<Corpus, Failure> {
    tracing::info!(run, "the corpus is not here; reading it through the coordinator");
    let request = DescribeRequest { run: run.to_owned() };
    let call = || async { remote.coordinator.data().describe(request.clone()).await };
    let described = remote.persist(over, "corpus", call)?.into_inner();
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
    let paths = files.iter().map(|file| file.path.clone()).collect();
    let source = RemoteSource { remote: remote.clone(), run: run.to_owned(), paths };
    Corpus::with_source(config, files, Arc::new(source)).map_err(failure)
}

/// Units read by the coordinator.
struct RemoteSource {
    remote: Remote,
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
        // The loader's threads outlive a generation; the process's end is what ends them.
        let forever = CancellationToken::new();
        let call = || async {
            let mut chunks = self.remote.coordinator.data().read_unit(request.clone()).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(chunk) = chunks.message().await? {
                bytes.extend_from_slice(&chunk.data);
            }
            Ok(bytes)
        };
        let bytes = self.remote.persist(&forever, "unit", call).map_err(|failure| {
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
}
