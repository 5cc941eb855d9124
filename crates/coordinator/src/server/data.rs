//! Corpus files for workers that cannot reach them by path or URL.

use super::corpora::{Corpora, blocking, failure};
use arrow::ipc::writer::StreamWriter;
use corpus::Unit;
use proto::{Failure, FailureKind, v1};
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// Bytes in one message.
const CHUNK: usize = 1 << 20;

/// Serves `trireme.v1.Data`.
#[derive(Debug)]
pub struct DataService {
    corpora: Arc<Corpora>,
}

impl DataService {
    /// Over the runs' corpora.
    pub fn new(corpora: Arc<Corpora>) -> Self {
        Self { corpora }
    }
}

#[tonic::async_trait]
impl v1::data_server::Data for DataService {
    type ReadUnitStream = Pin<Box<dyn Stream<Item = Result<v1::UnitChunk, Status>> + Send>>;

    async fn read_unit(&self, request: Request<v1::ReadUnitRequest>) -> Result<Response<Self::ReadUnitStream>, Status> {
        let v1::ReadUnitRequest { run, file, row_group, first_row, rows } = request.into_inner();
        let opened = self.corpora.of(&run).await?;
        let unit = Unit { file, row_group, first_row, rows };
        if first_row.checked_add(rows).is_none() {
            return Err(Failure::new(FailureKind::Invalid, format!("no such unit: {unit:?}")).into());
        }
        let bytes = blocking(move || {
            let batch = opened.corpus.source().read(&unit).map_err(|error| failure(&error))?;
            let write = || -> Result<Vec<u8>, arrow::error::ArrowError> {
                let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
                writer.write(&batch)?;
                writer.into_inner()
            };
            write().map_err(|error| Failure::new(FailureKind::Internal, format!("unit {unit:?} as Arrow IPC: {error}")))
        })
        .await?;
        let chunks: Vec<_> = bytes.chunks(CHUNK).map(|data| Ok(v1::UnitChunk { data: data.to_vec() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        let opened = self.corpora.of(&request.into_inner().run).await?;
        let file = |file: &corpus::CorpusFile| v1::CorpusFile {
            path: file.path.clone(),
            bytes: file.bytes,
            row_group_rows: file.row_group_rows.clone(),
            held_out: file.held_out,
        };
        Ok(Response::new(v1::DescribeResponse { files: opened.corpus.files().iter().map(file).collect() }))
    }

    async fn tokenizer(&self, request: Request<v1::DescribeRequest>) -> Result<Response<v1::TokenizerFile>, Status> {
        let opened = self.corpora.of(&request.into_inner().run).await?;
        let contents = opened.tokenizer.bytes().to_vec();
        Ok(Response::new(v1::TokenizerFile { name: "tokenizer.json".to_owned(), contents }))
    }
}
