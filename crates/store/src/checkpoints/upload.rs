//! Writing one file: streamed, counted and hashed on the way, visible only when all of it is right and durable.

use super::{CheckpointError, CheckpointFile, CheckpointId, CheckpointRepository, check_file_name};
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use std::fmt::Display;
use types::Digest;

/// Files up to this size are written at once, larger ones in parts of it. Object stores want parts of 5 MiB or more
/// and at most 10,000 of them. Tests take small ones, to have several.
pub(super) const PART_BYTES: usize = if cfg!(test) { 64 << 10 } else { 16 << 20 };

/// Parts on their way at the same time.
const PARTS_IN_FLIGHT: usize = 3;

impl CheckpointRepository {
    /// Writes one file of a checkpoint that is not committed yet. When this returns, the file is durable and has the
    /// announced size and hash. Sending a file again replaces it.
    ///
    /// # Errors
    /// A full disk, bytes that are not those announced, a sender that went away, a store that fails, a checkpoint that
    /// is committed already with another such file. Nothing half-written is visible after any of them.
    pub async fn put_file<E: Display>(
        &self,
        id: &CheckpointId,
        file: &CheckpointFile,
        content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), CheckpointError> {
        check_file_name(&file.name)?;
        match self.manifest(id).await {
            // A retry after an answer that was lost.
            Ok(manifest) if manifest.file(&file.name) == Some(file) => return Ok(()),
            Ok(_) => {
                let message = format!("it is committed already, and `{}` is not part of it", file.name);
                return Err(CheckpointError::Shard { checkpoint: id.clone(), message });
            }
            Err(CheckpointError::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
        let shown = self.shown(id, &file.name);
        self.space_for(&shown, file.bytes)?;
        let path = self.path(id, &file.name);
        let content = Checked { content, file, shown: &shown, hasher: blake3::Hasher::new(), bytes: 0 };
        let result = if file.bytes <= PART_BYTES as u64 {
            self.put_whole(&path, content).await
        } else {
            self.put_parts(&path, content).await
        };
        if let (Err(_), Some(local)) = (&result, &self.local) {
            local.sweep(&path);
        }
        result
    }

    async fn put_whole<E: Display>(
        &self,
        path: &Path,
        mut content: Checked<'_, impl Stream<Item = Result<Bytes, E>> + Unpin>,
    ) -> Result<(), CheckpointError> {
        let mut chunks = Vec::new();
        while let Some(chunk) = content.next().await? {
            chunks.push(chunk);
        }
        let (shown, bytes) = (content.shown, content.file.bytes);
        let written = self.store.put(path, PutPayload::from_iter(chunks)).await;
        written.map(drop).map_err(|error| CheckpointError::writing(shown, bytes, self.free_bytes(), &error))
    }

    async fn put_parts<E: Display>(
        &self,
        path: &Path,
        content: Checked<'_, impl Stream<Item = Result<Bytes, E>> + Unpin>,
    ) -> Result<(), CheckpointError> {
        let (shown, bytes) = (content.shown, content.file.bytes);
        let failed = |error| CheckpointError::writing(shown, bytes, self.free_bytes(), &error);
        let mut upload = self.store.put_multipart(path).await.map_err(failed)?;
        let result = match send_parts(&mut *upload, content, failed).await {
            Ok(()) => upload.complete().await.map(drop).map_err(failed),
            Err(error) => Err(error),
        };
        if result.is_err()
            && let Err(error) = upload.abort().await
        {
            // Its parts are invisible; a bucket should have a rule that removes such leftovers.
            tracing::debug!(path = shown, %error, "cannot abort an upload");
        }
        result
    }
}

async fn send_parts<E: Display>(
    upload: &mut dyn MultipartUpload,
    mut content: Checked<'_, impl Stream<Item = Result<Bytes, E>> + Unpin>,
    failed: impl Fn(object_store::Error) -> CheckpointError,
) -> Result<(), CheckpointError> {
    let mut in_flight = FuturesUnordered::new();
    let (mut part, mut part_bytes) = (Vec::new(), 0);
    loop {
        let chunk = content.next().await?;
        let last = chunk.is_none();
        let mut chunk = chunk.unwrap_or_default();
        // All parts but the last have the same size, as some stores demand.
        while part_bytes + chunk.len() >= PART_BYTES {
            part.push(chunk.split_to(PART_BYTES - part_bytes));
            part_bytes = 0;
            in_flight.push(upload.put_part(PutPayload::from_iter(std::mem::take(&mut part))));
            if in_flight.len() >= PARTS_IN_FLIGHT {
                in_flight.try_next().await.map_err(&failed)?;
            }
        }
        part_bytes += chunk.len();
        part.push(chunk);
        if last {
            break;
        }
    }
    if part_bytes > 0 {
        in_flight.push(upload.put_part(PutPayload::from_iter(part)));
    }
    while in_flight.try_next().await.map_err(&failed)?.is_some() {}
    Ok(())
}

/// Counts and hashes what passes, and compares at the end.
struct Checked<'a, S> {
    content: S,
    file: &'a CheckpointFile,
    shown: &'a str,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<S: Stream<Item = Result<Bytes, E>> + Unpin, E: Display> Checked<'_, S> {
    /// The next chunk; `None` at the end of a file that is as announced.
    async fn next(&mut self) -> Result<Option<Bytes>, CheckpointError> {
        let refused = |message| CheckpointError::Content { path: self.shown.to_owned(), message };
        match self.content.next().await {
            Some(Ok(chunk)) => {
                self.bytes += chunk.len() as u64;
                // At once, before a sender without end fills memory or disk.
                if self.bytes > self.file.bytes {
                    return Err(refused(format!("{} bytes were announced, but more came", self.file.bytes)));
                }
                self.hasher.update(&chunk);
                Ok(Some(chunk))
            }
            Some(Err(error)) => {
                Err(CheckpointError::Interrupted { path: self.shown.to_owned(), message: error.to_string() })
            }
            None if self.bytes < self.file.bytes => Err(CheckpointError::Interrupted {
                path: self.shown.to_owned(),
                message: format!("{} of {} bytes came", self.bytes, self.file.bytes),
            }),
            None => {
                let found = Digest(*self.hasher.finalize().as_bytes());
                if found == self.file.blake3 {
                    Ok(None)
                } else {
                    Err(refused(format!("its blake3 is {found}, but {} was announced", self.file.blake3)))
                }
            }
        }
    }
}
