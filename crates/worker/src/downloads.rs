//! Checkpoints from the coordinator: every file with its size and hash checked.

use crate::connect::Coordinator;
use proto::v1::{CheckpointFile, CheckpointRef, DownloadRequest};
use proto::{Failure, FailureKind};
use std::collections::BTreeMap;
use tonic::Status;

/// The files of a committed checkpoint whose names `wanted` says yes to, by name. `transferred` hears of
/// every piece, and of the beginning.
pub async fn checkpoint(
    coordinator: &Coordinator,
    checkpoint: &CheckpointRef,
    wanted: impl Fn(&str) -> bool,
    transferred: impl Fn(),
) -> Result<BTreeMap<String, Vec<u8>>, Status> {
    transferred();
    let manifest = coordinator.checkpoints().manifest(checkpoint.clone()).await?.into_inner();
    let mut files = BTreeMap::new();
    for file in manifest.files.into_iter().filter(|file| wanted(&file.name)) {
        let contents = download(coordinator, checkpoint, &file, &transferred).await?;
        files.insert(file.name, contents);
    }
    Ok(files)
}

async fn download(
    coordinator: &Coordinator,
    checkpoint: &CheckpointRef,
    file: &CheckpointFile,
    transferred: impl Fn(),
) -> Result<Vec<u8>, Status> {
    let CheckpointRef { run, step, .. } = checkpoint;
    let corrupt = |what: String| {
        let message = format!("checkpoint of run {run} at step {step}, {}: {what}", file.name);
        Status::from(Failure::new(FailureKind::Corrupt, message))
    };
    let request = DownloadRequest { checkpoint: Some(checkpoint.clone()), file: file.name.clone() };
    let mut chunks = coordinator.checkpoints().download(request).await?.into_inner();
    let mut contents = Vec::with_capacity(usize::try_from(file.bytes).unwrap_or(0).min(1 << 32));
    while let Some(chunk) = chunks.message().await? {
        if chunk.offset != contents.len() as u64 {
            return Err(corrupt(format!("byte {} came after byte {}", chunk.offset, contents.len())));
        }
        contents.extend_from_slice(&chunk.data);
        transferred();
    }
    if contents.len() as u64 != file.bytes {
        return Err(corrupt(format!("{} bytes of {} arrived", contents.len(), file.bytes)));
    }
    if blake3::hash(&contents).as_bytes().as_slice() != file.blake3 {
        return Err(corrupt("its bytes are not those that were written (blake3)".to_owned()));
    }
    Ok(contents)
}
