//! The wire side of checkpoints.

use super::{Repository, failure};
use crate::server::clock::Clock;
use crate::server::on_thread::OnThread;
use crate::server::refusals::{Kind as Refused, Refusals};
use crate::server::runs::find_with_checkpoint;
use crate::server::{request, wire};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use proto::v1::upload_part::Kind;
use proto::{Failure, FailureKind, v1};
use std::pin::Pin;
use std::sync::Arc;
use store::{CheckpointError, CheckpointFile, CheckpointId, Manifest, Reader, Shard, ShardOutcome};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use types::{Digest, Rank, WorldSize};

/// Bytes in one message of a download.
const CHUNK: usize = 1 << 20;

/// Serves `trireme.v1.Checkpoints`.
#[derive(Debug)]
pub struct CheckpointsService {
    repository: Arc<Repository>,
    reader: OnThread<Reader>,
    refusals: Arc<Refusals>,
}

impl CheckpointsService {
    /// Over the repository.
    pub fn new(repository: Arc<Repository>, reader: OnThread<Reader>, refusals: Arc<Refusals>) -> Self {
        Self { repository, reader, refusals }
    }

    /// Whether `worker` may write to a checkpoint; a refusal is counted.
    async fn admit(&self, id: &CheckpointId, worker: &str) -> Result<(), Failure> {
        self.repository.admit(id).await.inspect_err(|failure| {
            if failure.kind == FailureKind::Fenced {
                self.refusals.count(&id.run, id.generation, Refused::Upload, worker);
            }
        })
    }

    /// A reference as people write it: the run as [`find_with_checkpoint`] takes it; generation 0 is the newest one of
    /// that step, and step 0 with it the newest of all.
    async fn resolve(&self, reference: Option<v1::CheckpointRef>) -> Result<CheckpointId, Failure> {
        let reference = request::checkpoint(reference)?;
        if reference.generation > 0 {
            return wire::checkpoint_id(&reference);
        }
        let (row, _) = find_with_checkpoint(&self.reader, &reference.run).await?;
        let (run, step) = (row.id.clone(), reference.step);
        let rows = self.reader.call(move |reader| reader.checkpoints(&run)).await.map_err(wire::database_failure)?;
        let known: Vec<String> = rows.iter().map(|row| row.id.step.to_string()).collect();
        let found = rows.into_iter().rev().find(|row| step == 0 || row.id.step.0 == step);
        found.map(|row| row.id).ok_or_else(|| {
            let message = match known.as_slice() {
                [] => format!("run {} has no checkpoint yet", row.id),
                _ => format!("run {} has no checkpoint at step {step}, only at {}", row.id, known.join(", ")),
            };
            Failure::new(FailureKind::NotFound, message)
        })
    }
}

fn required(digest: &[u8]) -> Result<Digest, Failure> {
    proto::convert::digest(digest)?
        .ok_or_else(|| Failure::new(FailureKind::Invalid, "a file of a checkpoint comes with its blake3"))
}

fn manifest(manifest: &Manifest) -> v1::CheckpointManifest {
    let file = |file: &CheckpointFile| v1::CheckpointFile {
        name: file.name.clone(),
        bytes: file.bytes,
        blake3: file.blake3.0.to_vec(),
    };
    v1::CheckpointManifest {
        checkpoint: Some(wire::checkpoint_ref(&manifest.id)),
        files: manifest.files.iter().map(file).collect(),
    }
}

/// The bytes of an upload, in order and without gaps.
fn contents(parts: Streaming<v1::UploadPart>) -> impl Stream<Item = Result<Bytes, Status>> + Send + Unpin {
    let invalid = |message: String| Status::from(Failure::new(FailureKind::Invalid, message));
    let mut expected = 0_u64;
    Box::pin(parts.map(move |part| match part?.kind {
        Some(Kind::Chunk(v1::Chunk { offset, data })) if offset == expected => {
            expected += data.len() as u64;
            Ok(Bytes::from(data))
        }
        Some(Kind::Chunk(v1::Chunk { offset, .. })) => {
            Err(invalid(format!("a chunk at byte {offset} came where byte {expected} was due")))
        }
        _ => Err(invalid("after the header come chunks only".to_owned())),
    }))
}

#[tonic::async_trait]
impl v1::checkpoints_server::Checkpoints for CheckpointsService {
    async fn upload(&self, request: Request<Streaming<v1::UploadPart>>) -> Result<Response<v1::UploadResult>, Status> {
        let mut parts = request.into_inner();
        let Some(v1::UploadPart { kind: Some(Kind::Header(header)) }) = parts.message().await? else {
            return Err(Failure::new(FailureKind::Invalid, "an upload begins with its header").into());
        };
        let id = wire::checkpoint_id(&request::checkpoint(header.checkpoint)?)?;
        self.admit(&id, &header.worker).await?;
        let file = CheckpointFile { name: header.file, bytes: header.bytes, blake3: required(&header.blake3)? };
        if let Err(error) = self.repository.store().put_file(&id, &file, contents(parts)).await {
            tracing::warn!(checkpoint = %id, file = file.name, worker = header.worker, %error, "upload failed");
            self.repository.not_stored(&id, &error).await;
            return Err(failure(error).into());
        }
        Ok(Response::new(v1::UploadResult {}))
    }

    async fn complete_shard(
        &self,
        request: Request<v1::CompleteShardRequest>,
    ) -> Result<Response<v1::CompleteShardResult>, Status> {
        let request = request.into_inner();
        let id = wire::checkpoint_id(&request::checkpoint(request.checkpoint)?)?;
        self.admit(&id, &request.worker).await?;
        let mut files = Vec::with_capacity(request.files.len());
        for v1::CheckpointFile { name, bytes, blake3 } in request.files {
            files.push(CheckpointFile { name, bytes, blake3: required(&blake3)? });
        }
        let shard = Shard {
            rank: Rank(request.rank),
            world: WorldSize(request.world),
            files,
            eval_loss: request.eval_loss,
            score: request.score,
            weights_digest: proto::convert::digest(&request.weights_digest)?,
        };
        let committed = match self.repository.store().complete_shard(&id, &shard, Clock::wall_ms()).await {
            Err(error) => {
                tracing::warn!(checkpoint = %id, worker = request.worker, %error, "a share was not completed");
                self.repository.not_stored(&id, &error).await;
                return Err(failure(error).into());
            }
            Ok(ShardOutcome::Waiting { .. }) => false,
            Ok(ShardOutcome::Committed(manifest)) => {
                self.repository.committed(&manifest).await?;
                true
            }
            Ok(ShardOutcome::AlreadyCommitted(manifest)) => {
                if !self.repository.is_known(&manifest.id).await? {
                    self.repository.committed(&manifest).await?;
                }
                true
            }
        };
        Ok(Response::new(v1::CompleteShardResult { committed }))
    }

    async fn manifest(&self, request: Request<v1::CheckpointRef>) -> Result<Response<v1::CheckpointManifest>, Status> {
        let id = self.resolve(Some(request.into_inner())).await?;
        match self.repository.store().manifest(&id).await {
            Ok(found) => Ok(Response::new(manifest(&found))),
            Err(error) => Err(self.repository.unreadable(&id, error).await.into()),
        }
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let v1::DownloadRequest { checkpoint, file } = request.into_inner();
        let id = self.resolve(checkpoint).await?;
        let (described, mut content) = match self.repository.store().open_file(&id, &file).await {
            Ok(opened) => opened,
            Err(error) => return Err(self.repository.unreadable(&id, error).await.into()),
        };
        let (chunks, stream) = mpsc::channel(4);
        let repository = Arc::clone(&self.repository);
        tokio::spawn(async move {
            let mut offset = 0_u64;
            let mut buffer = BytesMut::with_capacity(CHUNK);
            let mut found = blake3::Hasher::new();
            loop {
                let part = match content.next().await {
                    Some(Ok(part)) => Some(part),
                    Some(Err(error)) => {
                        let _ = chunks.send(Err(failure(error).into())).await;
                        return;
                    }
                    None if Digest(*found.finalize().as_bytes()) != described.blake3 => {
                        let problem = described.altered(Digest(*found.finalize().as_bytes()));
                        let error = CheckpointError::Damaged { checkpoint: id.clone(), problems: vec![problem] };
                        // First what follows from it, so that who asks again is not sent here again.
                        let failure = repository.unreadable(&id, error).await;
                        let _ = chunks.send(Err(failure.into())).await;
                        return;
                    }
                    None => None,
                };
                found.update(part.as_deref().unwrap_or_default());
                let last = part.is_none();
                buffer.extend_from_slice(&part.unwrap_or_default());
                while buffer.len() >= CHUNK || (last && !buffer.is_empty()) {
                    let data = buffer.split_to(buffer.len().min(CHUNK)).to_vec();
                    let next = offset + data.len() as u64;
                    if chunks.send(Ok(v1::Chunk { offset, data })).await.is_err() {
                        return;
                    }
                    offset = next;
                }
                if last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let (run, note) = find_with_checkpoint(&self.reader, &request.into_inner().run).await?;
        let id = run.id.clone();
        let rows = self.reader.call(move |reader| reader.checkpoints(&id)).await.map_err(wire::database_failure)?;
        let checkpoints = wire::checkpoints(&rows, &run.config);
        let (run, note) = (run.id.into(), note.unwrap_or_default());
        Ok(Response::new(v1::ListCheckpointsResponse { checkpoints, run, note }))
    }

    async fn verify(
        &self,
        request: Request<v1::CheckpointRef>,
    ) -> Result<Response<v1::VerifyCheckpointResponse>, Status> {
        let id = self.resolve(Some(request.into_inner())).await?;
        let problems = self.repository.store().verify(&id).await.map_err(failure)?;
        self.repository.verified(&id, &problems).await?;
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::VerifyCheckpointResponse { ok: problems.is_empty(), problems }))
    }
}
